"""Makes arrays of a folder of images that has one folder per class.

`prepare` lists, decodes and splits the images once. It stores the arrays under a key made from the names, sizes and
times of the files, so a folder that changed has another key.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from objectives.base import DatasetError, PictureError
from objectives.data import arrays
from objectives.data.folders.class_folders import ClassFolders, list_classes
from objectives.data.folders.listing import examples
from objectives.data.pictures.deep_pixels import Range, is_deep, range_in_use, to_float, to_grey
from objectives.data.pictures.image_files import fit, is_heic, read_picture
from objectives.data.splits import SPLIT_SEED, Labelled, shuffled, stratified_split

MIN_IMAGES_PER_CLASS = 5
MAX_SIDE_PX = 64
MAX_DAMAGED = 0.1
"""Share of the images that may be unreadable. More is a broken copy or download, and not to be trained on."""


class Prepared(NamedTuple):
    """The arrays of a folder."""

    path: Path
    left_out: str | None
    """A sentence for the user about the files that are not in the arrays."""


@dataclass
class _Decoded:
    """The images of a folder, at most 64 pixels a side."""

    images: list[Image.Image] = field(default_factory=list)
    """In mode "L" or "RGB", or "F" for more than 8 bits."""
    labels: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """(h, w) of the files."""
    skipped: list[Path] = field(default_factory=list)
    n_cut: int = 0


def prepare(folder: Path, data_dir: Path, image_size: int | None = None) -> Prepared:
    """Make the arrays if necessary. `image_size`: pixels a side; None: the median, at most 64.

    Raises DatasetError when the folder has no usable classes, or the arrays cannot be written anywhere.
    """
    found = list_classes(folder)
    name = _arrays_name(found)
    path = arrays.find(data_dir, name)
    if path is None:
        _check_counts(found)
        decoded = _decode(found)
        _check_damage(found, decoded.skipped)
        for file in decoded.skipped:
            found.leave_out(file)
        _check_counts(found)
        return _described(found, _store(data_dir, name, found, decoded))
    arrays.set_source(path, folder.resolve())
    return _known(found, path)


def find_prepared(folder: Path, data_dir: Path, image_size: int | None = None) -> Prepared:
    """Find the arrays that `prepare` made. Raises DatasetError when the images changed since then."""
    found = list_classes(folder)
    path = arrays.find(data_dir, _arrays_name(found))
    if path is None:
        raise DatasetError(
            f"folder:{folder} is not prepared as it is now: its images changed after the search began, or no search "
            "has begun; undo the changes, or start a new search on it"
        )
    return _known(found, path)


def arrays_name(folder: Path) -> str:
    """The name of the arrays of a folder as it is now. Raises DatasetError when it has no usable classes."""
    return _arrays_name(list_classes(folder))


def _arrays_name(found: ClassFolders) -> str:
    key = arrays.cache_key(f"2 {SPLIT_SEED} {MAX_SIDE_PX}", found.files, found.root)
    return f"{arrays.FOLDERS}/{key}"


def _known(found: ClassFolders, path: Path) -> Prepared:
    for name in arrays.read_about(path).get("skipped", ()):
        found.leave_out(found.root / name)
    return _described(found, path)


def _described(found: ClassFolders, path: Path) -> Prepared:
    name = f"folder:{found.root}"
    sentences = [found.all_left_out().sentence(name, sum(map(len, found.files.values())))]
    if n_cut := arrays.read_about(path).get("n_cut"):
        state = f"of {n_cut} with colours of 16 bits, Pillow reads the upper 8 bits"
        sentences.append(f"{name}: {state}; save such images with 8 bits, or in grey, to use their whole range")
    return Prepared(path, ". ".join(filter(None, sentences)) or None)


def _decode(found: ClassFolders) -> _Decoded:
    decoded = _Decoded()
    for label, files in enumerate(found.files.values()):
        for path in files:
            try:
                image, size, is_cut = read_picture(path)
                image = to_float(image) if is_deep(image) else image
            except PictureError:
                decoded.skipped.append(path)
                continue
            image.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS)
            decoded.images.append(image)
            decoded.labels.append(label)
            decoded.sizes.append(size)
            decoded.n_cut += is_cut
    return decoded


def _store(data_dir: Path, name: str, found: ClassFolders, decoded: _Decoded) -> Path:
    """Split the images, scale them and store the arrays."""
    labels = np.array(decoded.labels, np.int64)
    pool, test = stratified_split(labels, round(len(labels) / 5))
    test = shuffled(test)  # files are sorted by class
    # The test part decides nothing, so its values do not count.
    value_range = range_in_use([decoded.images[i] for i in pool if is_deep(decoded.images[i])])
    images = _stack(decoded.images, _common_side_px(decoded.sizes), value_range)
    about: arrays.About = {
        "classes": list(found.files),
        "skipped": [str(path.relative_to(found.root)) for path in decoded.skipped],
        "n_cut": decoded.n_cut,
        "source": str(found.root.resolve()),
        "digest": arrays.digest(images[pool], labels[pool]),
        "n_test": len(test),
        "original_size": [round(side) for side in np.median(decoded.sizes, axis=0).tolist()],
        "value_range": value_range,
    }
    parts: dict[arrays.Part, Labelled] = {"pool": (images[pool], labels[pool]), "test": (images[test], labels[test])}
    return arrays.store(data_dir, name, parts, about)


def _check_counts(found: ClassFolders) -> None:
    """Raise DatasetError for classes with too few images."""
    small = []
    for name, files in found.files.items():
        if (n := len(files)) < MIN_IMAGES_PER_CLASS:
            reasons = "; ".join(found.left_out[name])
            why = f" (left out: {reasons})" if reasons else ""
            small.append(f"class {name!r} has {n} image{'' if n == 1 else 's'}{why}")
    if small:
        more = f" and {len(small) - 5} more classes have too few" if len(small) > 5 else ""
        raise DatasetError(
            f"folder:{found.root}: {', '.join(small[:5])}{more}, and every class needs {MIN_IMAGES_PER_CLASS}; add "
            f"images to the small classes in {str(found.root)!r}, or remove them"
        )


def _check_damage(found: ClassFolders, skipped: Sequence[Path]) -> None:
    """Raise DatasetError when many files are damaged."""
    damaged = [str(path.relative_to(found.root)) for path in skipped if not is_heic(path)]
    n = sum(map(len, found.files.values()))
    if len(damaged) > MAX_DAMAGED * n:
        files = f"{len(damaged)} file{'s' if len(damaged) > 1 else ''} ({examples(damaged)})"
        raise DatasetError(
            f"folder:{found.root} has {files} out of {n} that cannot be read as images, more than a tenth; repair or "
            f"remove them. The first: {_why_damaged(found.root / damaged[0])}"
        )


def _why_damaged(path: Path) -> str:
    try:
        read_picture(path)
    except PictureError as error:
        return str(error)
    return f"{str(path)!r} can be read now; run again"


def _common_side_px(sizes: Sequence[tuple[int, int]]) -> int:
    """The median side, rounded to a multiple of 4 so that networks may pool twice, from 16 to 64."""
    return int(np.clip(4 * round(float(np.median(sizes)) / 4), 16, MAX_SIDE_PX))


def _stack(images: Sequence[Image.Image], side_px: int, value_range: Range | None) -> NDArray[np.uint8]:
    """Stack images of any size to (n, c, h, w), with one channel when nearly all are grey."""
    images = [to_grey(image, value_range) if is_deep(image) else image for image in images]
    # JPEG files of grey images are a few levels off.
    coloured = np.mean([i.mode == "RGB" and np.ptp(np.asarray(i), axis=2).max() > 12 for i in images])
    mode, channels = ("RGB", 3) if coloured > 0.05 else ("L", 1)
    stacked = np.empty((len(images), channels, side_px, side_px), np.uint8)
    for i, image in enumerate(images):
        fitted = np.asarray(fit(image.convert(mode), (side_px, side_px)))
        stacked[i] = np.atleast_3d(fitted).transpose(2, 0, 1)
    return stacked
