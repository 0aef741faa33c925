"""Makes arrays of a folder of images that has one folder per class.

`prepare` lists, decodes and splits the images once. It stores the arrays under a key made from the names, sizes and
times of the files, so a folder that changed has another key.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from objectives.base import DatasetError, PictureError
from objectives.data import arrays
from objectives.data.image_files import fit, read_image
from objectives.data.splits import SPLIT_SEED, Labelled, split_off_test

MIN_IMAGES_PER_CLASS = 5
MAX_SIDE_PX = 64
IMAGE_SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp")
IMAGE_SUFFIXES += (".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")

_log = logging.getLogger(__name__)

_Listing = dict[str, list[Path]]
"""The image files of each class, sorted."""


def prepare(folder: Path, data_dir: Path) -> Path:
    """Return the folder of the arrays. Makes them if necessary, and warns about unreadable images.

    Raises DatasetError when the folder has no usable classes, or the arrays cannot be written anywhere.
    """
    listing = _list_images(folder)
    name = _arrays_name(folder, listing)
    prepared = arrays.find(data_dir, name)
    if prepared is None:
        pool, test, skipped = _decode(folder, listing)
        about = {"classes": list(listing), "skipped": skipped}
        prepared = arrays.store(data_dir, name, {"pool": pool, "test": test}, about)
    if skipped := arrays.read_about(prepared)["skipped"]:
        _log.warning("folder:%s: skipped %s that cannot be read as images", folder, _summary(skipped))
    return prepared


def find_prepared(folder: Path, data_dir: Path) -> Path:
    """Return the folder of the arrays that `prepare` made. Raises DatasetError when the images changed since then."""
    prepared = arrays.find(data_dir, _arrays_name(folder, _list_images(folder)))
    if prepared is None:
        raise DatasetError(
            f"folder:{folder} is not prepared as it is now: its images changed after the search began, or no search "
            "has begun; undo the changes, or start a new search on it"
        )
    return prepared


def printable_name(path: Path) -> str:
    """The last part of a path as text that any file can hold."""
    return os.fsencode(path.name).decode("utf-8", "replace")


def _list_images(folder: Path) -> _Listing:
    if not folder.is_dir():
        state = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DatasetError(
            f"--dataset folder:{folder}: {str(folder)!r} {state}; give a folder with one folder per class"
        )
    try:
        classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        listing = {printable_name(entry): _images_in(entry) for entry in classes}
    except OSError as error:
        raise DatasetError(f"--dataset folder:{folder} cannot be read ({error}); make it readable") from None
    if len(listing) < 2:
        content = f"only one class, {next(iter(listing))!r}" if listing else "no folders"
        raise DatasetError(
            f"--dataset folder:{folder} holds {content}; put the images of each class, two or more, into a folder of "
            f"its own, such as {folder}/cat/1.png and {folder}/dog/1.png"
        )
    return listing


def _images_in(folder: Path) -> list[Path]:
    images: list[Path] = []
    for parent, folders, files in os.walk(folder):
        names = [n for n in (*files, *folders) if n.lower().endswith(IMAGE_SUFFIXES) and not n.startswith(".")]
        images.extend(Path(parent, name) for name in names)
        folders[:] = [name for name in folders if not name.startswith(".") and name not in names]
    return sorted(images)


def _arrays_name(folder: Path, listing: _Listing) -> str:
    return "folders/" + arrays.cache_key(f"1 {SPLIT_SEED} {MAX_SIDE_PX}", listing, folder)


def _decode(folder: Path, listing: _Listing) -> tuple[Labelled, Labelled, list[str]]:
    """Decode the images. Returns the pool, the test part and the names of unreadable files."""
    images: list[Image.Image] = []
    labels: list[int] = []
    skipped: list[str] = []
    sides: list[int] = []
    for label, paths in enumerate(listing.values()):
        for path in paths:
            try:
                image = read_image(path)
            except PictureError:
                skipped.append(str(path.relative_to(folder)))
                continue
            sides.extend(image.size)
            image.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS)
            images.append(image)
            labels.append(label)
    _check_classes(folder, {name: (labels.count(i), len(paths)) for i, (name, paths) in enumerate(listing.items())})
    if len(skipped) > 0.1 * (len(skipped) + len(labels)):
        raise DatasetError(
            f"folder:{folder} has {_summary(skipped)} out of {len(skipped) + len(labels)} that cannot be read as "
            "images, more than a tenth; repair or remove them"
        )
    pool, test = split_off_test(_stack(images, _common_side_px(sides)), np.array(labels, np.int64))
    return pool, test, skipped


def _check_classes(folder: Path, counts: Mapping[str, tuple[int, int]]) -> None:
    """Raise DatasetError for classes with too few images; `counts` are (readable, files) by class."""
    small = []
    for name, (readable, files) in counts.items():
        if readable < MIN_IMAGES_PER_CLASS:
            unread = f" ({files - readable} more cannot be read)" if files > readable else ""
            small.append(f"class {name!r} has {readable} image{'' if readable == 1 else 's'}{unread}")
    if small:
        more = f" and {len(small) - 5} more classes have too few" if len(small) > 5 else ""
        raise DatasetError(
            f"folder:{folder}: {', '.join(small[:5])}{more}, and every class needs {MIN_IMAGES_PER_CLASS}; add images "
            f"to the small classes in {str(folder)!r}, or remove them"
        )


def _summary(skipped: Sequence[str]) -> str:
    more = ", ..." if len(skipped) > 3 else ""
    return f"{len(skipped)} file{'s' if len(skipped) > 1 else ''} ({', '.join(map(repr, skipped[:3]))}{more})"


def _common_side_px(sides: Sequence[int]) -> int:
    """The median side, rounded to a multiple of 4 so that networks may pool twice, from 16 to 64."""
    return int(np.clip(4 * round(float(np.median(sides)) / 4), 16, MAX_SIDE_PX))


def _stack(images: Sequence[Image.Image], side_px: int) -> NDArray[np.uint8]:
    """Stack images of any size to (n, c, h, w), with one channel when nearly all are grey."""
    # JPEG files of grey images are a few levels off.
    coloured = np.mean([i.mode == "RGB" and np.ptp(np.asarray(i), axis=2).max() > 12 for i in images])
    mode, channels = ("RGB", 3) if coloured > 0.05 else ("L", 1)
    stacked = np.empty((len(images), channels, side_px, side_px), np.uint8)
    for i, image in enumerate(images):
        fitted = np.asarray(fit(image.convert(mode), (side_px, side_px)))
        stacked[i] = np.atleast_3d(fitted).transpose(2, 0, 1)
    return stacked
