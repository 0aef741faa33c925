"""Prepared arrays: images and labels that are written once as `.npy` files, which every worker then maps.

A folder of arrays holds `PART-images.npy` and `PART-labels.npy` for one or two parts ("pool", "test"), and
`about.json`. It is in the data folder, or in the user's cache if the data folder cannot be written. Arrays of a user's
folder of images or of an npz file are in `folders/`, others in `arrays/`.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, NoReturn, NotRequired, TypedDict

import numpy as np
import platformdirs
from numpy.typing import NDArray

from objectives.base import MAX_DUPLICATES, DatasetError
from objectives.data.splits import Labelled, find_duplicates
from objectives.files import write_atomic

Part = Literal["pool", "test"]

_held: dict[Path, BinaryIO] = {}
"""Open files by the arrays that this process uses. A lock ends with its process."""

N_PAIRS = 3
"""Number of duplicates in a sentence."""

USERS_ARRAYS = "folders"
"""The folder of the arrays of users' own images, in folders and in npz files."""


class Prepared(NamedTuple):
    """The arrays of a user's folder or file."""

    path: Path
    left_out: str | None = None
    """A sentence for the user about the files that are not in the arrays."""
    notes: Sequence[str] = ()
    """Sentences for the user about what is odd in the folder as it is now. Those about pixels are in `About`."""


class About(TypedDict):
    """The content of `about.json`. Earlier versions wrote only the first two."""

    classes: Sequence[str]
    """Names of the classes by index."""
    skipped: NotRequired[Sequence[str]]
    """Files that cannot be read, below the folder."""
    n_cut: NotRequired[int]
    """Number of images with colours of 16 bits, of which the upper 8 were read."""
    source: NotRequired[str]
    """The folder or file of the images."""
    digest: NotRequired[str]
    """As `digest` computes it for the pool, or `split_digest` if the source has splits."""
    n_test: NotRequired[int]
    n_train: NotRequired[int | None]
    """Number of training images, which come first in the pool. None if the source has no validation split."""
    origins: NotRequired[Mapping[str, str]]
    """As in `objectives.data.datasets.Dataset`."""
    test_classes: NotRequired[Mapping[str, int]]
    """Number of test images by class."""
    duplicates: NotRequired[Sequence[str]]
    """As in `objectives.data.datasets.Dataset`."""
    notes: NotRequired[Sequence[str]]
    """As in `objectives.data.datasets.Dataset`."""
    original_size: NotRequired[Sequence[int] | None]
    """Median (h, w) of the images before they were resized, if they were."""
    image_size: NotRequired[int | None]
    """Pixels a side that the user asked for."""
    value_range: NotRequired[Sequence[float] | None]
    """As in `objectives.data.files.image_files.Framing`."""


def complete(
    about: About,
    parts: Mapping[Part, Labelled],
    digests: Mapping[Part, Sequence[tuple[bytes, str]]],
    *,
    has_splits: bool,
) -> About:
    """Add counts, a digest and duplicates. digests: of the images of each part, with their names.

    `has_splits`: whether the source has a validation or a test split, which then belongs to the digest.
    """
    (_, labels), pool, n_train = parts["test"], digests["pool"], about.get("n_train")
    same, notes = find_duplicates(pool, digests["test"]), list(about.get("notes", ()))
    if n_train is not None and (pairs := find_duplicates(pool[:n_train], pool[n_train:])):
        state = "1 validation image is" if len(pairs) == 1 else f"{len(pairs):,} validation images are"
        more = ", ..." if len(pairs) > N_PAIRS else ""
        notes.append(
            f"{state} among the training images as well, which flatters the validation score: "
            f"{', '.join(pairs[:N_PAIRS])}{more}"
        )
    if len(same) > MAX_DUPLICATES:
        notes.append(f"{len(same):,} test images are among the others too, of which {MAX_DUPLICATES:,} are named")
    counts = np.bincount(labels, minlength=len(about["classes"])).tolist()
    return {
        **about,
        "digest": split_digest(parts, n_train) if has_splits else digest(*parts["pool"]),
        "n_test": len(labels),
        "test_classes": dict(zip(about["classes"], counts, strict=True)),
        "duplicates": same[:MAX_DUPLICATES],
        "notes": notes,
    }


def cache_dir() -> Path:
    """The user's own folder for data."""
    return Path(platformdirs.user_cache_dir("search-data", appauthor=False))


def base_folders(data_dir: Path) -> list[Path]:
    """Folders to write data to, in order of preference. A read-only data folder is left out."""
    # The mode bits decide, because root may write even into a folder that was made read-only on purpose.
    read_only = data_dir.is_dir() and not data_dir.stat().st_mode & 0o222
    return [cache_dir()] if read_only else list(dict.fromkeys((data_dir, cache_dir())))


