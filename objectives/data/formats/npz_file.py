"""Reads npz files of numpy, without pickle: what is in one, and which of its arrays are images and labels.

The headers are read first, so that a file that cannot be used is refused before gigabytes are loaded.
"""

import contextlib
import re
import shlex
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from objectives.base import DatasetError
from objectives.data.files.memory import available_bytes
from objectives.data.splits import listed

SPLITS = {"train": "training", "training": "training", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation", "dev"), "validation"
)
"""Words in keys that name a split."""
IMAGES = frozenset(("images", "image", "imgs", "x", "data", "pixels"))
LABELS = frozenset(("labels", "label", "y", "targets", "target"))
CLASSES = ("classes", "class_names", "label_names", "target_names")
"""Keys of the names of the classes, by index."""
LAYOUTS = (
    "train_images and train_labels, with val_images, val_labels, test_images and test_labels if there are any; x_train "
    "and y_train, with x_val, y_val, x_test and y_test if there are any; or images and labels"
)


class Header(NamedTuple):
    """Shape and type of an array that is not loaded yet."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    @property
    def n_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Pair(NamedTuple):
    """The keys of a split's images and labels."""

    images: str
    labels: str


class Archive(NamedTuple):
    """An npz file whose arrays have been found but not loaded."""

    path: Path
    headers: Mapping[str, Header]
    training: Pair
    validation: Pair | None
    test: Pair | None
    class_names: str | None
    """The key of the names of the classes."""
    notes: list[str]
    """Sentences about arrays that are not used."""

    @property
    def name(self) -> str:
        """The dataset's name, for messages."""
        return f"npz:{self.path}"

    def read(self, key: str) -> NDArray[np.generic]:
        """Load an array. Raises DatasetError."""
        needed, available = self.headers[key].n_bytes, available_bytes()
        if available is not None and needed > available:
            raise DatasetError(
                f"{self.name}: {key} needs {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are free; "
                "save smaller images, or images as uint8"
            )
        with reading(self.path), np.load(self.path, allow_pickle=False) as file:
            values: NDArray[np.generic] = file[key]
        return values


def open_archive(path: Path) -> Archive:
    """Read the headers of an npz file and find its splits. Raises DatasetError."""
    with reading(path):
        headers = dict(_headers(path))
    roles = _roles(path, headers)
    notes = []
    if ("training", "images") not in roles and ("training", "labels") not in roles:
        for role in ("images", "labels"):
            if ("", role) in roles:
                roles["training", role] = roles.pop(("", role))
    pairs: dict[str, Pair] = {}
    for split in ("training", "validation", "test"):
        images, labels = roles.get((split, "images")), roles.get((split, "labels"))
        if images and labels:
            pair = Pair(images, labels)
            _check_pair(path, headers, pair)
            if split == "training" or headers[images].shape[0]:
                pairs[split] = pair
            else:
                notes.append(f"{images} is empty and is not used")
        elif split != "training" and (alone := images or labels):
            notes.append(f"{alone} has no {'labels' if images else 'images'} and is not used")
    if "training" not in pairs:
        shapes = [f"{key} {header.shape}" for key, header in headers.items()]
        content = f"{listed(shapes, str)}, but no images with labels to train on" if shapes else "no arrays"
        raise DatasetError(
            f"npz:{path} has {content}. Their names may be {LAYOUTS}. Save it again, for example with "
            "numpy.savez_compressed('images.npz', images=images, labels=labels)"
        )
    training = pairs["training"]
    if unused := [roles["", role] for role in ("images", "labels") if ("", role) in roles]:
        notes.append(f"not used beside {training.images} and {training.labels}: {', '.join(unused)}")
    known = {*roles.values(), *(key for key in headers if key.lower() in CLASSES)}
    if others := [key for key in headers if key not in known]:
        notes.append(f"not used, because the names are unknown: {listed(others, str)}")
    names = _class_names(path, headers, training, notes)
    return Archive(path, headers, training, pairs.get("validation"), pairs.get("test"), names, notes)


def _class_names(path: Path, headers: Mapping[str, Header], training: Pair, notes: list[str]) -> str | None:
    """The key of the names of the classes. Raises DatasetError."""
    for key in (key for name in CLASSES for key in headers if key.lower() == name):
        if headers[key].shape[:1] != headers[training.images].shape[:1]:  # a class has several images
            _refuse_objects(path, headers, key, f"{key}.astype(str)")
            return key
        notes.append(f"{key} is not used: it has an entry for each image, not for each class")
    return None


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into a DatasetError."""
    advice = "copy it again, or save it again with numpy.savez_compressed(path, images=images, labels=labels)"
    try:
        yield
    except MemoryError:
        raise DatasetError(f"npz:{path} does not fit in memory; save smaller images, as uint8") from None
    except PermissionError:
        raise DatasetError(f"you may not read npz:{path}; type chmod u+r {shlex.quote(str(path))}") from None
    except RuntimeError as error:  # of encrypted members
        raise DatasetError(f"npz:{path} cannot be read: {error}; save it without a password") from None
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
        raise DatasetError(f"npz:{path} is damaged or cannot be read: {reason}; {advice}") from None


def _headers(path: Path) -> Iterator[tuple[str, Header]]:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            beginning = file.read(len(npy.MAGIC_PREFIX))
        if beginning == npy.MAGIC_PREFIX:
            raise DatasetError(
                f"npz:{path} is an .npy file, which holds one array; save images and labels in one file with "
                "numpy.savez_compressed('images.npz', images=images, labels=labels)"
            )
        raise ValueError("it is not an npz file of numpy" if beginning else "it is empty")
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                continue
            with archive.open(info) as file:
                version = npy.read_magic(file)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = read(file)
            yield info.filename.removesuffix(".npy"), Header(tuple(shape), dtype)


def _roles(path: Path, headers: Mapping[str, Header]) -> dict[tuple[str, str], str]:
    """The keys by split, empty for none, and by "images" and "labels"."""
    roles: dict[tuple[str, str], str] = {}
    for key in headers:
        words = re.sub(r"^([xy])(?=train|val|test)", r"\1_", key.lower()).split("_")
        kinds = ["images" if word in IMAGES else "labels" for word in words if word in IMAGES | LABELS]
        splits = [SPLITS[word] for word in words if word in SPLITS]
        if len(kinds) != 1 or len(splits) > 1 or len(words) != len(kinds) + len(splits):
            continue
        role = (splits[0] if splits else "", kinds[0])
        if role in roles:
            raise DatasetError(
                f"npz:{path} holds {roles[role]} and {key}, and one of them is enough; save it again with one of them"
            )
        roles[role] = key
    return roles


def _check_pair(path: Path, headers: Mapping[str, Header], pair: Pair) -> None:
    """Raise DatasetError for arrays of objects, and for images and labels that do not belong together."""
    images, labels = headers[pair.images], headers[pair.labels]
    _refuse_objects(path, headers, pair.images, f"numpy.stack(list({pair.images})), with all images of one size,")
    _refuse_objects(path, headers, pair.labels, f"{pair.labels}.astype(str)")
    if not images.shape or not labels.shape or images.shape[0] != labels.shape[0]:
        raise DatasetError(
            f"npz:{path}: {pair.images} has the shape {images.shape} and {pair.labels} {labels.shape}; there must be "
            "one label for each image"
        )


def _refuse_objects(path: Path, headers: Mapping[str, Header], key: str, advice: str) -> None:
    if headers[key].dtype.hasobject:
        raise DatasetError(
            f"npz:{path}: {key} holds Python objects, and loading those could run code; save {advice} instead"
        )
