"""Finds the folders of a dataset's splits by their names, such as `train`, `val` and `test`."""

import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from objectives.base import DatasetError
from objectives.data.folders.class_folders import printable
from objectives.data.folders.listing import has_pictures, subfolders

TRAIN = frozenset(("train", "training", "trainset", "trn"))
VALIDATION = frozenset(("val", "valid", "validation", "valset", "dev", "devset"))
TEST = frozenset(("test", "testing", "testset", "tst", "eval", "evaluation", "holdout", "heldout"))
UNLABELLED = frozenset(("unlabeled", "unlabelled"))
HELD_OUT = VALIDATION | TEST | UNLABELLED


@dataclass(frozen=True)
class SplitFolders:
    """The folders that hold the classes of each split. None: the dataset has no such split."""

    training: Path
    validation: Path | None
    test: Path | None
    notes: tuple[str, ...]
    """Sentences about folders that are not used."""


def find_splits(folder: Path) -> SplitFolders | None:
    """Find the splits in a folder, or in the only folder inside that has images. None: the folder has none.

    Raises DatasetError when there are splits that cannot be used, and OSError.
    """
    holding = [path for path in subfolders(folder) if has_pictures(path)]
    whole = dict.fromkeys((folder, down(folder)))
    parts = holding[:1] if all(_named_as_splits(subfolders(path)) for path in holding) else []
    for place in dict.fromkeys((*whole, *parts)):
        inside = subfolders(place)
        if not (splits := _named_as_splits(inside)):
            continue
        names = ", ".join(repr(printable(path.name)) for path in splits)
        head = f"--dataset folder:{folder}: {str(place)!r}"
        train = down(next((path for path in splits if _words(path)[0] & TRAIN), splits[0]))
        if subfolders(train) and not has_pictures(train, below=False):
            if place in whole:
                return _assign(folder, place, splits, head)
            raise DatasetError(
                f"{head} holds splits ({names}), and so do the folders beside it. Give one of them: type --dataset "
                f"{_typed(place)}"
            )
        if place in whole and all(path in splits for path in inside if has_pictures(path)):
            state = f"images lie in {str(train)!r} itself" if has_pictures(train) else f"{str(train)!r} has no images"
            raise DatasetError(
                f"{head} holds splits ({names}), not folders of classes, and {state}. Put the images of each "
                f"class into a folder of its own, such as {folder}/train/cat/1.png and {folder}/train/dog/1.png. If "
                "these are classes, give the folders other names"
            )
    return None


def down(folder: Path, classes: Collection[str] = ()) -> Path:
    """Go down while only one folder inside holds images, and none lie next to it; at most to the known classes."""
    for _ in range(3):
        inside = subfolders(folder)
        holding = [path for path in inside if has_pictures(path)]
        if len(holding) != 1 or has_pictures(folder, below=False) or not subfolders(holding[0]):
            break
        if any(printable(path.name) in classes for path in inside):
            break
        folder = holding[0]
    return folder


def _assign(folder: Path, place: Path, splits: Sequence[Path], head: str) -> SplitFolders:
    """Give each split its folder. Raises DatasetError."""
    named = _by_kind(splits, head)
    training = down(named["training"][0])
    classes = {printable(path.name) for path in subfolders(training)}
    held_out = dict[str, Path]()
    notes = [f"{_shown(path, folder)} is not used: its images have no classes" for path in named["unlabelled"]]
    for kind, path in ((name, path) for name in ("validation", "test") for path in named[name]):
        if not has_pictures(path):
            raise DatasetError(
                f"{head} holds the {kind} split {printable(path.name)!r}, in which no images are. Put images of each "
                f"class there, such as {path}/{min(classes)}/1.png, or let the search split the training images: type "
                f"--dataset {_typed(training)}"
            )
        if _has_classes(below := down(path, classes), classes):
            held_out[kind] = below
        else:
            notes.append(
                f"{_shown(path, folder)} is not used: its images lie in no folders of classes; the {kind} split is a "
                f"part of {_shown(training, folder)}"
            )
    unknown = [path for path in subfolders(place) if path not in splits and has_pictures(path)]
    notes += [f"{_shown(path, folder)} is not used: its name is that of no split" for path in unknown]
    return SplitFolders(training, held_out.get("validation"), held_out.get("test"), tuple(notes))


def _by_kind(splits: Sequence[Path], head: str) -> dict[str, list[Path]]:
    """The folders of each kind, one for training and at most one for validation and test. Raises DatasetError."""
    # In this order: a folder called train_val is for training, test-dev for testing.
    kinds = {"training": TRAIN, "test": TEST, "validation": VALIDATION, "unlabelled": UNLABELLED}
    named: dict[str, list[Path]] = {kind: [] for kind in kinds}
    for path in splits:
        named[next(kind for kind, words in kinds.items() if _words(path)[0] & words)].append(path)
    first = (named["training"] or splits)[0]
    advice = f"let the search split one folder: type --dataset {_typed(first)}"
    if not named["training"]:
        names = " and ".join(repr(printable(path.name)) for path in splits)
        raise DatasetError(f"{head} holds {names}, but no folder to train on. Call that one 'train', or {advice}")
    for kind in ("training", "validation", "test"):
        if len(named[kind]) > 1:
            names = ", ".join(repr(printable(path.name)) for path in named[kind])
            raise DatasetError(
                f"{head} holds {len(named[kind])} folders for the {kind} split ({names}). Keep one of them there and "
                f"move the others elsewhere, or {advice}"
            )
    return named


def _has_classes(folder: Path, classes: Collection[str]) -> bool:
    """Whether images lie in folders of classes. One folder of another name holds them all, as `test/test` does."""
    holding = [path for path in subfolders(folder) if has_pictures(path)]
    known = {name.casefold() for name in classes}
    return len(holding) > 1 or any(printable(path.name).casefold() in known for path in holding)


def _named_as_splits(folders: Sequence[Path]) -> list[Path]:
    """The folders named as splits, such as `seg_train` and `seg_test`; of one or of several datasets or classes."""
    found = []
    for rest in dict.fromkeys(_words(path)[1] for path in folders):
        alike = [path for path in folders if _words(path)[1] == rest and _words(path)[0]]
        kinds = [kind for kind in (TRAIN, HELD_OUT) if any(_words(path)[0] & kind for path in alike)]
        if len(kinds) == 2 or (len(alike) > 1 and all(_holds_classes(path) for path in alike)):
            found += alike
    return sorted(found)


def _holds_classes(folder: Path) -> bool:
    """Whether images lie only in folders inside, two or more."""
    return not has_pictures(folder, below=False) and sum(map(has_pictures, subfolders(folder))) > 1


def _words(path: Path) -> tuple[frozenset[str], tuple[str, ...]]:
    """The words in a folder's name that name a split, and the others. `trainA` has two."""
    words = [word.casefold() for word in re.split(r"[\W\d_]+|(?<=[a-z])(?=[A-Z]$)", path.name) if word]
    return frozenset(words) & (TRAIN | HELD_OUT), tuple(word for word in words if word not in TRAIN | HELD_OUT)


def _shown(path: Path, root: Path) -> str:
    """A folder's name below the dataset's, such as `train/`."""
    return f"{printable(path.relative_to(root).as_posix())}/"


def _typed(folder: Path) -> str:
    return shlex.quote(f"folder:{folder}")
