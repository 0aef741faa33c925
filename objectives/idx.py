"""Are the files of MNIST or one of its relatives here, whole and in MNIST's format?

The files are mapped into memory, so all trainers of a machine share one copy. torchvision is asked for the addresses
of missing files, and imported only then.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from objectives.base import DatasetError
from objectives.download import FIRST_ANSWER_S, DatasetUnavailableError, DownloadSpec, download_files
from objectives.splits import Labelled

DIGITS = tuple("0123456789")
TRAIN_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Family:
    """A dataset in MNIST's file format, as torchvision lays it out."""

    torchvision_class: str
    classes: tuple[str, ...]
    content_fraction: float | None
    """As in `objectives.pictures.Framing`."""
    md5: dict[str, str] = field(default_factory=dict)
    """Of the unpacked files, where known."""


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


def raw_folder(kind: str, data_dir: Path, *, download: bool) -> Path:
    """The folder of a family's four raw files, once all are there. Raises DatasetUnavailableError."""
    family = FAMILIES[kind]
    raw = data_dir / family.torchvision_class / "raw"
    missing = [file for file in (*TRAIN_FILES, *TEST_FILES) if not (raw / file).is_file()]
    if not missing:
        return raw
    why = "downloading was not allowed"
    if download:
        try:
            began = time.monotonic()
            spec = _download_spec(family, missing)
            left_s = FIRST_ANSWER_S - (time.monotonic() - began)  # importing torchvision takes seconds of its own
            _log.info("downloading %s to %s", kind, raw)
            download_files(spec, raw, first_answer_s=max(left_s, FIRST_ANSWER_S / 2))
            return raw
        except DatasetUnavailableError as error:
            why = str(error)
    raise DatasetUnavailableError(
        f"{kind} is not in {raw} ({', '.join(missing)} missing) and cannot be downloaded: {why}. "
        f"Put the unpacked files there, name the folder that holds {family.torchvision_class}/raw with --data-dir, "
        "or type --dataset digits, which needs no download"
    )


def _download_spec(family: Family, missing: Sequence[str]) -> DownloadSpec:
    from torchvision import datasets  # type: ignore[import-untyped, unused-ignore]

    listed: Any = getattr(datasets, family.torchvision_class)
    files = tuple((name, md5) for name, md5 in listed.resources if name.removesuffix(".gz") in missing)
    return DownloadSpec(tuple(listed.mirrors), files)


def read_pool(raw: Path, family: Family, *, verify: bool) -> Labelled:
    """Read the training files; of the test files only the sizes, so that no search finds them truncated at its end."""
    images, labels = _read_pair(raw, TRAIN_FILES, family, verify=verify)
    test_images, test_labels = (raw / file for file in TEST_FILES)
    pixels = math.prod(images.shape[1:])
    n = 10_000 if len(images) == 60_000 else max(1, round((test_images.stat().st_size - 16) / pixels))
    for path, expected in ((test_images, 16 + n * pixels), (test_labels, 8 + n)):
        if path.stat().st_size != expected:
            raise _damaged(path, f"expected {expected} bytes ({n} pictures), found {path.stat().st_size}")
    return images, labels


def read_test(raw: Path, family: Family) -> Labelled:
    """Read and verify the test files. Raises DatasetError."""
    return _read_pair(raw, TEST_FILES, family, verify=True)


def _read_pair(raw: Path, files: tuple[str, str], family: Family, *, verify: bool) -> Labelled:
    for file in files if verify else ():
        _check_md5(raw / file, family.md5.get(file))
    images, labels = read_idx(raw / files[0], dims=3), read_idx(raw / files[1], dims=1)
    if len(images) != len(labels):
        raise DatasetError(f"{raw} holds {len(images)} pictures for {len(labels)} labels; {_anew(raw / files[0])}")
    if int(labels.max()) >= len(family.classes):
        largest = len(family.classes) - 1
        raise _damaged(raw / files[1], f"it has a label {int(labels.max())}, expected 0 to {largest}")
    return images[:, None], labels.astype(np.int64)


def read_idx(path: Path, *, dims: int) -> NDArray[np.uint8]:
    """Map a file in MNIST's idx format into memory: bytes in `dims` dimensions, read-only.

    Raises DatasetError when it is no such file, or is shorter or longer than its header says.
    """
    header_bytes = 4 + 4 * dims
    try:
        with path.open("rb") as file:
            header = file.read(header_bytes)
            found_bytes = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise _unreadable(path, error) from None
    magic = bytes((0, 0, 8, dims))
    if len(header) < header_bytes or header[:4] != magic:
        found = f"found {header[:4].hex() or 'nothing'} in {found_bytes} bytes"
        raise _damaged(path, f"expected it to begin with {magic.hex()}, {found}")
    shape = tuple(int.from_bytes(header[at : at + 4], "big") for at in range(4, header_bytes, 4))
    expected_bytes = header_bytes + math.prod(shape)
    if found_bytes != expected_bytes or 0 in shape:
        raise _damaged(path, f"expected {expected_bytes} bytes ({'x'.join(map(str, shape))}), found {found_bytes}")
    return np.memmap(path, np.uint8, mode="r", offset=header_bytes, shape=shape)


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


def _unreadable(path: Path, error: OSError) -> DatasetError:
    return DatasetError(f"{path} cannot be read ({error.strerror}); make it readable or {_anew(path)}")


def _damaged(path: Path, how: str) -> DatasetError:
    return DatasetError(f"{path} is damaged: {how}; {_anew(path)}")


def _anew(path: Path) -> str:
    return f"delete {path} and run again, or name another folder with --data-dir"
