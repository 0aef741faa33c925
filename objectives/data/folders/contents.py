"""Finds the images of a folder by split and class: of one folder per class, or of one folder per split.

Folders of another layout are refused with what to type.
"""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from objectives.base import DatasetError
from objectives.data.folders.class_folders import ClassFolders, count_beside, list_classes
from objectives.data.folders.listing import LeftOut, has_pictures, subfolders
from objectives.data.folders.split_folders import SplitFolders, describe_alike, down, find_splits
from objectives.data.splits import MAX_NAMES, check_class_sizes, listed, missing_classes, origins, unknown_classes


@dataclass(frozen=True)
class Contents:
    """The images of a folder by split and class. All splits have the classes of the training split."""

    root: Path
    training: ClassFolders
    """If the folder has no splits of its own, all images."""
    validation: ClassFolders | None = None
    test: ClassFolders | None = None
    has_splits: bool = False
    """Whether the folder has a training folder of its own."""
    notes: tuple[str, ...] = ()
    """Sentences for the user about what is odd."""

    @property
    def parts(self) -> dict[str, ClassFolders]:
        """The folders by the name of the split."""
        parts = {"training": self.training, "validation": self.validation, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def classes(self) -> list[str]:
        """Names of the classes by index."""
        return list(self.training.files)

    @property
    def n_images(self) -> int:
        """Number of images in all splits."""
        return sum(part.n_images for part in self.parts.values())

    def leave_out(self, path: Path) -> None:
        """Leave out an image that cannot be decoded."""
        for part in self.parts.values():
            part.leave_out(path)

    def all_left_out(self) -> LeftOut:
        """Everything that is left out."""
        whole = LeftOut(self.root)
        for part in self.parts.values():
            for left_out in (*part.left_out.values(), part.beside):
                whole.add(left_out)
        return whole

    def origins(self) -> dict[str, str]:
        """Where each split comes from, for the user, such as `test: test/`."""
        whole = self.training.shown if self.has_splits else "the images"
        validation, test = (part.shown if part else None for part in (self.validation, self.test))
        return origins(whole, validation, test)

    def missing_classes(self) -> list[str]:
        """Sentences about classes that have no images in a held-out folder."""
        sentences = []
        for split, part in self.parts.items():
            missing = [name for name, files in part.files.items() if not files]
            sentences += missing_classes(f"the {split} folder {part.shown}", missing)
        return sentences


def list_contents(folder: Path) -> Contents:
    """List the images of a folder. Raises DatasetError when its layout cannot be used."""
    if not folder.is_dir():
        state = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DatasetError(
            f"--dataset folder:{folder}: {str(folder)!r} {state}; give a folder with one folder per class"
        )
    try:
        if splits := find_splits(folder):
            return _list_splits(folder, splits)
        _require_classes_here(folder)
        whole = list_classes(folder, folder)
    except OSError as error:
        raise DatasetError(f"--dataset folder:{folder} cannot be read ({error}); make it readable") from None
    _require_two(whole)
    return Contents(folder, whole, notes=(*_alike(whole.files), *describe_alike(folder)))


def check_counts(contents: Contents) -> None:
    """Raise DatasetError for classes with too few training images, and for a split without images."""
    training = contents.training
    sizes = {name: len(files) for name, files in training.files.items()}
    left_out = {name: "; ".join(reasons) for name, reasons in training.left_out.items()}
    check_class_sizes(f"folder:{contents.root}", sizes, repr(str(training.folder)), left_out)
    for split, part in contents.parts.items():
        if not part.n_images:
            reasons = "; ".join(text for left_out in part.left_out.values() for text in left_out)
            raise DatasetError(
                f"folder:{contents.root}: the {split} folder {str(part.folder)!r} has no images that can be read"
                f"{f' (left out: {reasons})' if reasons else ''}. Put images of each class there, or remove the "
                f"folder: the {split} split is then a part of {training.shown}"
            )


def _list_splits(root: Path, folders: SplitFolders) -> Contents:
    training = list_classes(folders.training, root)
    _require_two(training)
    for place in dict.fromkeys((root, folders.training.parent)):
        count_beside(place, training.beside)
    held_out = {"validation": folders.validation, "test": folders.test}
    parts = {split: list_classes(folder, root) for split, folder in held_out.items() if folder is not None}
    _require_same_case(list(parts.values()), training)
    notes = [*folders.notes, *_alike(training.files)]
    for split, part in parts.items():
        notes += _foreign(part, training, split)
        parts[split] = part.with_classes(training.files)
    return Contents(root, training, parts.get("validation"), parts.get("test"), True, tuple(notes))


def _require_same_case(parts: Sequence[ClassFolders], training: ClassFolders) -> None:
    """Raise DatasetError for classes whose names differ from those of training only by case."""
    by_folded = {name.casefold(): name for name in training.files}
    states, moves = [], []
    for part in parts:
        for name in part.files:
            meant = by_folded.get(name.casefold())
            if meant is not None and name not in training.files and not part.files.get(meant):
                states.append(f"{name!r} of {part.shown} is {meant!r} in {training.shown}")
                moves.append(f"mv {shlex.quote(str(part.folder / name))} {shlex.quote(str(part.folder / meant))}")
    if states:
        more = f" and {len(states) - MAX_NAMES} more are like this" if len(states) > MAX_NAMES else ""
        raise DatasetError(
            f"--dataset folder:{training.root}: class {', '.join(states[:MAX_NAMES])}{more}; give the folders of a "
            f"class the same name: type {' && '.join(moves)}"
        )


def _foreign(part: ClassFolders, training: ClassFolders, split: str) -> list[str]:
    """Sentences about classes that only a held-out split has. Raises DatasetError if there are no others."""
    foreign = {name: len(files) for name, files in part.files.items() if name not in training.files and files}
    if foreign and not any(part.files.get(name) for name in training.files):
        raise DatasetError(
            f"--dataset folder:{part.root}: no class of {part.shown} ({listed(list(foreign))}) is one of "
            f"{training.shown} ({listed(list(training.files))}). Give the folders the names of the classes, or let "
            f"the search split the training images: type --dataset {shlex.quote(f'folder:{training.folder}')}"
        )
    return unknown_classes(f"the {split} folder {part.shown}", foreign, training.shown)


def _alike(classes: Iterable[str]) -> tuple[str, ...]:
    """Sentences about classes whose names differ only by case."""
    by_folded: dict[str, list[str]] = {}
    for name in classes:
        by_folded.setdefault(name.casefold(), []).append(name)
    return tuple(
        f"the names of classes {listed(names)} differ only by case; if they are one class, put its images in one folder"
        for names in by_folded.values()
        if len(names) > 1
    )


def _require_classes_here(folder: Path) -> None:
    """Raise DatasetError if the classes lie in the only folder that has images."""
    inner = down(folder)
    if inner != folder and sum(has_pictures(path) for path in subfolders(inner)) > 1:
        typed = shlex.quote(f"folder:{inner}")
        raise DatasetError(
            f"--dataset folder:{folder} holds images only in {str(inner)!r}; if the folders in there are the "
            f"classes, type --dataset {typed}"
        )


def _require_two(classes: ClassFolders) -> None:
    """Raise DatasetError for fewer than two classes."""
    if len(classes.files) < 2:
        content = f"only one class, {next(iter(classes.files))!r}" if classes.files else "no folders"
        where = "" if classes.folder == classes.root else f": {str(classes.folder)!r}"
        raise DatasetError(
            f"--dataset folder:{classes.root}{where} holds {content}; put the images of each class, two or more, into "
            f"a folder of its own, such as {classes.folder}/cat/1.png and {classes.folder}/dog/1.png"
        )
