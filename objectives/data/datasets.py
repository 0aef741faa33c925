"""Datasets by name, and the part of each that a search may see.

A `Dataset` is the pool that training and validation share. The test split has its own function, `load_test_split`. A
search calls it once it has chosen a winner, `predict` calls it for the images that a user names.

Every dataset is prepared once as arrays (`objectives.data.arrays`). Only that uses torchvision and scikit-learn.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from objectives.base import DatasetError, DatasetUnavailableError
from objectives.data import arrays, npz, torchvision_sets
from objectives.data.files.deep_pixels import Range
from objectives.data.files.image_files import Framing
from objectives.data.files.resizing import resize
from objectives.data.folders import folder
from objectives.data.formats.torchvision_files import DIGITS
from objectives.data.names import parse_name
from objectives.data.splits import SPLIT_SEED, Labelled, split_off_test, stratified_folds, stratified_split

N_TEST_DIGITS = 359

FOLDS_BELOW_IMAGES = 5_000
"""Images for training and validation from which one validation split is large enough to confirm configurations."""
N_FOLDS = 4


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
    n_test: int | None = None
    """Number of images in the test split."""
    original_size: tuple[int, int] | None = None
    """Median (h, w) of the images of a folder, in pixels; they may be shrunk. None: never resized, or unknown."""
    value_range: Range | None = None
    """As in `objectives.data.files.image_files.Framing`."""
    left_out: str | None = None
    """A sentence about the files of a folder that are not in the dataset."""
    image_size: int | None = None
    """Pixels a side that the user asked for. None: the source's own size, of the user's own data at most 64."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where each split comes from, such as `test: test/`; by `training`, `validation` and `test`. Empty if unknown."""
    test_classes: Mapping[str, int] = field(default_factory=dict)
    """Number of test images by class. Empty if that is unknown before the test split is read."""
    duplicates: Sequence[str] | None = None
    """Images that are in the pool and in the test split, each as `train/cat/1.png = test/dog/7.png`.

    None if nobody looked, because that would read the test split.
    """
    notes: Sequence[str] = ()
    """Sentences about what is odd, such as classes that are missing from a split."""
    has_own_validation: bool = True
    """Whether `validation` is the source's or was made by hand. It is then used as it is, and there are no folds."""
    stored_digest: str | None = None
    """The digest, if it was computed when the arrays were made."""

    @cached_property
    def digest(self) -> str:
        """First 32 hexadecimal digits of a SHA-256 over the pool, and over the splits of the user's own data."""
        return self.stored_digest or arrays.digest(self.images, self.labels)

    @property
    def class_counts(self) -> dict[str, int]:
        """Number of images in the pool by class."""
        return dict(zip(self.classes, np.bincount(self.labels, minlength=len(self.classes)).tolist(), strict=True))

    @property
    def n_folds(self) -> int:
        """Folds by which configurations are confirmed; 0 for many images, and where the source has a validation split.

        One validation split of few images is so small that a search adapts to it.
        """
        return N_FOLDS if len(self.labels) < FOLDS_BELOW_IMAGES and not self.has_own_validation else 0

    def fold(self, number: int, n_folds: int) -> NDArray[np.int64]:
        """Sorted indices into the pool of a fold, counted on over divisions into `n_folds`."""
        division, within = divmod(number, n_folds)
        folds = stratified_folds(np.asarray(self.labels), n_folds, division)
        return np.flatnonzero(folds == within).astype(np.int64)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return int(self.images.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) in pixels."""
        return int(self.images.shape[2]), int(self.images.shape[3])


def default_data_dir() -> Path:
    """`SEARCH_DATA_DIR`, or else the user's cache folder."""
    variable = os.environ.get("SEARCH_DATA_DIR")
    return Path(variable).expanduser() if variable else arrays.cache_dir()


def load_dataset(
    name: str, data_dir: Path | None, *, image_size: int | None = None, download: bool = True, verify: bool = True
) -> Dataset:
    """Load what a search may see of a dataset. Never opens test files.

    The first call downloads, verifies and converts; later ones map the arrays that it wrote. `verify=False` is for
    workers: it does not decode a folder that changed after the search began. `image_size` as in `Dataset`.
    Raises DatasetUnavailableError when files are missing and cannot be downloaded, and DatasetError when the name is
    unknown or the files cannot be used.
    """
    prepared = _prepare(name, "pool", data_dir, image_size, download=download, verify=verify)
    arrays.hold(prepared.path)
    (images, labels), about = arrays.read(prepared.path, "pool"), arrays.read_about(prepared.path)
    if (n_train := about.get("n_train")) is not None:
        train, validation = np.split(np.arange(len(labels)), [n_train])
    else:
        train, validation = stratified_split(labels, round(len(labels) / prepared.validation_share))
    height, width = about.get("original_size") or (0, 0)
    low, high = about.get("value_range") or (0.0, 0.0)
    return Dataset(
        name,
        images,
        labels,
        tuple(about["classes"]),
        train,
        validation,
        prepared.source,
        n_test=about.get("n_test", prepared.n_test),
        original_size=(height, width) if height else None,
        value_range=(low, high) if about.get("value_range") else None,
        left_out=prepared.left_out,
        image_size=image_size,
        origins=about.get("origins") or prepared.origins,
        test_classes=about.get("test_classes", {}),
        duplicates=about.get("duplicates"),
        notes=[*prepared.notes, *about.get("notes", ())],
        has_own_validation=n_train is not None,
        stored_digest=about.get("digest"),
    )


