"""Makes arrays of an npz file of images and labels, in MedMNIST's layout or a plain one.

`prepare` converts, resizes and splits the images once. It stores the arrays under a key made from the file's name, size
and time, so a file that changed has another key. The test images are set aside in the same process, and only
`load_test_split` reads them again.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from objectives.base import DatasetError
from objectives.data import arrays
from objectives.data.files.resizing import fit_all, usual_size
from objectives.data.folders.folder import Prepared
from objectives.data.formats.npz_file import Archive, Pair, open_archive
from objectives.data.formats.npz_labels import Labels, class_names, labels_of, refuse_several
from objectives.data.formats.npz_pixels import Scale, Selected, Shape, shape_of
from objectives.data.splits import SPLIT_SEED, Labelled, shuffled, stratified_split

MIN_IMAGES_PER_CLASS = 5
MAX_DUPLICATES = 1_000
"""Number of duplicates that are listed."""


def prepare(file: Path, data_dir: Path, image_size: int | None = None) -> Prepared:
    """Make the arrays if necessary. `image_size`: pixels a side; None: the images' own, at most 64.

    Raises DatasetError when the file cannot be used, or the arrays cannot be written anywhere.
    """
    name = arrays_name(file, image_size)
    path = arrays.find(data_dir, name)
    if path is None:
        return Prepared(_store(data_dir, name, file, image_size), None)
    arrays.set_source(path, file.resolve())
    return Prepared(path, None)


def find_prepared(file: Path, data_dir: Path, image_size: int | None = None) -> Prepared:
    """Find the arrays that `prepare` made. Raises DatasetError when the file changed since then."""
    path = arrays.find(data_dir, arrays_name(file, image_size))
    if path is None:
        raise DatasetError(
            f"npz:{file} is not prepared as it is now: it changed after the search began, or no search has begun; undo "
            "the change, or start a new search on it"
        )
    return Prepared(path, None)


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
    return f"{arrays.FOLDERS}/{key}"


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
class _Splits:
    """The images of a file by split."""

    classes: Sequence[str]
    training: _Split
    validation: _Split | None
    test: _Split
    has_own_test: bool

    def origins(self) -> Mapping[str, str]:
        """As in `objectives.data.datasets.Dataset`."""
        key = self.training.key
        proportion = f"{key}, each class in proportion"
        validation = self.validation.key if self.validation else None
        if self.has_own_test:
            training = key if validation else f"four fifths of {key}"
            return {
                "training": training,
                "validation": validation or f"a fifth of {proportion}",
                "test": self.test.key,
            }
        return {
            "training": f"four fifths of {key}" if validation else f"64% of {key}",
            "validation": validation or f"16% of {proportion}",
            "test": f"a fifth of {proportion}",
        }


def _store(data_dir: Path, name: str, file: Path, image_size: int | None) -> Path:
    where = f"npz:{file}"
    archive = open_archive(file)
    shape = _shape(where, archive)
    splits = _read_labels(where, archive)
    pool_splits = [split for split in (splits.training, splits.validation) if split]
    values = {split.key: archive.read(split.key) for split in pool_splits}
    pool = [Selected(split.key, values[split.key], split.index) for split in pool_splits]
    scale, size = Scale.of(where, pool), usual_size((shape.height, shape.width), image_size)
    pool_images, pool_digests = _convert(pool, scale, size)
    if splits.has_own_test:
        values.clear()
        test = Selected(splits.test.key, archive.read(splits.test.key), splits.test.index)
        scale.check(where, test, pool[0])
    else:
        test = Selected(splits.test.key, values[splits.test.key], splits.test.index)
    test_images, test_digests = _convert([test], scale, size)
    labels = np.concatenate([split.labels for split in pool_splits])
    duplicates = _duplicates(pool, pool_digests, test, test_digests)
    if len(duplicates) > MAX_DUPLICATES:
        archive.notes.append(
            f"{len(duplicates):,} test images are also in the pool, of which the first 1,000 are listed"
        )
    parts: dict[arrays.Part, Labelled] = {"pool": (pool_images, labels), "test": (test_images, splits.test.labels)}
    counts = np.bincount(splits.test.labels, minlength=len(splits.classes)).tolist()
    about: arrays.About = {
        "classes": splits.classes,
        "source": str(file.resolve()),
        "digest": arrays.digest(pool_images, labels),
        "n_test": len(test_images),
        "origins": splits.origins(),
        "test_classes": dict(zip(splits.classes, counts, strict=True)),
        "duplicates": duplicates[:MAX_DUPLICATES],
        "notes": archive.notes,
        "original_size": None if size == (shape.height, shape.width) else (shape.height, shape.width),
        "value_range": scale.value_range,
    }
    if image_size is not None:
        about["image_size"] = image_size
    if splits.validation:
        about["n_train"] = len(splits.training.index)
    return arrays.store(data_dir, name, parts, about)


def _shape(where: str, archive: Archive) -> Shape:
    """The shape of the training images. Raises DatasetError if images of another split have other channels."""
    training = archive.training.images
    shape = shape_of(where, training, archive.headers[training].shape)
    for pair in (archive.validation, archive.test):
        if pair and (other := shape_of(where, pair.images, archive.headers[pair.images].shape)) != shape:
            raise DatasetError(
                f"{where}: the images of {pair.images} have {_said(other)}, those of {training} {_said(shape)}; give "
                "all images one size and one kind of colour"
            )
    return shape


def _said(shape: Shape) -> str:
    return f"{shape.width}x{shape.height} pixels and {shape.channels} channel{'s' if shape.channels > 1 else ''}"


def _read_labels(where: str, archive: Archive) -> _Splits:
    """Read all labels, and choose the images of each split. Raises DatasetError."""
    values = _labels_in(where, archive, archive.training)
    known, counts = np.unique(values, return_counts=True)
    names = archive.read(archive.class_names) if archive.class_names else None
    classes = class_names(where, known, archive.class_names, names)
    _check_counts(where, archive.training.labels, dict(zip(classes, counts.tolist(), strict=True)))
    training = _Split(archive.training.images, np.arange(len(values)), np.searchsorted(known, values).astype(np.int64))
    others: list[_Split | None] = []
    for pair in (archive.validation, archive.test):
        others.append(_select(where, archive, pair, known, classes) if pair else None)
    validation, test = others
    if test:
        return _Splits(classes, training, validation, test, has_own_test=True)
    rest, held_out = stratified_split(training.labels, round(len(training.labels) / 5))
    test = training.take(shuffled(held_out))  # the file may be sorted by class
    return _Splits(classes, training.take(rest), validation, test, has_own_test=False)


def _labels_in(where: str, archive: Archive, pair: Pair) -> Labels:
    values = archive.read(pair.labels)
    refuse_several(where, pair.labels, values)
    return labels_of(where, pair.labels, values)


def _check_counts(where: str, key: str, counts: Mapping[str, int]) -> None:
    if len(counts) < 2:
        only = f"one class only, {next(iter(counts))!r}" if counts else "no labels"
        raise DatasetError(f"{where}: {key} holds {only}; a search needs images of two classes or more")
    if small := [f"class {name!r} has {n}" for name, n in counts.items() if n < MIN_IMAGES_PER_CLASS]:
        more = f" and {len(small) - 5} more classes have too few" if len(small) > 5 else ""
        raise DatasetError(
            f"{where}: {', '.join(small[:5])} in {key}{more}, and every class needs {MIN_IMAGES_PER_CLASS} images to "
            "train on; add images to the small classes, or remove them"
        )


def _select(where: str, archive: Archive, pair: Pair, known: Labels, classes: Sequence[str]) -> _Split:
    """Choose the images of a split whose labels training has. Raises DatasetError if there are none."""
    values = _labels_in(where, archive, pair)
    if (values.dtype.kind == "U") != (known.dtype.kind == "U"):
        raise DatasetError(
            f"{where}: {pair.labels} and {archive.training.labels} must both hold texts, or both whole numbers"
        )
    is_known = np.isin(values, known)
    index = np.flatnonzero(is_known)
    if not len(index):
        raise DatasetError(f"{where}: no label of {pair.labels} occurs in {archive.training.labels}")
    if len(index) < len(values):
        names = ", ".join(map(str, np.unique(values[~is_known])[:5].tolist()))
        archive.notes.append(
            f"{len(values) - len(index)} images of {pair.images} are left out, because training lacks their labels "
            f"({names})"
        )
    labels = np.searchsorted(known, values[index]).astype(np.int64)
    if absent := [name for number, name in enumerate(classes) if number not in set(labels.tolist())]:
        more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
        archive.notes.append(f"{pair.images} has no images of class {', '.join(absent[:5])}{more}")
    return _Split(pair.images, index, labels)


def _convert(parts: Sequence[Selected], scale: Scale, size: tuple[int, int]) -> tuple[NDArray[np.uint8], list[bytes]]:
    """Convert images to bytes (n, c, h, w) of a size. Also returns a digest of each image before it was resized."""
    n, channels = sum(len(part.index) for part in parts), next(parts[0].chunks()).shape[1]
    converted = np.empty((n, channels, *size), np.uint8)
    digests: list[bytes] = []
    for chunk in itertools.chain.from_iterable(part.chunks() for part in parts):
        images, start = scale.to_bytes(chunk), len(digests)
        digests += [hashlib.blake2b(image.data, digest_size=16).digest() for image in images]
        converted[start : start + len(images)] = fit_all(images, size)
    return converted, digests


def _duplicates(
    pool: Sequence[Selected], pool_digests: Sequence[bytes], test: Selected, test_digests: Sequence[bytes]
) -> list[str]:
    """The test images whose pixels are those of an image of the pool, with one of the latter."""
    places = ((part.key, number) for part in pool for number in part.index.tolist())
    first = dict(reversed(list(zip(pool_digests, places, strict=True))))
    found = []
    for digest, number in zip(test_digests, test.index.tolist(), strict=True):
        if digest in first:
            key, other = first[digest]
            found.append(f"{key}[{other}] = {test.key}[{number}]")
    return found
