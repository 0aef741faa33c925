"""Finds the folders of a dataset's splits by their names, such as `train`, `val` and `test`."""

import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from objectives.base import DatasetError
from objectives.data.folders.class_folders import printable
from objectives.data.folders.listing import has_pictures, subfolders
from objectives.data.splits import listed

TRAIN = frozenset(("train", "training", "trn"))
VALIDATION = frozenset(("val", "valid", "validation", "validate", "dev"))
TEST = frozenset(("test", "tests", "testing", "tst", "eval", "evaluation", "holdout", "heldout"))
UNLABELLED = frozenset(("unlabeled", "unlabelled"))
# In this order: a folder called train_val is for training, test-dev for testing.
KINDS = {"training": TRAIN, "test": TEST, "validation": VALIDATION, "unlabelled": UNLABELLED}
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
    for place in dict.fromkeys((folder, down(folder))):
        inside = subfolders(place)
        head = f"--dataset folder:{folder}: {str(place)!r}"
        if not (splits := _named_as_splits(inside)):
            _refuse_unclear(inside, head)
            continue
        train = down(next((path for path in splits if _kind(path) == "training"), splits[0]))
        if subfolders(train) and not has_pictures(train, below=False):
            return _assign(folder, place, splits, head)
        if all(path in splits for path in inside if has_pictures(path)):
            state = f"images lie in {str(train)!r} itself" if has_pictures(train) else f"{str(train)!r} has no images"
            raise DatasetError(
                f"{head} holds splits ({_names(splits)}), not folders of classes, and {state}. Put the images of each "
                f"class into a folder of its own, such as {place}/train/cat/1.png and {place}/train/dog/1.png. If "
                "these are classes, give the folders other names"
            )
    _refuse_splits_inside(folder, down(folder))
    return None


def _refuse_unclear(folders: Sequence[Path], head: str) -> None:
    """Raise DatasetError if folders that are named like splits have classes, but not the same ones."""
    training = [path for path in folders if _kind(path) == "training" and _holds_classes(path)]
    held_out = [path for path in folders if _kind(path) in ("validation", "test") and has_pictures(path)]
    if training and held_out:
        raise DatasetError(
            f"{head} holds {_names([*training, *held_out])}, which are named like splits, but their folders inside "
            "have no name in common. If they are splits, call them 'train', 'val' and 'test', with the same folders "
            "of classes in each. If they are classes, give the folders other names"
        )


def _refuse_splits_inside(folder: Path, place: Path) -> None:
    """Raise DatasetError if folders that would be classes hold splits: their test images would be trained on."""
    for path in (path for path in subfolders(place) if has_pictures(path)):
        splits = _named_as_splits(subfolders(path))
        if len({_kind(split) for split in splits}) < 2:
            continue
        head = f"--dataset folder:{folder}: {str(path)!r} holds splits ({_names(splits)})"
        if any(has_pictures(split, below=False) for split in splits):
            inside = " ".join(f"*/{shlex.quote(split.name)}/" for split in splits)
            command = (
                f"(cd {shlex.quote(str(place))} && for part in {inside}; do "
                'new="splits/$(basename "$part")"; mkdir -p "$new"; mv "$part" "$new/$(dirname "$part")"; done)'
            )
            raise DatasetError(
                f"{head}, and folders of classes must lie in the splits, as in {splits[0].name}/{path.name}. To move "
                f"them, type {command}, and start the search again. If these are not splits, give the folders other "
                "names"
            )
        raise DatasetError(
            f"{head}, and other folders with images lie beside it. Give one of them: type --dataset {_typed(path)}"
        )


def describe_alike(folder: Path) -> tuple[str, ...]:
    """A sentence about classes that may be splits by other names: folders with the same names lie in all of them."""
    outer = [path for path in subfolders(folder) if has_pictures(path)]
    if len(outer) < 2 or not all(map(_holds_classes, outer)):
        return ()
    inner = [{printable(path.name) for path in subfolders(path) if has_pictures(path)} for path in outer]
    shared = sorted(set.intersection(*inner))
    if len(shared) < 2:
        return ()
    return (
        f"the classes are {listed([printable(path.name) for path in outer])}, and each holds folders named "
        f"{listed(shared)}. If those are the classes, call the outer folders 'train', 'val' and 'test'",
    )


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
    notes = [f"{_name_below(path, folder)} is not used: its images have no classes" for path in named["unlabelled"]]
    for kind, path in ((name, path) for name in ("validation", "test") for path in named[name]):
        if not has_pictures(path):
            raise DatasetError(
                f"{head} holds the {kind} split {printable(path.name)!r}, which has no images. Put images of each "
                f"class there, such as {path}/{min(classes)}/1.png, or remove the folder: the {kind} split is then a "
                f"part of {_name_below(training, folder)}"
            )
        below = down(path, classes)
        if reason := _why_unused(below, classes, _name_below(training, folder)):
            notes.append(
                f"{_name_below(path, folder)} is not used: {reason}; the {kind} split is a part of "
                f"{_name_below(training, folder)}"
            )
        else:
            held_out[kind] = below
    used = [path for kind in ("training", "validation", "test") for path in named[kind]]
    others = [path for path in subfolders(place) if path not in splits and has_pictures(path)]
    names = " and ".join(_name_below(path, folder) for path in used)
    notes += [f"{_name_below(path, folder)} is not used: the splits are {names}" for path in others]
    return SplitFolders(training, held_out.get("validation"), held_out.get("test"), tuple(notes))


