"""MNIST, Fashion-MNIST and KMNIST: torchvision downloads and parses their files, and arrays are made of them.

torchvision is imported only when files are missing or arrays have not been made. The test files are opened by
`prepare(..., "test", ...)` alone.
"""

import contextlib
import hashlib
import io
import logging
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from objectives.base import DatasetError, DatasetUnavailableError
from objectives.data import arrays
from objectives.data.files.resizing import resize
from objectives.data.splits import Labelled

DIGIT_CLASSES = tuple("0123456789")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
KANA = ("o (お)", "ki (き)", "su (す)", "tsu (つ)", "na (な)", "ha (は)", "ma (ま)", "ya (や)", "re (れ)", "wo (を)")
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
FILES = tuple(MNIST_MD5)
TRAIN_FILES, TEST_FILES = FILES[:2], FILES[2:]
VALIDATION_SHARE = 6
"""Validation takes one training image of this many."""
MIRROR_VARIABLE = "SEARCH_DATA_MIRROR"
MIRROR_TIMEOUT_S = 4.0
"""How long a mirror may stay silent. MNIST has two mirrors."""

_log = logging.getLogger(__name__)


class MnistVariant(NamedTuple):
    """A dataset in MNIST's file format, as torchvision stores it."""

    torchvision_class: str
    classes: tuple[str, ...]
    content_fraction: float | None
    """As in `objectives.data.files.image_files.Framing`."""


VARIANTS = {
    "mnist": MnistVariant("MNIST", DIGIT_CLASSES, content_fraction=20 / 28),
    "fashion-mnist": MnistVariant("FashionMNIST", CLOTHES, content_fraction=None),
    "kmnist": MnistVariant("KMNIST", KANA, content_fraction=1.0),
}


def prepare(
    kind: str, part: arrays.Part, data_dir: Path, image_size: int | None = None, *, download: bool
) -> tuple[Path, Path]:
    """Return the folders of one part's arrays and of the raw files. Makes the arrays if necessary.

    image_size: pixels a side; None: 28.
    Raises DatasetUnavailableError when files are missing, and DatasetError when one is damaged.
    """
    raw = raw_folder(kind, data_dir, download=download)
    files = [raw / name for name in (TRAIN_FILES if part == "pool" else TEST_FILES)]
    head = f"1 {kind}" if image_size is None else f"1 {kind} {image_size}"
    name = f"arrays/{kind}-{part}-{arrays.cache_key(head, {part: {file: file.stat() for file in files}}, raw)}"
    prepared = arrays.find(data_dir, name)
    if prepared is None:
        classes = VARIANTS[kind].classes
        images, labels = _read_files(files[0], files[1], len(classes), MNIST_MD5 if kind == "mnist" else {})
        images, original = resize(images, image_size)
        prepared = arrays.store(
            data_dir, name, {part: (images, labels)}, {"classes": classes, "original_size": original}
        )
    return prepared, raw


def raw_folder(kind: str, data_dir: Path, *, download: bool) -> Path:
    """Return the folder of the four unpacked files. Raises DatasetUnavailableError when some are missing."""
    folder = VARIANTS[kind].torchvision_class
    raws = [base / folder / "raw" for base in (data_dir, *arrays.base_folders(data_dir))]
    missing = [[file for file in FILES if not (raw / file).is_file()] for raw in raws]
    if [] in missing:
        return raws[missing.index([])]
    reason = "downloading was not allowed"
    for base in arrays.base_folders(data_dir) if download else ():
        try:
            return _download(folder, base)
        except DatasetUnavailableError as error:
            reason = str(error)
            break
        except OSError as error:  # the next folder may be writable
            reason = str(error)
    reason = reason.removesuffix(".")
    absent = f" ({', '.join(missing[0])} missing)" if len(missing[0]) < len(FILES) else ""
    raise DatasetUnavailableError(
        f"{kind} is not in {raws[0]}{absent} and cannot be downloaded: {reason}. "
        f"Put the unpacked files there, name the folder that holds {folder}/raw with --data-dir, "
        "or type --dataset digits, which needs no download"
    )


