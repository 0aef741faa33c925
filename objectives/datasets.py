"""Where do the pictures come from, and which of them may a search see?

A `Dataset` is the pool that training and validation share; the test split has a function of its own,
`load_test_split`, which nothing calls before a winner is chosen.

Importing this module is cheap: torchvision and scikit-learn are imported by the functions that need them.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import importlib.util
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from objectives import folder, idx
from objectives.base import DatasetError
from objectives.download import DatasetUnavailableError
from objectives.pictures import Framing
from objectives.splits import Labelled, split_off_test, stratified

NAMES = (*idx.FAMILIES, "digits", "folder:PATH")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures and classes that a search may see: the pool of its training and validation splits."""

    name: str
    images: NDArray[np.uint8]
    """Shape (n, c, h, w), memory-mapped and read-only where it comes from a file."""
    labels: NDArray[np.int64]
    """Index of the class, shape (n,)."""
    classes: tuple[str, ...]
    train: NDArray[np.int64]
    """Sorted indices into the pool; shares none with `validation`."""
    validation: NDArray[np.int64]
    source: str
    """Where the pictures were read from."""

    @cached_property
    def digest(self) -> str:
        """First 32 hexadecimal digits of a SHA-256 over the pool; computed when first asked for."""
        content = hashlib.sha256(repr((self.images.shape, str(self.labels.dtype))).encode())
        content.update(self.images.data)
        content.update(self.labels.data)
        return content.hexdigest()[:32]

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return int(self.images.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) in pixels."""
        return int(self.images.shape[2]), int(self.images.shape[3])

    @property
    def n_classes(self) -> int:
        """How many classes there are: k."""
        return len(self.classes)


def parse_name(name: str) -> tuple[str, Path | None]:
    """Split a dataset's name into its kind and, for `folder:PATH`, the path.

    Raises DatasetError when there is no such dataset.
    """
    kind, _, path = name.partition(":")
    if kind == "folder" and path:
        return kind, Path(path).expanduser()
    if name in (*idx.FAMILIES, "digits"):
        return name, None
    allowed = f"allowed: {', '.join(NAMES)}"
    if kind == "folder":
        raise DatasetError(f"--dataset {name!r} names no folder; {allowed}; type for example --dataset folder:pictures")
    if Path(name).is_dir():
        raise DatasetError(f"there is no dataset {name!r}; {allowed}. Did you mean --dataset folder:{name} ?")
    close = difflib.get_close_matches(name.lower(), [*idx.FAMILIES, "digits"], n=1)
    hint = f". Did you mean --dataset {close[0]} ?" if close else ""
    raise DatasetError(f"there is no dataset {name!r}; {allowed}{hint}")


def dataset_slug(name: str) -> str:
    """A dataset's name for use in names of studies and models: `mnist`, `folder-pets`. Raises DatasetError."""
    kind, path = parse_name(name)
    if path is None:
        return kind
    return "folder-" + (re.sub(r"[^\w.-]+", "-", folder.printable(path.resolve())) or "pictures")


def default_data_dir() -> Path:
    """`SEARCH_DATA_DIR`, or else the user's cache folder."""
    given = os.environ.get("SEARCH_DATA_DIR")
    return Path(given).expanduser() if given else folder.cache_dir()


def load_dataset(name: str, data_dir: Path | None, *, download: bool = True, verify: bool = True) -> Dataset:
    """Load what a search may see of a dataset, fetching or preparing it first if need be; never opens test files.

    `verify=False` is for trainers: it trusts files that a call with True has checked, and pictures that one decoded.
    Raises DatasetUnavailableError when the files are neither there nor to be had, and DatasetError when the name or
    the files are no good.
    """
    kind, path = parse_name(name)
    data_dir = data_dir or default_data_dir()
    if kind == "digits":
        pool, _ = split_off_test(*_read_digits())
        return _dataset(name, pool, idx.DIGITS, "scikit-learn: sklearn.datasets.load_digits", validation_share=5)
    if path is not None:
        prepared = folder.prepare(path, data_dir) if verify else folder.find_prepared(path, data_dir)
        pool, classes = folder.read_prepared(prepared, "pool"), folder.read_classes(prepared)
        return _dataset(name, pool, classes, str(path.resolve()), validation_share=5)
    family = idx.FAMILIES[kind]
    raw = idx.raw_folder(kind, data_dir, download=download)
    pool = idx.read_pool(raw, family, verify=verify)
    return _dataset(name, pool, family.classes, str(raw.resolve()), validation_share=6)


def _dataset(name: str, pool: Labelled, classes: tuple[str, ...], source: str, *, validation_share: int) -> Dataset:
    """Split the pool: one picture in `validation_share` is for validation."""
    images, labels = pool
    train, validation = stratified(labels, round(len(labels) / validation_share))
    return Dataset(name, images, labels, classes, train, validation, source)


def load_test_split(name: str, data_dir: Path | None) -> Labelled:
    """Load the pictures (n, c, h, w) and classes (n,) of the test split: the only function that reads it.

    A folder's is the one that `load_dataset` set aside: drawn anew after a change, it could hold pictures trained on.
    Raises as `load_dataset` does.
    """
    kind, path = parse_name(name)
    data_dir = data_dir or default_data_dir()
    if kind == "digits":
        return split_off_test(*_read_digits())[1]
    if path is not None:
        return folder.read_prepared(folder.find_prepared(path, data_dir), "test")
    return idx.read_test(idx.raw_folder(kind, data_dir, download=True), idx.FAMILIES[kind])


def _read_digits() -> Labelled:
    """scikit-learn's 1,797 digits as (n, 1, 8, 8), values 0..16 scaled to 0..255."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DatasetUnavailableError("--dataset digits comes with scikit-learn; type: pip install scikit-learn")
    table = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if table.is_file():  # importing scikit-learn takes a second, reading its file a hundredth
        with gzip.open(table, "rt") as file:
            values = np.loadtxt(file, delimiter=",", dtype=np.float64)
        pixels, labels = values[:, :64], values[:, 64]
    else:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

        pixels, labels = load_digits(return_X_y=True)
    images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return images, labels.astype(np.int64)


def framing(dataset: Dataset) -> Framing:
    """How `objectives.pictures.to_model_input` must frame a picture for a model trained on `dataset`."""
    if dataset.name == "digits":
        return Framing(dataset.channels, dataset.size, 1.0, True)
    if dataset.name in idx.FAMILIES:
        return Framing(dataset.channels, dataset.size, idx.FAMILIES[dataset.name].content_fraction, True)
    sample = dataset.images[:: max(1, len(dataset.images) // 1000)]
    rims = np.concatenate([sample[..., 0, :], sample[..., -1, :], sample[..., 0], sample[..., -1]], axis=-1)
    # Photographs have rims of every kind, and must not be inverted; drawings on black all look alike here.
    dark = dataset.channels == 1 and float(np.mean(np.median(rims, axis=(1, 2)) < 64)) > 0.95
    return Framing(dataset.channels, dataset.size, None, dark)
