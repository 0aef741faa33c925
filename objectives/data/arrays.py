"""Prepared arrays: images and labels that are written once as `.npy` files, which every worker then maps.

A folder of arrays holds `PART-images.npy` and `PART-labels.npy` for one or two parts ("pool", "test"), and
`about.json`. It is in the data folder, or in the user's cache if the data folder cannot be written.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import platformdirs

from objectives.base import DatasetError
from objectives.data.splits import Labelled

Part = Literal["pool", "test"]


def cache_dir() -> Path:
    """The user's own folder for data."""
    return Path(platformdirs.user_cache_dir("search-data", appauthor=False))


def base_folders(data_dir: Path) -> list[Path]:
    """Folders to write data to, in order of preference. A read-only data folder is left out."""
    # The mode bits decide, because root may write even into a folder that was made read-only on purpose.
    read_only = data_dir.is_dir() and not data_dir.stat().st_mode & 0o222
    return [cache_dir()] if read_only else list(dict.fromkeys((data_dir, cache_dir())))


def cache_key(head: str, groups: Mapping[str, Sequence[Path]], root: Path) -> str:
    """A digest of `head` and of the names, sizes and times of files below `root`. Opens none of them."""
    content = hashlib.sha256(head.encode())
    for name, paths in groups.items():
        content.update(b"\0\0" + name.encode())
        for path in paths:
            try:
                status = path.stat()
                version = f"{status.st_size} {status.st_mtime_ns}"
            except OSError:
                version = "-"
            content.update(b"\0" + os.fsencode(path.relative_to(root)) + b"\0" + version.encode())
    return content.hexdigest()[:32]


def find(data_dir: Path, name: str) -> Path | None:
    """The folder of arrays called `name`, if it exists."""
    return next((base / name for base in base_folders(data_dir) if (base / name).is_dir()), None)


def store(data_dir: Path, name: str, parts: Mapping[Part, Labelled], about: Mapping[str, Sequence[str]]) -> Path:
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


def read_about(prepared: Path) -> dict[str, list[str]]:
    """The content of `about.json`; `classes` are the names of the classes by index. Raises DatasetError."""
    try:
        about: dict[str, list[str]] = json.loads((prepared / "about.json").read_text(encoding="utf-8"))
        return about
    except (OSError, ValueError):
        raise _damaged(prepared) from None


def _damaged(prepared: Path) -> DatasetError:
    return DatasetError(f"{prepared} is damaged; delete it and run again")
