"""Find and remove the arrays that searches made of folders of images and of npz files."""

import contextlib
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from objectives.base import DatasetError
from objectives.data import arrays, npz
from objectives.data.folders.folder import arrays_name

UNCHANGED = "unchanged"
BUSY_S = 3600.0  # a partial folder that changed within this time may still be written to
_ARRAYS = re.compile(r"[0-9a-f]{32}")
_PARTIAL = re.compile(r"\.[\w-]+\.[0-9a-f]{12}")
_DOWNLOAD = re.compile(r"\.download-\w{8}")
_FILES = re.compile(r"about\.json|(pool|test)-(images|labels)\.npy")


@dataclass(frozen=True)
class StoredArrays:
    """One folder of arrays, or of a process that was killed while it made one."""

    path: Path
    source: str | None  # the folder of images, or the file; None if it is unknown
    state: str  # state of the images, for the user
    is_needed: bool  # the next search of the folder or file would use it, or a process does now
    size_bytes: int
    age_s: float  # since it was made


def find_arrays(data_dir: Path) -> list[StoredArrays]:
    """Find arrays of folders and of npz files in the data folder and in the user's cache, and leftovers; newest first.

    Downloads and the arrays of built-in datasets are not among them.
    """
    found = []
    for path in _places(data_dir):
        with contextlib.suppress(OSError):  # it became whole, another process removed it, or another user owns it
            if _is_ours(path):
                found.append(_describe(path))
    return sorted(found, key=lambda entry: entry.age_s)


def remove(entries: Sequence[StoredArrays]) -> list[str]:
    """Remove folders. Returns what could not be removed, and why. What a process uses is left alone."""
    failures = []
    for entry in entries:
        try:
            is_being_made = entry.path.name.startswith(".") and entry.is_needed
            if is_being_made or arrays.is_in_use(entry.path):
                failures.append(f"{entry.path}: a process uses it; end its search first")
                continue
            shutil.rmtree(entry.path)
        except OSError as error:
            failures.append(f"{entry.path}: {error.strerror}")
    return failures


def _places(data_dir: Path) -> Iterator[Path]:
    for base in arrays.base_folders(data_dir):
        for path in (*(base / arrays.USERS_ARRAYS).glob("*"), *(base / "arrays").glob(".*"), *base.glob(".download-*")):
            if path.is_dir() and not path.is_symlink():
                yield path


def _is_ours(path: Path) -> bool:
    """Whether a search made a folder. The user may have others in the same places."""
    if _DOWNLOAD.fullmatch(path.name):
        return True
    is_named = _ARRAYS.fullmatch(path.name) or _PARTIAL.fullmatch(path.name)
    return bool(is_named) and all(_FILES.fullmatch(file.name) for file in path.iterdir())


def _describe(path: Path) -> StoredArrays:
    statuses = [file.stat() for file in (path, *path.rglob("*"))]
    size, age_s = sum(status.st_size for status in statuses), time.time() - max(s.st_mtime for s in statuses)
    if path.name.startswith("."):
        is_busy = age_s < BUSY_S
        state = "being made, or left by a killed process" if is_busy else "left by a killed process"
        return StoredArrays(path, None, state, is_busy, size, age_s)
    source = image_size = None
    with contextlib.suppress(DatasetError):
        about = arrays.read_about(path)
        source, image_size = about.get("source"), about.get("image_size")
    state = "in use" if arrays.is_in_use(path) else _state(path, source, image_size)
    return StoredArrays(path, source, state, state in ("in use", UNCHANGED), size, age_s)


def _state(path: Path, source: str | None, image_size: int | None) -> str:
    if source is None:
        return "of an earlier version, or damaged"
    images = Path(source)
    what = "file" if images.is_file() or images.suffix == ".npz" else "folder"
    if not images.exists():
        return f"the {what} is gone"
    with contextlib.suppress(DatasetError):
        name = npz.arrays_name(images, image_size) if what == "file" else arrays_name(images, image_size)
        if Path(name).name == path.name:
            return UNCHANGED
    return f"the {what} has changed"
