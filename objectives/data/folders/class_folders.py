"""Lists the images of each class: those in one folder per class."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from objectives.data.files.image_files import is_heic, readable_suffixes
from objectives.data.folders.listing import (
    AGAIN,
    BESIDE,
    BROKEN,
    DAMAGED,
    HEIC,
    Files,
    LeftOut,
    is_system,
    pictures_in,
    subfolders,
    suffix_of,
)


def printable(name: str) -> str:
    """A file's name as text that any file can hold."""
    return os.fsencode(name).decode("utf-8", "replace")


@dataclass(frozen=True)
class ClassFolders:
    """The images of a folder by class."""

    folder: Path
    """Holds the folders of the classes."""
    root: Path
    """The dataset's folder, below which files are named."""
    files: dict[str, Files]
    """By the name of the class, its images."""
    left_out: dict[str, LeftOut]
    """By the name of the class, what is left out."""
    beside: LeftOut
    """Images and links in no class."""

    @property
    def shown(self) -> str:
        """The name of the folder below the dataset's, such as `train/`."""
        return f"{printable(self.folder.relative_to(self.root).as_posix())}/"

    @property
    def n_images(self) -> int:
        """Number of images."""
        return sum(map(len, self.files.values()))

    def leave_out(self, path: Path) -> None:
        """Leave out an image that cannot be decoded."""
        reason = HEIC if is_heic(path) else DAMAGED
        for name, files in self.files.items():
            if files.pop(path, None) is not None:
                self.left_out[name].name(reason, path)

    def with_classes(self, classes: Mapping[str, object]) -> "ClassFolders":
        """Keep only these classes; they may have no images here."""
        files = {name: self.files.get(name, {}) for name in classes}
        left_out = {name: self.left_out.get(name, LeftOut(self.root)) for name in classes}
        return ClassFolders(self.folder, self.root, files, left_out, self.beside)


def list_classes(folder: Path, root: Path) -> ClassFolders:
    """List the images of each class in a folder, which is `root` or below it. Raises OSError."""
    listed = ClassFolders(folder, root, {}, {}, LeftOut(root))
    for path in subfolders(folder):
        if path.samefile(folder) or path.samefile(folder.parent):  # a link that leads back
            listed.beside.name(AGAIN, path)
            continue
        name = printable(path.name)
        while name in listed.files:  # names of other encodings may look the same
            name += "_"
        listed.left_out[name] = LeftOut(root)
        listed.files[name] = pictures_in(path, listed.left_out[name], [root, folder])
    count_beside(folder, listed.beside)
    return listed


def count_beside(folder: Path, left_out: LeftOut) -> None:
    """Count images that are in no class, and links that may have been meant for classes. Raises OSError."""
    for path in sorted(folder.iterdir()):
        if is_system(path.name) or path.name.startswith(".") or os.path.isdir(path):
            continue
        if not os.path.exists(path):
            left_out.name(BROKEN, path)
        elif suffix_of(path.name) in readable_suffixes():
            left_out.name(BESIDE, path)
