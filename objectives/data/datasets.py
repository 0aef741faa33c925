"""Datasets by name, and the part of each that a search may see.

A `Dataset` is the pool that training and validation share. The test split has its own function, `load_test_split`. A
search calls it once it has chosen a winner, `predict` calls it for the images that a user names.

Every dataset is prepared once as arrays (`objectives.data.arrays`). Only that uses torchvision and scikit-learn.
"""

import difflib
import hashlib
import os
import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from objectives.base import DatasetError, DatasetUnavailableError
from objectives.data import arrays, folder, mnist
from objectives.data.image_files import Framing
from objectives.data.splits import SPLIT_SEED, Labelled, split_off_test, stratified_split

NAMES = (*mnist.VARIANTS, "digits", "folder:PATH")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and classes that a search may see: the pool of its training and validation splits."""

    name: str
    images: NDArray[np.uint8]
    """Shape (n, c, h, w), memory-mapped and read-only."""
    labels: NDArray[np.int64]
    """Index of the class, shape (n,)."""
    classes: tuple[str, ...]
    train: NDArray[np.int64]
    """Sorted indices into the pool, disjoint from `validation`."""
    validation: NDArray[np.int64]
    source: str
    """Where the images come from: a path or the name of a function."""

    @cached_property
    def digest(self) -> str:
        """First 32 hexadecimal digits of a SHA-256 over the pool. Computed at the first access."""
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


def parse_name(name: str) -> tuple[str, Path | None]:
    """Split a dataset's name into its kind and, for `folder:PATH`, the path.

    Raises DatasetError when the dataset does not exist.
    """
    kind, _, path = name.partition(":")
    if kind == "folder" and path:
        return kind, Path(path).expanduser()
    if name in NAMES[:-1]:
        return name, None
    allowed = f"allowed: {', '.join(NAMES)}"
    if kind == "folder":
        raise DatasetError(f"--dataset {name!r} names no folder; {allowed}; type for example --dataset folder:images")
    close = difflib.get_close_matches(name.lower(), NAMES[:-1], n=1)
    if Path(name).is_dir():
        close = [f"folder:{name}"]
    hint = f". Did you mean {close[0]}? Type --dataset {shlex.quote(close[0])}" if close else ""
    raise DatasetError(f"there is no dataset {name!r}; {allowed}{hint}")


def dataset_slug(name: str) -> str:
    """A dataset's name for use in names of studies and models: `mnist`, `folder-pets`. Raises DatasetError."""
    kind, path = parse_name(name)
    if path is None:
        return kind
    return "folder-" + (re.sub(r"[^\w.-]+", "-", folder.printable_name(path.resolve())) or "pictures")


def default_data_dir() -> Path:
    """`SEARCH_DATA_DIR`, or else the user's cache folder."""
    variable = os.environ.get("SEARCH_DATA_DIR")
    return Path(variable).expanduser() if variable else arrays.cache_dir()


def load_dataset(name: str, data_dir: Path | None, *, download: bool = True, verify: bool = True) -> Dataset:
    """Load what a search may see of a dataset. Never opens test files.

    The first call downloads, verifies and converts; later ones map the arrays that it wrote. `verify=False` is for
    workers: it does not decode a folder that changed after the search began.
    Raises DatasetUnavailableError when files are missing and cannot be downloaded, and DatasetError when the name is
    unknown or the files cannot be used.
    """
    prepared, source = _prepare(name, "pool", data_dir, download=download, verify=verify)
    images, labels = arrays.read(prepared, "pool")
    train, validation = stratified_split(labels, round(len(labels) / (6 if name in mnist.VARIANTS else 5)))
    return Dataset(name, images, labels, tuple(arrays.read_about(prepared)["classes"]), train, validation, source)


def load_test_split(name: str, data_dir: Path | None) -> Labelled:
    """Load the images (n, c, h, w) and classes (n,) of the test split. The only function that reads it.

    A folder that changed since `load_dataset` is an error, because another split could contain training images.
    Raises as `load_dataset` does.
    """
    prepared, _ = _prepare(name, "test", data_dir, download=True, verify=False)
    return arrays.read(prepared, "test")


def _prepare(name: str, part: arrays.Part, data_dir: Path | None, *, download: bool, verify: bool) -> tuple[Path, str]:
    """Return the folder of a dataset's arrays, made if necessary, and the source of the images."""
    kind, path = parse_name(name)
    data_dir = data_dir or default_data_dir()
    if path is not None:
        prepare = folder.prepare if verify else folder.find_prepared
        return prepare(path, data_dir), str(path.resolve())
    if kind == "digits":
        return _prepare_digits(data_dir), "scikit-learn: sklearn.datasets.load_digits"
    prepared, raw = mnist.prepare(kind, part, data_dir, download=download)
    return prepared, str(raw.resolve())


def _prepare_digits(data_dir: Path) -> Path:
    """Return the folder of scikit-learn's 1,797 digits: (n, 1, 8, 8), values 0 to 16 scaled to 0 to 255."""
    name = f"arrays/digits-1-{SPLIT_SEED}"
    if prepared := arrays.find(data_dir, name):
        return prepared
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        message = "--dataset digits comes with scikit-learn; type: pip install scikit-learn"
        raise DatasetUnavailableError(message) from None
    pixels, labels = load_digits(return_X_y=True)
    images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    pool, test = split_off_test(images, labels.astype(np.int64))
    return arrays.store(data_dir, name, {"pool": pool, "test": test}, {"classes": mnist.DIGIT_CLASSES})


def framing(dataset: Dataset) -> Framing:
    """How `objectives.data.image_files.to_model_input` frames an image for a model trained on `dataset`."""
    if dataset.name == "digits":
        return Framing(dataset.channels, dataset.size, 1.0, True)
    if dataset.name in mnist.VARIANTS:
        return Framing(dataset.channels, dataset.size, mnist.VARIANTS[dataset.name].content_fraction, True)
    sample = dataset.images[:: max(1, len(dataset.images) // 1000)]
    rims = np.concatenate([sample[..., 0, :], sample[..., -1, :], sample[..., 0], sample[..., -1]], axis=-1)
    # Photographs have rims of every kind and must not be inverted. Drawings on black all have dark rims.
    dark = dataset.channels == 1 and float(np.mean(np.median(rims, axis=(1, 2)) < 64)) > 0.95
    return Framing(dataset.channels, dataset.size, None, dark)