def load_test_split(name: str, data_dir: Path | None, image_size: int | None = None) -> Labelled:
    """Load the images (n, c, h, w) and classes (n,) of the test split. The only function that reads it.

    A folder that changed since `load_dataset` is an error, because another split could contain training images.
    Raises as `load_dataset` does.
    """
    return arrays.read(_prepare(name, "test", data_dir, image_size, download=True, verify=False).path, "test")


def load_test_split_of(
    name: str, data_dir: Path | None, digest: str | None, image_size: int | None = None
) -> tuple[Labelled, bool]:
    """Load the test split that belongs to a pool with this digest. Also returns whether the folder has changed.

    If a folder has changed or is gone, its earlier arrays are used: a new split would make test images of
    some training images. Without a digest, which early models lack, nothing is compared. Raises DatasetError when there
    are none, or another dataset has the name here.
    """
    kind, path = parse_name(name)
    data_dir = data_dir or default_data_dir()
    if path is None or digest is None:
        found = load_dataset(name, data_dir, image_size=image_size)  # downloads the files if necessary
        if digest is not None and found.digest != digest:
            raise DatasetError(
                f"{name} in {data_dir} holds other images than those of the model's training; name the folder of the "
                "latter with --data-dir"
            )
        return load_test_split(name, data_dir, image_size), False
    prepare = _OWN[kind]
    with contextlib.suppress(DatasetError):
        if arrays.digest_of(current := prepare(path, data_dir, image_size, make=False).path) == digest:
            return arrays.read(current, "test"), False
    for stored in arrays.stored(data_dir):
        if arrays.digest_of(stored) == digest:
            return arrays.read(stored, "test"), "source" in arrays.read_about(stored)
    if arrays.digest_of(current := prepare(path, data_dir, image_size).path) == digest:
        return arrays.read(current, "test"), False
    raise DatasetError(
        f"{name} has changed since the model's training, and the arrays of its split are gone, so test images cannot "
        f"be told from training images; undo the changes in {str(path)!r}, or give other files of images"
    )


class _Source(NamedTuple):
    """Where one part of a dataset is, as arrays and before."""

    path: Path
    source: str
    """As in `Dataset`."""
    n_test: int | None = None
    left_out: str | None = None
    validation_share: int = 5
    """Validation takes one image of this many in the pool, unless the source has a validation split."""
    origins: Mapping[str, str] = {}
    notes: Sequence[str] = ()


def _prepare(
    name: str, part: arrays.Part, data_dir: Path | None, image_size: int | None, *, download: bool, verify: bool
) -> _Source:
    """Find the arrays, or make them if necessary."""
    kind, path = parse_name(name)
    data_dir = data_dir or default_data_dir()
    if path is not None:
        made = _OWN[kind](path, data_dir, image_size, make=verify)
        return _Source(made.path, str(path.resolve()), left_out=made.left_out, notes=made.notes)
    if kind == "digits":
        source = "scikit-learn: sklearn.datasets.load_digits"
        of = "of the digits, each class in proportion"
        origins = {"training": "64% of the digits", "validation": f"16% {of}", "test": f"a fifth {of}"}
        return _Source(_prepare_digits(data_dir, image_size), source, N_TEST_DIGITS, origins=origins)
    prepared, raw, n_test = torchvision_sets.prepare(kind, part, data_dir, image_size, download=download)
    share = torchvision_sets.SETS[kind].validation_share
    return _Source(prepared, str(raw.resolve()), n_test, validation_share=share, origins=_official(share, n_test))


_OWN = {"folder": folder.prepare, "npz": npz.prepare}
"""The function that prepares each kind of the user's own data."""


def _official(share: int, n_test: int | None) -> Mapping[str, str]:
    """Origins of the splits of a dataset with training files and test files."""
    most, one = {5: ("four fifths", "a fifth"), 6: ("five sixths", "a sixth")}[share]
    of, test = "of the training files", "the test files" + ("" if n_test else " (counted when they are read)")
    return {"training": f"{most} {of}", "validation": f"{one} {of}, each class in proportion", "test": test}


def _prepare_digits(data_dir: Path, image_size: int | None) -> Path:
    """Return the folder of scikit-learn's 1,797 digits: (n, 1, 8, 8), values 0 to 16 scaled to 0 to 255.

    With an `image_size` they are resized from that.
    """
    name = f"arrays/digits-1-{SPLIT_SEED}" + ("" if image_size is None else f"-{image_size}")
    if prepared := arrays.find(data_dir, name):
        return prepared
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        message = "--dataset digits comes with scikit-learn; type: pip install scikit-learn"
        raise DatasetUnavailableError(message) from None
    pixels, labels = load_digits(return_X_y=True)
    images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    images, original = resize(images, image_size)
    pool, test = split_off_test(images, labels.astype(np.int64))
    about: arrays.About = {"classes": DIGITS, "original_size": original}
    return arrays.store(data_dir, name, {"pool": pool, "test": test}, about)


def framing(dataset: Dataset) -> Framing:
    """How `objectives.data.files.image_files.to_model_input` frames an image for a model trained on `dataset`."""
    if dataset.name == "digits":
        return Framing(dataset.channels, dataset.size, 1.0, True)
    if known := torchvision_sets.SETS.get(dataset.name):
        return Framing(dataset.channels, dataset.size, known.content_fraction, known.is_drawing)
    sample = dataset.images[:: max(1, len(dataset.images) // 1000)]
    rims = np.concatenate([sample[..., 0, :], sample[..., -1, :], sample[..., 0], sample[..., -1]], axis=-1)
    # Photographs have rims of every kind and must not be inverted. Drawings on black all have dark rims.
    dark = dataset.channels == 1 and float(np.mean(np.median(rims, axis=(1, 2)) < 64)) > 0.95
    return Framing(dataset.channels, dataset.size, None, dark, dataset.value_range)