def _by_kind(splits: Sequence[Path], head: str) -> dict[str, list[Path]]:
    """The folders of each kind, one for training and at most one for validation and test. Raises DatasetError."""
    named = {kind: [path for path in splits if _kind(path) == kind] for kind in KINDS}
    first = (named["training"] or splits)[0]
    advice = f"let the search split one folder: type --dataset {_typed(first)}"
    if not named["training"]:
        names = " and ".join(repr(printable(path.name)) for path in splits)
        raise DatasetError(f"{head} holds {names}, but no folder to train on. Call that one 'train', or {advice}")
    for kind in ("training", "validation", "test"):
        if len(named[kind]) > 1:
            raise DatasetError(
                f"{head} holds {len(named[kind])} folders for the {kind} split ({_names(named[kind])}). Keep one of "
                f"them there and move the others elsewhere, or {advice}"
            )
    return named


def _why_unused(folder: Path, classes: Collection[str], training: str) -> str | None:
    """Why a held-out folder has no images of classes; None if it has."""
    holding = [path for path in subfolders(folder) if has_pictures(path)]
    if len(holding) > 1 or _shared(holding, classes):
        return None
    if not holding or has_pictures(folder, below=False) or _kind(holding[0]):  # the last is `test/test`
        return "its images lie in no folders of classes"
    return f"its only class {printable(holding[0].name)!r} is not in {training}"


def _named_as_splits(folders: Sequence[Path]) -> list[Path]:
    """The folders named as splits, such as `seg_train` and `seg_test`; of one or of several datasets or classes.

    Names may have other words, the same in all. If these differ, as in `train` and `test_set`, classes decide.
    """
    alike = list[Path]()
    for rest in dict.fromkeys(_words(path)[1] for path in folders):
        group = [path for path in folders if _words(path)[1] == rest and _kind(path)]
        is_whole = {"training"} < {_kind(path) for path in group}
        if is_whole or (len(group) > 1 and all(_holds_classes(path) for path in group)):
            alike += group
    kinds = {_kind(path) for path in alike}
    with_words = [path for path in folders if path in alike or (_kind(path) and _kind(path) not in kinds)]
    related = {
        path
        for one in with_words
        for other in with_words
        if _kind(one) != _kind(other) and not {one, other} <= {*alike} and _have_shared_classes(one, other)
        for path in (one, other)
    }
    return sorted({*alike, *related})


def _have_shared_classes(one: Path, other: Path) -> bool:
    """Whether a folder of the same name, which holds images, lies in both."""
    classes = [printable(path.name) for path in subfolders(down(one)) if has_pictures(path)]
    return _shared([path for path in subfolders(down(other, classes)) if has_pictures(path)], classes)


def _shared(folders: Sequence[Path], classes: Collection[str]) -> bool:
    """Whether a folder has the name of a class, in any case."""
    known = {name.casefold() for name in classes}
    return any(printable(path.name).casefold() in known for path in folders)


def _holds_classes(folder: Path) -> bool:
    """Whether images lie only in folders inside, two or more."""
    return not has_pictures(folder, below=False) and sum(map(has_pictures, subfolders(folder))) > 1


def _kind(path: Path) -> str | None:
    """The kind of split that a folder's name means."""
    return next((kind for kind, words in KINDS.items() if _words(path)[0] & words), None)


def _words(path: Path) -> tuple[frozenset[str], tuple[str, ...]]:
    """The words in a folder's name that name a split, and the others. `trainA` has two, `testset` has one."""
    words = [_plain(word.casefold()) for word in re.split(r"[\W\d_]+|(?<=[a-z])(?=[A-Z])", path.name) if word]
    return frozenset(words) & (TRAIN | HELD_OUT), tuple(word for word in words if word not in TRAIN | HELD_OUT)


def _plain(word: str) -> str:
    """Such as `test` for `testset`."""
    beginning = re.sub("(set|data|images|imgs)$", "", word)
    return beginning if beginning in TRAIN | HELD_OUT else word


def _name_below(path: Path, root: Path) -> str:
    """A folder's name below the dataset's, such as `train/`."""
    return f"{printable(path.relative_to(root).as_posix())}/"


def _typed(folder: Path) -> str:
    return shlex.quote(f"folder:{folder}")


def _names(folders: Sequence[Path]) -> str:
    return ", ".join(repr(printable(path.name)) for path in folders)