def _download(name: str, base: Path) -> Path:
    """Download and unpack the four files. Each appears in its folder when it is complete."""
    from torchvision import datasets  # type: ignore[import-untyped, unused-ignore]

    raw = base / name / "raw"
    base.mkdir(parents=True, exist_ok=True)
    dataset_class: Any = getattr(datasets, name)
    reasons = []
    _log.info("downloading %s to %s", name, raw)
    for mirror in filter(None, (os.environ.get(MIRROR_VARIABLE), *dataset_class.mirrors)):
        with tempfile.TemporaryDirectory(dir=base, prefix=".download-") as temporary:
            try:
                _download_from(mirror, dataset_class, temporary)
            except Exception as error:  # of torchvision, urllib or gzip
                reasons.append(f"{mirror}: {download_reason(error)}")
                continue
            raw.mkdir(parents=True, exist_ok=True)
            for file in FILES:
                os.replace(Path(temporary, name, "raw", file), raw / file)
            return raw
    raise DatasetUnavailableError("; ".join(reasons))


def download_reason(error: Exception) -> str:
    """Return the reason in torchvision's message, such as `Connection refused`."""
    message = " ".join(str(error).split()).rpartition("got: ")[2]
    return re.sub(r"^<urlopen error (?:\[Errno -?\d+\] )?(.*)>$", r"\1", message) or type(error).__name__


def _download_from(mirror: str, dataset_class: Any, folder: str) -> None:
    """Let torchvision download from one mirror. With several, it would give up after the first timeout."""
    one_mirror = type(dataset_class.__name__, (dataset_class,), {"mirrors": [mirror.rstrip("/") + "/"]})
    with downloading(MIRROR_TIMEOUT_S):
        one_mirror(folder, download=True)


@contextlib.contextmanager
def downloading(timeout_s: float) -> Iterator[None]:
    """Let torchvision print nothing, and its connections fail after `timeout_s` of silence."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout_s)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _read_files(images_file: Path, labels_file: Path, n_classes: int, md5: dict[str, str]) -> Labelled:
    """Read and verify a file of images and one of labels. Raises DatasetError."""
    from torchvision.datasets import mnist  # type: ignore[import-untyped, unused-ignore]

    images = _read_file(images_file, mnist.read_image_file, md5.get(images_file.name))
    labels = _read_file(labels_file, mnist.read_label_file, md5.get(labels_file.name))
    if len(images) != len(labels):
        raise _damaged(images_file, f"it holds {len(images)} images, and {labels_file.name} {len(labels)} labels")
    if (largest := int(labels.max())) >= n_classes:
        raise _damaged(labels_file, f"it has a label {largest}, expected 0 to {n_classes - 1}")
    return images[:, None], labels.astype(np.int64)


def _read_file(path: Path, parse: Callable[[str], Any], md5: str | None) -> NDArray[Any]:
    try:
        if md5 is not None and (actual := hashlib.md5(path.read_bytes()).hexdigest()) != md5:
            raise ValueError(f"expected MD5 {md5}, got {actual} for {path.stat().st_size} bytes")
        values: NDArray[Any] = parse(str(path)).numpy()
        if values.size == 0:
            raise ValueError("it is empty")
    except Exception as error:  # torchvision's parser asserts, looks up and reshapes
        raise _damaged(path, str(error) or "it is not in MNIST's format") from None
    return values


def count_test_images(raw: Path) -> int:
    """Count the test images by the sizes of the two files, which are not opened. Raises DatasetError for a mismatch."""
    images, labels = (raw / name for name in TEST_FILES)
    n_images, rest = divmod(images.stat().st_size - 16, 28 * 28)
    n_labels = labels.stat().st_size - 8
    if rest or n_images < 1 or n_images != n_labels:
        raise _damaged(images, f"its size is that of {n_images} images, and {labels.name} holds {n_labels} labels")
    return n_images


def _damaged(path: Path, reason: str) -> DatasetError:
    return DatasetError(
        f"{path} is damaged: {reason}; delete {path} and run again, or name another folder with --data-dir"
    )
