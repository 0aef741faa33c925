"""Names of datasets: what a user types after `--dataset`, and what studies and models are called."""

import difflib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from objectives.base import DatasetError
from objectives.data.folders.class_folders import printable
from objectives.data.torchvision_sets import SETS

BUILT_IN = (*SETS, "digits")
OWN = ("folder", "npz")
"""Kinds of the user's own data. Their names have a path."""
NAMES = (*BUILT_IN, "folder:PATH", "npz:FILE")


UNMIRRORED = frozenset(name for name in BUILT_IN if name not in ("fashion-mnist", "cifar10", "cifar100"))
"""Datasets of digits and letters, which a mirror makes unreadable."""


def may_be_mirrored(name: str) -> bool:
    """Whether a mirrored image may still show its class. The search finds out for the user's own data."""
    return name not in UNMIRRORED


def parse_name(name: str) -> tuple[str, Path | None]:
    """Split a dataset's name into its kind and, for `folder:PATH` and `npz:FILE`, the path.

    Raises DatasetError when the dataset does not exist.
    """
    kind, _, path = name.partition(":")
    if kind == "folder" and path.lower().endswith(".npz") and Path(path).expanduser().is_file():
        raise DatasetError(f"--dataset {name}: {path!r} is a file; type --dataset {shlex.quote(f'npz:{path}')}")
    if kind in OWN and path:
        return kind, Path(path).expanduser()
    if name in BUILT_IN:
        return name, None
    allowed = f"allowed: {', '.join(NAMES)}"
    if kind in OWN:
        what, example = ("folder", "folder:images") if kind == "folder" else ("file", "npz:images.npz")
        raise DatasetError(f"--dataset {name!r} lacks a {what} name; {allowed}; type for example --dataset {example}")
    close = _near(name)
    hint = f". Did you mean {' or '.join(close)}? Type --dataset {shlex.quote(close[0])}" if close else ""
    raise DatasetError(f"there is no dataset {name!r}; {allowed}{hint}")


def _near(name: str) -> Sequence[str]:
    """Names that the user may have meant."""
    if name and Path(name).is_dir():
        return [f"folder:{name}"]
    if name.lower().endswith(".npz"):
        return [f"npz:{name}"]
    plain = _plain(name)
    equal = [known for known in BUILT_IN if _plain(known) == plain]
    longer = [known for known in BUILT_IN if len(plain) > 3 and _plain(known).startswith(plain)]
    return equal or longer or difflib.get_close_matches(name.lower(), BUILT_IN, n=1)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def has_path(name: str) -> bool:
    """Whether a name is one of the user's own data, such as `folder:pets`."""
    return name.partition(":")[0] in OWN and ":" in name


def is_same_dataset(name: str, other: str) -> bool:
    """Whether two names mean the same dataset, as `folder:pets` and `folder:./pets/` do."""
    (kind, _, path), (other_kind, _, other_path) = name.partition(":"), other.partition(":")
    if kind == other_kind and kind in OWN and path and other_path:
        return Path(path).expanduser().resolve() == Path(other_path).expanduser().resolve()
    return name == other


def dataset_slug(name: str, depth: int = 1) -> str:
    """A dataset's name for use in names of studies and models: `mnist`, `folder-pets`. Raises DatasetError.

    depth: number of folders at the end of a path that its name has; a file counts as one.
    """
    kind, path = parse_name(name)
    if path is None:
        return kind
    path = path.resolve()
    if kind == "npz" and path.suffix.lower() == ".npz":
        path = path.with_suffix("")
    parts = path.parts[1:][-depth:] or ("pictures",)
    return "-".join((kind, *(re.sub(r"[^\w.-]+", "-", printable(part)) for part in parts)))