def cache_key(head: str, groups: Mapping[str, Mapping[Path, os.stat_result]], root: Path) -> str:
    """A digest of `head` and of the names, sizes and times of files below `root`."""
    content = hashlib.sha256(head.encode())
    for name, files in groups.items():
        content.update(b"\0\0" + name.encode())
        for path, status in files.items():
            version = f"{status.st_size} {status.st_mtime_ns}"
            content.update(b"\0" + os.fsencode(path.relative_to(root)) + b"\0" + version.encode())
    return content.hexdigest()[:32]


def digest(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    """First 32 hexadecimal digits of a SHA-256 over images and labels."""
    content = hashlib.sha256(repr((images.shape, str(labels.dtype))).encode())
    content.update(images.data)
    content.update(labels.data)
    return content.hexdigest()[:32]


def split_digest(parts: Mapping[Part, Labelled], n_train: int | None) -> str:
    """Like `digest`, over the pool, the test part and the number of training images."""
    content = repr((digest(*parts["pool"]), digest(*parts["test"]), n_train))
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def find(data_dir: Path, name: str) -> Path | None:
    """The folder of arrays called `name`, if it exists."""
    return next((base / name for base in base_folders(data_dir) if os.path.isdir(base / name)), None)


def refuse_changed(dataset: str) -> NoReturn:
    """Raise DatasetError for data that have no arrays as they are now."""
    why = "its files changed after the search began, or no search has begun"
    raise DatasetError(f"{dataset} is not prepared as it is now: {why}; undo the change, or start a new search on it")


def store(data_dir: Path, name: str, parts: Mapping[Part, Labelled], about: About) -> Path:
    """Write arrays to a folder called `name` and return its path.

    The folder appears when it is complete, so several processes may store the same arrays at a time.
    Raises DatasetError when it cannot be written anywhere.
    """
    reasons = []
    for place in (base / name for base in base_folders(data_dir)):
        temporary = place.with_name(f".{place.name}.{secrets.token_hex(6)}")
        try:
            temporary.mkdir(parents=True)
            for part, (images, labels) in parts.items():
                np.save(temporary / f"{part}-images.npy", images)
                np.save(temporary / f"{part}-labels.npy", labels)
            (temporary / "about.json").write_text(json.dumps(about), encoding="utf-8")
            temporary.rename(place)
            return place
        except OSError as error:
            if place.is_dir():  # another process was quicker
                return place
            reasons.append(f"{place.parent} ({error.strerror})")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    raise DatasetError(
        f"the dataset's arrays cannot be written to {' or to '.join(reasons)}; name a writable folder with --data-dir"
    )


def read(prepared: Path, part: Part) -> Labelled:
    """Map the images of one part into memory, read-only, and load its labels. Raises DatasetError."""
    try:
        images = np.load(prepared / f"{part}-images.npy", mmap_mode="r")
        return images, np.load(prepared / f"{part}-labels.npy")
    except (OSError, ValueError, EOFError):
        raise _damaged(prepared) from None


def read_about(prepared: Path) -> About:
    """The content of `about.json`. Raises DatasetError."""
    try:
        about: About = json.loads((prepared / "about.json").read_text(encoding="utf-8"))
        return about
    except (OSError, ValueError):
        raise _damaged(prepared) from None


def set_source(prepared: Path, source: Path) -> None:
    """Note where the images are now if their folder or file was moved. Nothing is noted in read-only arrays."""
    about = read_about(prepared)
    if "source" in about and not os.path.exists(about["source"]):
        with contextlib.suppress(OSError):
            write_atomic(prepared / "about.json", json.dumps({**about, "source": str(source)}).encode())


def hold(prepared: Path) -> None:
    """Mark arrays as used by this process, until it ends. Where a file system has no locks, nothing is marked."""
    if prepared not in _held:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            _held[prepared] = (prepared / "about.json").open("rb")
            fcntl.flock(_held[prepared], fcntl.LOCK_SH | fcntl.LOCK_NB)


def is_in_use(prepared: Path) -> bool:
    """Whether a process holds the arrays."""
    with contextlib.suppress(ImportError, FileNotFoundError):
        import fcntl

        with (prepared / "about.json").open("rb") as about:
            try:
                fcntl.flock(about, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError:  # this file system has no locks
                return False
    return False


def stored(data_dir: Path) -> Iterator[Path]:
    """The folders of arrays of users' own images, newest first; those that cannot be read are left out."""
    places = [path for base in base_folders(data_dir) for path in (base / USERS_ARRAYS).glob("[!.]*")]
    for path in sorted(places, key=lambda path: path.stat().st_mtime, reverse=True):
        with contextlib.suppress(DatasetError):
            read_about(path)
            yield path


def digest_of(prepared: Path) -> str:
    """The digest of the pool. Raises DatasetError."""
    return read_about(prepared).get("digest") or digest(*read(prepared, "pool"))


def _damaged(prepared: Path) -> DatasetError:
    return DatasetError(f"{prepared} is damaged; delete it and run again")
