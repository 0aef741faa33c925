"""MNIST, Fashion-MNIST and KMNIST: torchvision downloads and parses their files, and arrays are made of them.

torchvision is imported only when files are missing or arrays have not been made. The test files are opened by
`prepare(..., "test", ...)` alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from objectives.base import DatasetError, DatasetUnavailableError
from objectives.data import arrays
from objectives.data.splits import Labelled

DIGITS = tuple("0123456789")
TRAIN_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
MIRROR_VARIABLE = "SEARCH_DATA_MIRROR"
ANSWER_S = 4.0
"""How long a mirror may stay silent. MNIST has two mirrors."""

_PIXELS = 28 * 28
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Family:
    """A dataset in MNIST's file format, as torchvision lays it out."""

    torchvision_class: str
    classes: tuple[str, ...]
    content_fraction: float | None
    """As in `objectives.data.pictures.Framing`."""
    md5: dict[str, str] = field(default_factory=dict)
    """MD5 of the unpacked files by name, where known."""


FAMILIES = {
    "mnist": Family(
        "MNIST",
        DIGITS,
        content_fraction=20 / 28,
        md5={
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
    ),
    "fashion-mnist": Family(
        "FashionMNIST",
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        content_fraction=None,
    ),
    "kmnist": Family(
        "KMNIST",
        ("o (お)", "ki (き)", "su (す)", "tsu (つ)", "na (な)", "ha (は)", "ma (ま)", "ya (や)", "re (れ)", "wo (を)"),
        content_fraction=1.0,
    ),
}


def prepare(kind: str, part: arrays.Part, data_dir: Path, *, download: bool) -> tuple[Path, Path]:
    """Where the arrays of one part are, and where the files are that they come from. Makes the arrays if necessary.

    For the pool, only the sizes of the test files are looked at, so that damage shows before a search begins.
    Raises DatasetUnavailableError when files are missing, and DatasetError when one is damaged.
    """
    family = FAMILIES[kind]
    raw = raw_folder(kind, data_dir, download=download)
    images, labels = (raw / name for name in (TRAIN_FILES if part == "pool" else TEST_FILES))
    name = f"{kind}-{part}-{arrays.key(f'1 {kind}', {part: [images, labels]}, raw)}"
    places = [base / "arrays" / name for base in arrays.base_folders(data_dir)]
    prepared = arrays.find(places)
    if prepared is None:
        prepared = arrays.store({part: _read(images, labels, family)}, {"classes": family.classes}, places)
    if part == "pool":
        _check_test_sizes(raw)
    return prepared, raw


def raw_folder(kind: str, data_dir: Path, *, download: bool) -> Path:
    """The folder of a family's four unpacked files. Raises DatasetUnavailableError when some are missing."""
    family = FAMILIES[kind]
    raws = [base / family.torchvision_class / "raw" for base in (data_dir, *arrays.base_folders(data_dir))]
    missing = [[file for file in (*TRAIN_FILES, *TEST_FILES) if not (raw / file).is_file()] for raw in raws]
    if [] in missing:
        return raws[missing.index([])]
    why = "downloading was not allowed"
    if download:
        try:
            return _download(family, data_dir)
        except (DatasetUnavailableError, OSError) as error:
            why = str(error)
    raise DatasetUnavailableError(
        f"{kind} is not in {raws[0]} ({', '.join(missing[0])} missing) and cannot be downloaded: {why}. "
        f"Put the unpacked files there, name the folder that holds {family.torchvision_class}/raw with --data-dir, "
        "or type --dataset digits, which needs no download"
    )


def _download(family: Family, data_dir: Path) -> Path:
    """Download and unpack the four files. Each appears in its folder when it is complete."""
    from torchvision import datasets  # type: ignore[import-untyped, unused-ignore]

    base = next((base for base in arrays.base_folders(data_dir) if _writable(base)), None)
    if base is None:
        raise DatasetUnavailableError(f"{data_dir} cannot be written")
    raw = base / family.torchvision_class / "raw"
    listed: Any = getattr(datasets, family.torchvision_class)
    own = os.environ.get(MIRROR_VARIABLE)
    reasons = []
    _log.info("downloading %s to %s", family.torchvision_class, raw)
    for mirror in [own, *listed.mirrors] if own else listed.mirrors:
        with tempfile.TemporaryDirectory(dir=base, prefix=".download-") as temporary:
            try:
                _download_from(mirror, listed, temporary)
            except Exception as error:  # of torchvision, urllib or gzip
                said = " ".join(str(error).split()).rpartition("got: ")[2]
                reasons.append(f"{mirror}: {said or type(error).__name__}")
                continue
            raw.mkdir(parents=True, exist_ok=True)
            for name in (*TRAIN_FILES, *TEST_FILES):
                os.replace(Path(temporary, family.torchvision_class, "raw", name), raw / name)
            return raw
    raise DatasetUnavailableError("; ".join(reasons))


def _download_from(mirror: str, listed: Any, folder: str) -> None:
    """Have torchvision's class download to `folder` from one mirror. It would not go on to a second after a timeout."""
    one_mirror = type(listed.__name__, (listed,), {"mirrors": [mirror.rstrip("/") + "/"]})
    with _socket_timeout(ANSWER_S), contextlib.redirect_stdout(io.StringIO()):
        one_mirror(folder, download=True)


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _read(images_file: Path, labels_file: Path, family: Family) -> Labelled:
    """Read and verify a file of images and one of labels."""
    from torchvision.datasets import mnist  # type: ignore[import-untyped, unused-ignore]

    for path in (images_file, labels_file):
        _check_md5(path, family.md5.get(path.name))
    images, labels = _parse(images_file, mnist.read_image_file), _parse(labels_file, mnist.read_label_file)
    if len(images) != len(labels):
        raise _damaged(images_file, f"it holds {len(images)} images, and {labels_file.name} {len(labels)} labels")
    if int(labels.max()) >= len(family.classes):
        largest = len(family.classes) - 1
        raise _damaged(labels_file, f"it has a label {int(labels.max())}, expected 0 to {largest}")
    return images[:, None], labels.astype(np.int64)


def _parse(path: Path, parse: Callable[[str], Any]) -> NDArray[Any]:
    try:
        values: NDArray[Any] = parse(str(path)).numpy()
    except OSError as error:
        raise _unreadable(path, error) from None
    except Exception as error:  # torchvision's parser asserts, looks up and reshapes
        said = str(error) or type(error).__name__
        raise _damaged(path, f"its {path.stat().st_size} bytes are not in MNIST's format ({said})") from None
    if values.size == 0:
        raise _damaged(path, "it is empty")
    return values


def _check_md5(path: Path, expected: str | None) -> None:
    if expected is None:
        return
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None
    if found != expected:
        raise _damaged(path, f"expected MD5 {expected}, found {found} in {path.stat().st_size} bytes")


def _check_test_sizes(raw: Path) -> None:
    """Raise DatasetError when the sizes of the two test files do not match."""
    images, labels = (raw / name for name in TEST_FILES)
    n_images, rest = divmod(images.stat().st_size - 16, _PIXELS)
    n_labels = labels.stat().st_size - 8
    if rest or n_images < 1 or n_images != n_labels:
        raise _damaged(images, f"its size is that of {n_images} images, and {labels.name} holds {n_labels} labels")


def _unreadable(path: Path, error: OSError) -> DatasetError:
    return DatasetError(f"{path} cannot be read ({error.strerror}); make it readable, or {_way_out(path)}")


def _damaged(path: Path, how: str) -> DatasetError:
    return DatasetError(f"{path} is damaged: {how}; {_way_out(path)}")


def _way_out(path: Path) -> str:
    return f"delete {path} and run again, or name another folder with --data-dir"
