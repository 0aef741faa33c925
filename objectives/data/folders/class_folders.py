"""Finds the classes of a folder of images, and refuses folders of another layout, saying what to type."""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from objectives.base import DatasetError
from objectives.data.folders.listing import (
    AGAIN,
    BESIDE,
    BROKEN,
    DAMAGED,
    HEIC,
    Files,
    LeftOut,
    has_pictures,
    is_system,
    pictures_in,
    subfolders,
    suffix_of,
)
from objectives.data.pictures.image_files import is_heic, readable_suffixes

TRAIN = frozenset(("train", "training", "trainset", "trn"))
HELD_OUT = frozenset(
    ("val", "valid", "validation", "valset", "dev", "devset", "test", "testing", "testset", "tst", "eval", "evaluation")
    + ("holdout", "heldout", "unlabeled", "unlabelled")
)


def printable(name: str) -> str:
    """A file's name as text that any file can hold."""
    return os.fsencode(name).decode("utf-8", "replace")


@dataclass(frozen=True)
class ClassFolders:
    """The images of a folder by class."""

    root: Path
    files: dict[str, Files]
    """By the name of the class, its images."""
    left_out: dict[str, LeftOut]
    """By the name of the class, what is left out."""
    beside: LeftOut
    """Images and links in no class."""

    def leave_out(self, path: Path) -> None:
        """Leave out an image that cannot be decoded."""
        reason = HEIC if is_heic(path) else DAMAGED
        for name, files in self.files.items():
            if files.pop(path, None) is not None:
                self.left_out[name].name(reason, path)

    def all_left_out(self) -> LeftOut:
        """Everything that is left out."""
        whole = LeftOut(self.root)
        for part in (*self.left_out.values(), self.beside):
            whole.add(part)
        return whole


def list_classes(folder: Path) -> ClassFolders:
    """List the images of each class.

    Raises DatasetError when the folder is not one that holds a folder for each class.
    """
    if not folder.is_dir():
        state = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DatasetError(
            f"--dataset folder:{folder}: {str(folder)!r} {state}; give a folder with one folder per class"
        )
    found = ClassFolders(folder, {}, {}, LeftOut(folder))
    try:
        classes = _classes_in(folder, found.beside)
        _refuse_splits(folder, classes)
        _require_classes(folder, classes)
        for path in classes:
            name = printable(path.name)
            while name in found.files:  # names of other encodings may look the same
                name += "_"
            found.left_out[name] = LeftOut(folder)
            found.files[name] = pictures_in(path, found.left_out[name], [folder])
        _count_beside(folder, found.beside)
    except OSError as error:
        raise DatasetError(f"--dataset folder:{folder} cannot be read ({error}); make it readable") from None
    return found


def _classes_in(folder: Path, left_out: LeftOut) -> list[Path]:
    """The folders of the classes. A link that leads back to the folder itself is none."""
    classes = subfolders(folder)
    for path in [path for path in classes if path.samefile(folder) or path.samefile(folder.parent)]:
        left_out.name(AGAIN, path)
        classes.remove(path)
    return classes


def _count_beside(folder: Path, left_out: LeftOut) -> None:
    """Count images that are in no class, and links that may have been meant for classes."""
    for path in sorted(folder.iterdir()):
        if is_system(path.name) or path.name.startswith(".") or os.path.isdir(path):
            continue
        if not os.path.exists(path):
            left_out.name(BROKEN, path)
        elif suffix_of(path.name) in readable_suffixes():
            left_out.name(BESIDE, path)


def _require_classes(folder: Path, classes: Sequence[Path]) -> None:
    """Raise DatasetError for fewer than two classes, or if the classes lie in the only folder that has images."""
    content = f"only one class, {printable(classes[0].name)!r}" if len(classes) == 1 else "no folders"
    inner = _down(folder)
    if inner != folder and sum(has_pictures(path) for path in subfolders(inner)) > 1:
        typed = shlex.quote(f"folder:{inner}")
        raise DatasetError(
            f"--dataset folder:{folder} holds images only in {str(inner)!r}; if the folders in there are the "
            f"classes, type --dataset {typed}"
        )
    if len(classes) < 2:
        raise DatasetError(
            f"--dataset folder:{folder} holds {content}; put the images of each class, two or more, into a folder of "
            f"its own, such as {folder}/cat/1.png and {folder}/dog/1.png"
        )


def _refuse_splits(folder: Path, classes: Sequence[Path]) -> None:
    """Raise DatasetError for a folder that holds `train`, `test` and so on, or whose folders all do."""
    holding = [path for path in classes if has_pictures(path)]
    whole = dict.fromkeys((folder, _down(folder)))
    parts = holding[:1] if all(_splits_of(subfolders(path)) for path in holding) else []
    for place in dict.fromkeys((*whole, *parts)):
        inside = subfolders(place)
        if not (splits := _splits_of(inside)):
            continue
        train = _down(next((path for path in splits if _words(path)[0] & TRAIN), splits[0]))
        names = ", ".join(repr(printable(path.name)) for path in splits)
        found = f"--dataset folder:{folder}: {str(place)!r} holds splits ({names}), not folders of classes"
        if subfolders(train) and not has_pictures(train, below=False):
            raise DatasetError(
                f"{found}. Splits of your own are not supported yet: a search makes its own test and validation "
                f"splits. Type --dataset {shlex.quote(f'folder:{train}')}"
            )
        if place in whole and all(path in splits for path in inside if has_pictures(path)):
            raise DatasetError(
                f"{found}, and images lie in them. Put the images of each class into a folder of its own, such "
                f"as {folder}/cat/1.png and {folder}/dog/1.png. If these are classes, give the folders other names"
            )


def _splits_of(folders: Sequence[Path]) -> list[Path]:
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


def _down(folder: Path) -> Path:
    """Go down while only one folder inside holds images, and none lie next to it."""
    for _ in range(3):
        holding = [path for path in subfolders(folder) if has_pictures(path)]
        if len(holding) != 1 or has_pictures(folder, below=False) or not subfolders(holding[0]):
            break
        folder = holding[0]
    return folder
