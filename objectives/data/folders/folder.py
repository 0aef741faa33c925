"""Makes arrays of a folder of images that has one folder per class, or one per split with classes inside.

`prepare` lists, decodes and splits the images once. It stores the arrays under a key made from the names, sizes and
times of the files, so a folder that changed has another key.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from objectives.base import DatasetError, PictureError
from objectives.data import arrays
from objectives.data.arrays import Prepared
from objectives.data.files.deep_pixels import range_in_use
from objectives.data.files.image_files import is_heic, read_picture
from objectives.data.files.resizing import MAX_SIDE_PX
from objectives.data.folders.class_folders import printable
from objectives.data.folders.contents import Contents, check_counts, list_contents
from objectives.data.folders.decoding import MAX_COLOURED, Decoded, common_side_px, decode, stack
from objectives.data.folders.listing import examples
from objectives.data.folders.memory_check import MemoryCheck
from objectives.data.splits import SPLIT_SEED, Labelled, pixel_digest, shuffled, stratified_split

MAX_DAMAGED = 0.1
"""Share of the images that may be unreadable. More is a broken copy or download, and not to be trained on."""


def prepare(folder: Path, data_dir: Path, image_size: int | None = None, *, make: bool = True) -> Prepared:
    """Find the arrays, or make them. `image_size`: pixels a side; None: the median, at most 64.

    Raises DatasetError when the folder has no usable classes, or the arrays cannot be written anywhere; with `make`
    False, when the images have changed since they were made.
    """
    contents = list_contents(folder)
    name = _arrays_name(contents, image_size)
    path = arrays.find(data_dir, name)
    if path is None and not make:
        arrays.refuse_changed(f"folder:{folder}")
    if path is None:
        check_counts(contents)
        images, skipped = _read(contents, image_size)
        return _describe(contents, _store(data_dir, name, contents, images, skipped, image_size))
    if make:
        arrays.set_source(path, folder.resolve())
    for name in arrays.read_about(path).get("skipped", ()):
        contents.leave_out(contents.root / name)
    return _describe(contents, path)


def arrays_name(folder: Path, image_size: int | None = None) -> str:
    """The name of the arrays of a folder as it is now. Raises DatasetError when it has no usable classes."""
    return _arrays_name(list_contents(folder), image_size)


def _arrays_name(contents: Contents, image_size: int | None) -> str:
    head = f"2 {SPLIT_SEED} {MAX_SIDE_PX}"  # with no more than the classes, the key of earlier versions
    groups = contents.training.files
    if image_size is not None:
        head += f" image_size {image_size}"
    if contents.has_splits:
        parts = contents.parts.items()
        head += f" splits {[part.shown for _, part in parts]}"
        groups = {f"{split}/{name}": files for split, part in parts for name, files in part.files.items()}
    return f"{arrays.USERS_ARRAYS}/{arrays.cache_key(head, groups, contents.root)}"


def _describe(contents: Contents, path: Path) -> Prepared:
    name = f"folder:{contents.root}"
    sentences = [contents.all_left_out().sentence(name, contents.n_images)]
    if n_cut := arrays.read_about(path).get("n_cut"):
        state = f"of {n_cut} with colours of 16 bits, Pillow reads the upper 8 bits"
        sentences.append(f"{name}: {state}; save such images with 8 bits, or in grey, to use their whole range")
    notes = [*contents.notes, *contents.missing_classes()]
    return Prepared(path, ". ".join(filter(None, sentences)) or None, notes)


def _files(contents: Contents) -> Iterator[tuple[str, int, Path]]:
    """The split, the class and the path of each image."""
    for split, part in contents.parts.items():
        for label, files in enumerate(part.files.values()):
            yield from ((split, label, path) for path in files)


def _read(contents: Contents, image_size: int | None) -> tuple[dict[int, Decoded], list[Path]]:
    """Decode all images, by number. Also returns the files that cannot be read, which leave the contents."""
    paths = [path for _, _, path in _files(contents)]
    check = MemoryCheck(f"folder:{contents.root}", len(paths), image_size)
    decoded = decode(paths, image_size or MAX_SIDE_PX, check)
    skipped = [path for path, image in zip(paths, decoded, strict=True) if image is None]
    _check_damage(contents, skipped)
    for path in skipped:
        contents.leave_out(path)
    check_counts(contents)
    return dict(enumerate(image for image in decoded if image is not None)), skipped


def _store(
    data_dir: Path,
    name: str,
    contents: Contents,
    images: dict[int, Decoded],
    skipped: Sequence[Path],
    image_size: int | None,
) -> Path:
    """Split the images, make them square and store the arrays. Empties `images`."""
    split_names, class_indices, paths = zip(*_files(contents), strict=True)
    splits, labels = np.array(split_names), np.array(class_indices, np.int64)
    training, validation, test = _split(splits, labels)
    pool = np.concatenate([training, validation])
    # The test part decides nothing: of a test folder neither the sizes and colours nor, of any part, the values.
    deciding = np.flatnonzero(splits != "test").tolist()
    value_range = range_in_use([pixels for at in pool.tolist() if (pixels := images[at].deep_pixels) is not None])
    channels = 3 if np.mean([images[at].is_coloured for at in deciding]) > MAX_COLOURED else 1
    n_cut = sum(image.is_cut for image in images.values())
    sizes = np.array([images[at].size for at in range(len(images))])
    side_px = image_size or common_side_px(sizes[deciding], MAX_SIDE_PX)
    parts: dict[arrays.Part, Labelled] = {
        "pool": (stack(images, pool, channels, side_px, value_range), labels[pool]),
        "test": (stack(images, test, channels, side_px, value_range), labels[test]),
    }
    names = np.array([printable(path.relative_to(contents.root).as_posix()) for path in paths])
    about: arrays.About = {
        "classes": contents.classes,
        "skipped": [str(path.relative_to(contents.root)) for path in skipped],
        "n_cut": n_cut,
        "source": str(contents.root.resolve()),
        "n_train": None if contents.validation is None else len(training),
        "original_size": [round(side) for side in np.median(sizes[deciding], axis=0).tolist()],
        "image_size": image_size,
        "value_range": value_range,
        "origins": contents.origins(),
    }
    digests: dict[arrays.Part, list[tuple[bytes, str]]] = {
        "pool": _digests(parts["pool"][0], sizes[pool], names[pool]),
        "test": _digests(parts["test"][0], sizes[test], names[test]),
    }
    has_splits = contents.validation is not None or contents.test is not None
    about = arrays.complete(about, parts, digests, has_splits=has_splits)
    return arrays.store(data_dir, name, parts, about)


def _digests(images: NDArray[np.uint8], sizes: NDArray[np.int64], names: NDArray[np.str_]) -> list[tuple[bytes, str]]:
    """Digests and names of images (n, c, h, w). sizes: (h, w) of their files, shape (n, 2).

    Prepared images are compared, not files: a file that was saved again without loss gives the same pixels, and no
    file is read again. Two images are the same if their pixels and the sizes of their files agree.
    """
    digests = [pixel_digest(image, size.tobytes()) for image, size in zip(images, sizes, strict=True)]
    return list(zip(digests, names.tolist(), strict=True))


def _split(
    splits: NDArray[np.str_], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The indices for training, validation and test; without a test folder, that is a fifth of the training images.

    For a folder without a validation split, all the rest is for training here; `load_dataset` splits it.
    """
    training, validation, test = (np.flatnonzero(splits == split) for split in ("training", "validation", "test"))
    if not len(test):
        kept, held_out = stratified_split(labels[training], round(len(training) / 5))
        training, test = training[kept], training[held_out]
    return training, validation, shuffled(test)  # files are sorted by class


def _check_damage(contents: Contents, skipped: Sequence[Path]) -> None:
    """Raise DatasetError when many files are damaged."""
    damaged = [str(path.relative_to(contents.root)) for path in skipped if not is_heic(path)]
    n = contents.n_images
    if len(damaged) > MAX_DAMAGED * n:
        files = f"{len(damaged)} file{'s' if len(damaged) > 1 else ''} ({examples(damaged)})"
        raise DatasetError(
            f"folder:{contents.root} has {files} out of {n} that cannot be read as images, more than a tenth; repair "
            f"or remove them. The first: {_why_damaged(contents.root / damaged[0])}"
        )


def _why_damaged(path: Path) -> str:
    try:
        read_picture(path)
    except PictureError as error:
        return str(error)
    return f"{str(path)!r} can be read now; run again"
