"""Makes arrays of an npz file of images and labels, in MedMNIST's layout or a plain one.

`prepare` converts, resizes and splits the images once. It stores the arrays under a key made from the file's name, size
and time, so a file that changed has another key. The test images are set aside in the same process, and only
`load_test_split` reads them again.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from objectives.base import DatasetError
from objectives.data import arrays, splits
from objectives.data.arrays import Prepared
from objectives.data.files.resizing import empty_images, fit_all, usual_size
from objectives.data.formats.npz_file import Archive, Pair, open_archive
from objectives.data.formats.npz_labels import Labels, class_names, labels_of, refuse_several
from objectives.data.formats.npz_pixels import Scale, Selected, Shape, shape_of
from objectives.data.splits import SPLIT_SEED, Labelled, shuffled, stratified_split


def prepare(file: Path, data_dir: Path, image_size: int | None = None, *, make: bool = True) -> Prepared:
    """Find the arrays, or make them. `image_size`: pixels a side; None: the images' own, at most 64.

    Raises DatasetError when the file cannot be used, or the arrays cannot be written anywhere; with `make` False, when
    the file has changed since they were made.
    """
    name = arrays_name(file, image_size)
    path = arrays.find(data_dir, name)
    if path is None:
        return Prepared(_store(data_dir, name, file, image_size)) if make else arrays.refuse_changed(f"npz:{file}")
    if make:
        arrays.set_source(path, file.resolve())
    return Prepared(path)


def arrays_name(file: Path, image_size: int | None = None) -> str:
    """The name of the arrays of a file as it is now. Raises DatasetError when there is none."""
    if not file.is_file():
        if file.is_dir():
            raise DatasetError(f"--dataset npz:{file}: {str(file)!r} is a folder; type --dataset folder:{file}")
        raise DatasetError(
            f"--dataset npz:{file}: {str(file)!r} does not exist; give an npz file with images and labels"
        )
    size = "" if image_size is None else f" {image_size}"
    key = arrays.cache_key(f"npz 1 {SPLIT_SEED}{size}", {"": {file: file.stat()}}, file.parent)
    return f"{arrays.USERS_ARRAYS}/{key}"


@dataclass(frozen=True)
class _Split:
    """Images of one split, before they are loaded."""

    key: str
    index: NDArray[np.int64]
    """Into the array of that key."""
    labels: NDArray[np.int64]
    """Classes of the images, shape (n,)."""

    def take(self, chosen: NDArray[np.int64]) -> "_Split":
        return _Split(self.key, self.index[chosen], self.labels[chosen])


@dataclass(frozen=True)
class _Contents:
    """The images of a file by split."""

    classes: Sequence[str]
    training: _Split
    validation: _Split | None
    test: _Split
    has_own_test: bool

    @property
    def pool(self) -> list[_Split]:
        return [split for split in (self.training, self.validation) if split]

    def origins(self) -> dict[str, str]:
        """As in `objectives.data.datasets.Dataset`."""
        validation = self.validation.key if self.validation else None
        return splits.origins(self.training.key, validation, self.test.key if self.has_own_test else None)


def _store(data_dir: Path, name: str, file: Path, image_size: int | None) -> Path:
    archive = open_archive(file)
    shape = _shape(archive)
    contents = _read_labels(archive)
    original = (shape.height, shape.width)
    size = usual_size(original, image_size)
    scale, (pool, pool_digests), (test, test_digests) = _convert_all(archive, contents, size)
    labels = np.concatenate([split.labels for split in contents.pool])
    parts: dict[arrays.Part, Labelled] = {"pool": (pool, labels), "test": (test, contents.test.labels)}
    about: arrays.About = {
        "classes": contents.classes,
        "source": str(file.resolve()),
        "n_train": len(contents.training.index) if contents.validation else None,
        "original_size": None if size == original else original,
        "image_size": image_size,
        "value_range": scale.value_range,
        "origins": contents.origins(),
        "notes": archive.notes,
    }
    digests: dict[arrays.Part, list[tuple[bytes, str]]] = {"pool": pool_digests, "test": test_digests}
    has_splits = contents.validation is not None or contents.has_own_test
    return arrays.store(data_dir, name, parts, arrays.complete(about, parts, digests, has_splits=has_splits))


def _shape(archive: Archive) -> Shape:
    """The shape of the training images. Raises DatasetError if images of another split have other channels."""
    training = archive.training.images
    shape = shape_of(archive.name, training, archive.headers[training].shape)
    for pair in (archive.validation, archive.test):
        if pair and (other := shape_of(archive.name, pair.images, archive.headers[pair.images].shape)) != shape:
            raise DatasetError(
                f"{archive.name}: the images of {pair.images} have {_shape_text(other)}, those of {training} "
                f"{_shape_text(shape)}; give all images one size and one kind of colour"
            )
    return shape


def _shape_text(shape: Shape) -> str:
    return f"{shape.width}x{shape.height} pixels and {shape.channels} channel{'s' if shape.channels > 1 else ''}"


def _read_labels(archive: Archive) -> _Contents:
    """Read all labels, and choose the images of each split. Raises DatasetError."""
    values = _labels_in(archive, archive.training)
    known, counts = np.unique(values, return_counts=True)
    names = archive.read(archive.class_names) if archive.class_names else None
    classes = class_names(archive.name, known, archive.class_names, names)
    if len(classes) < 2:
        content = f"one class only, {classes[0]!r}" if classes else "no labels"
        raise DatasetError(
            f"{archive.name}: {archive.training.labels} holds {content}; a search needs images of two classes or more"
        )
    splits.check_class_sizes(archive.name, dict(zip(classes, counts.tolist(), strict=True)), archive.training.images)
    training = _Split(archive.training.images, np.arange(len(values)), np.searchsorted(known, values).astype(np.int64))
    pairs = (archive.validation, archive.test)
    validation, test = (_select(archive, pair, known, classes) if pair else None for pair in pairs)
    if test:
        return _Contents(classes, training, validation, test, has_own_test=True)
    rest, held_out = stratified_split(training.labels, round(len(training.labels) / 5))
    test = training.take(shuffled(held_out))  # the file may be sorted by class
    return _Contents(classes, training.take(rest), validation, test, has_own_test=False)


def _labels_in(archive: Archive, pair: Pair) -> Labels:
    values = archive.read(pair.labels)
    refuse_several(archive.name, pair.labels, values)
    return labels_of(archive.name, pair.labels, values)


def _select(archive: Archive, pair: Pair, known: Labels, classes: Sequence[str]) -> _Split:
    """Choose the images of a split whose labels training has. Raises DatasetError if there are none."""
    values = _labels_in(archive, pair)
    if (values.dtype.kind == "U") != (known.dtype.kind == "U"):
        raise DatasetError(
            f"{archive.name}: {pair.labels} and {archive.training.labels} must both hold texts, or both whole numbers"
        )
    is_known = np.isin(values, known)
    index = np.flatnonzero(is_known)
    if not len(index):
        raise DatasetError(f"{archive.name}: no label of {pair.labels} occurs in {archive.training.labels}")
    labels = np.searchsorted(known, values[index]).astype(np.int64)
    unknown = Counter(map(str, np.sort(values[~is_known]).tolist()))
    missing = [classes[number] for number in np.setdiff1d(np.arange(len(classes)), labels).tolist()]
    archive.notes.extend(splits.unknown_classes(pair.images, unknown, archive.training.images))
    archive.notes.extend(splits.missing_classes(pair.images, missing))
    return _Split(pair.images, index, labels)


_Converted = tuple[NDArray[np.uint8], list[tuple[bytes, str]]]
"""Images (n, c, h, w); and of each, the digest before it was resized, and its place, such as `train_images[12]`."""


def _convert_all(archive: Archive, contents: _Contents, size: tuple[int, int]) -> tuple[Scale, _Converted, _Converted]:
    """Convert the images of the pool, then those of the test split to a size (h, w). Raises DatasetError."""
    pool = [Selected(split.key, archive.read(split.key), split.index) for split in contents.pool]
    scale = Scale.of(archive.name, pool)
    converted = _convert(pool, scale, size)
    if contents.has_own_test:
        pool.clear()  # its arrays and those of the test split need not fit in memory together
    values = pool[0].values if pool else archive.read(contents.test.key)
    test = Selected(contents.test.key, values, contents.test.index)
    scale.check(archive.name, test, contents.training.key)
    return scale, converted, _convert([test], scale, size)


def _convert(parts: Sequence[Selected], scale: Scale, size: tuple[int, int]) -> _Converted:
    n, channels = sum(len(part.index) for part in parts), next(parts[0].chunks()).shape[1]
    converted = empty_images(n, channels, size)
    digests: list[bytes] = []
    names = (f"{part.key}[{number}]" for part in parts for number in part.index.tolist())
    for chunk in itertools.chain.from_iterable(part.chunks() for part in parts):
        images, start = scale.to_bytes(chunk), len(digests)
        digests += map(splits.pixel_digest, images)
        converted[start : start + len(images)] = fit_all(images, size)
    return converted, list(zip(digests, names, strict=True))
