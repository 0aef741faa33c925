"""Lists the images of one class: all files below its folder, through links, and what is left out and why."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from objectives.data.files.image_files import begins_like_image, is_heic, readable_suffixes

Files = dict[Path, os.stat_result]
"""Files and their sizes and times. A link has those of its target."""


def _suffixes(text: str) -> frozenset[str]:
    return frozenset(f".{word}" for word in text.split())


# Formats of images that Pillow cannot read, or of which it reads only a thumbnail, or for which it starts programs.
UNREADABLE = _suffixes(
    "heic heif hif jxl jxr svg svgz eps ai wmf emf exr hdr dcm dicom xcf avif avifs jp2 j2k j2c jpc jpf jpx webp cr2 "
    "cr3 crw nef nrw arw sr2 srf dng raf orf rw2 pef srw x3f 3fr kdc raw"
)
VIDEOS = _suffixes("mp4 m4v mov avi mkv webm mpg mpeg wmv flv 3gp mts m2ts ogv")
OTHERS = _suffixes(
    "txt json jsonl xml csv tsv md rst html htm yaml yml toml py ipynb db ini log npy npz pkl h5 hdf5 mat zip tar gz "
    "tgz bz2 xz 7z rar pdf doc docx xls xlsx ppt pptx lnk url exe dll sh bat js css mp3 wav pt pth onnx parquet nii "
    "bak tmp part partial crdownload orig swp"
)
# Files and folders that systems and programs make. They hold nothing of the user's.
SYSTEM = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "picasa.ini", "__macosx", "@eadir", "$recycle.bin")
    + ("system volume information", "lost+found", "__pycache__", ".ds_store", ".git", ".svn", ".ipynb_checkpoints")
    + (".thumbnails", ".cache", ".trashes", ".idea", ".vscode", ".venv", ".gitkeep", ".gitignore", ".directory")
)
CONVERT = "convert them to JPEG or PNG"
FORMAT = f"Pillow cannot read this format; {CONVERT}"
VIDEO = "videos; save images of them as JPEG or PNG"
NO_PICTURE = "not images"
N_EXAMPLES = 3
MAX_CHARACTERS = 60


class Reason(NamedTuple):
    """Why files are left out whose names help the user, for one file and for several."""

    one: str
    several: str


DAMAGED = Reason("that cannot be read", "that cannot be read")
HEIC = Reason("HEIC image under another name; convert it to JPEG or PNG", f"HEIC images under another name; {CONVERT}")
BROKEN = Reason("broken link", "broken links")
FORBIDDEN = Reason("folder that you may not read", "folders that you may not read")
AGAIN = Reason("link to what is there already", "links to what is there already")
BESIDE = Reason("in no class folder", "in no class folder")
HIDDEN = Reason("hidden file", "hidden files")
HIDDEN_FOLDER = Reason("hidden folder", "hidden folders")
SPECIAL = Reason("that is neither a file nor a folder", "that are neither files nor folders")


@dataclass
class LeftOut:
    """The files that are left out of a folder of images, by reason."""

    root: Path
    suffixes: dict[str, Counter[str]] = field(default_factory=dict)
    """By reason, the number of files with each suffix."""
    paths: dict[Reason, list[str]] = field(default_factory=dict)
    """By reason, files and folders that are named, below `root`."""

    def count(self, reason: str, name: str) -> None:
        """Count a file that only its suffix describes."""
        self.suffixes.setdefault(reason, Counter())[suffix_of(name) or "without a suffix"] += 1

    def name(self, reason: Reason, path: Path) -> None:
        """Count a file or folder whose name helps the user."""
        self.paths.setdefault(reason, []).append(str(path.relative_to(self.root)))

    def add(self, other: "LeftOut") -> None:
        """Add what another part leaves out."""
        for kind, counter in other.suffixes.items():
            self.suffixes.setdefault(kind, Counter()).update(counter)
        for reason, paths in other.paths.items():
            self.paths.setdefault(reason, []).extend(paths)

    def __len__(self) -> int:
        return sum(counter.total() for counter in self.suffixes.values()) + sum(map(len, self.paths.values()))

    def __iter__(self) -> Iterator[str]:
        """Describe each reason: `15 .heic (...)`, `2 broken links ('cat/a.jpg', 'cat/b.jpg')`."""
        yield from (self._by_suffix(reason) for reason in (FORMAT, VIDEO) if reason in self.suffixes)
        for reason, paths in sorted(self.paths.items()):
            yield f"{len(paths)} {reason.one if len(paths) == 1 else reason.several} ({examples(paths)})"
        yield from (self._by_suffix(reason) for reason in (NO_PICTURE,) if reason in self.suffixes)

    def _by_suffix(self, reason: str) -> str:
        counter = self.suffixes[reason]
        shown = sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:N_EXAMPLES]
        more = counter.total() - sum(n for _, n in shown)
        return f"{', '.join(f'{n} {suffix}' for suffix, n in shown)}{f' and {more} others' if more else ''} ({reason})"

    def sentence(self, dataset: str, n_used: int) -> str | None:
        """Return one sentence for the user; None if nothing is left out."""
        if not len(self):
            return None
        state = "files is left out" if len(self) == 1 else "files are left out"
        return f"{dataset}: {len(self)} of {n_used + len(self)} {state}: {', '.join(self)}"


def examples(paths: Sequence[str]) -> str:
    """Quote the first paths of many. The end of a long one names it."""
    shown = [path if len(path) <= MAX_CHARACTERS else f"...{path[3 - MAX_CHARACTERS :]}" for path in paths[:N_EXAMPLES]]
    return ", ".join(map(repr, shown)) + (", ..." if len(paths) > N_EXAMPLES else "")


def suffix_of(name: str) -> str:
    """The suffix of a file name in small letters, such as `.jpg`."""
    return os.path.splitext(name)[1].lower()


def is_system(name: str) -> bool:
    """Whether a system made this file or folder for itself, as macOS makes `._cat.jpg`."""
    return name.startswith("._") or name.lower() in SYSTEM


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder that may hold images, sorted; through links. Raises OSError."""
    with os.scandir(folder) as entries:  # tells folders from files without asking for each
        named = (entry for entry in entries if not entry.name.startswith(".") and not is_system(entry.name))
        return sorted(Path(entry.path) for entry in named if _is_folder(entry))


def has_pictures(folder: Path, *, below: bool = True) -> bool:
    """Whether a folder, or one below it, has files that are named like images. Stops at the first."""
    pictures = readable_suffixes() | UNREADABLE
    for _, folders, files in os.walk(folder):
        if any(suffix_of(name) in pictures and not name.startswith(".") for name in files):
            return True
        folders[:] = [name for name in folders if below and not name.startswith(".") and not is_system(name)]
    return False


def pictures_in(folder: Path, left_out: LeftOut, above: Sequence[Path]) -> Files:
    """List the images of one class, sorted by path, and count in `left_out` what is left out.

    A folder or file that links reach several times counts once. A link to one of the folders `above` leads nowhere.
    """
    walk = _Walk(left_out, {_identity(path.stat()) for path in above})
    walk.visit(folder)
    return walk.files()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to what may not be read
        return False


class _Walk:
    """The files below one folder."""

    def __init__(self, left_out: LeftOut, visited: set[tuple[int, int]]) -> None:
        self._left_out, self._visited = left_out, visited
        self._images: list[tuple[bool, Path, os.stat_result]] = []  # whether a link leads there, path, status

    def visit(self, folder: Path) -> None:
        """Visit all folders. Those behind links come last: what lies here anyway keeps its own path."""
        here, behind_links = [folder], list[Path]()
        while here or behind_links:
            is_linked = not here
            path = (here or behind_links).pop()
            for entry in self._open(path):
                if is_system(entry.name):
                    continue
                if _is_folder(entry):
                    if entry.name.startswith("."):
                        self._left_out.name(HIDDEN_FOLDER, Path(entry.path))
                    else:
                        (behind_links if is_linked or entry.is_symlink() else here).append(Path(entry.path))
                else:
                    self._sort(entry, is_linked=is_linked or entry.is_symlink())

    def _open(self, folder: Path) -> list[os.DirEntry[str]]:
        """The entries of a folder, unless it was visited."""
        try:
            identity = _identity(folder.stat())
            if identity in self._visited:
                self._left_out.name(AGAIN, folder)
                return []
            self._visited.add(identity)
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name, reverse=True)
        except OSError:
            self._left_out.name(FORBIDDEN, folder)
            return []

    def _sort(self, entry: os.DirEntry[str], *, is_linked: bool) -> None:
        """Add a file to the images, or count why not."""
        path, suffix = Path(entry.path), suffix_of(entry.name)
        known = suffix in readable_suffixes()
        if entry.name.startswith("."):
            if known:
                self._left_out.name(HIDDEN, path)
        elif suffix in VIDEOS:
            self._left_out.count(VIDEO, entry.name)
        elif not known and suffix in UNREADABLE:
            self._left_out.count(FORMAT, entry.name)
        elif not known and (suffix in OTHERS or suffix.endswith("~")):  # some begin like the image they copy
            self._left_out.count(NO_PICTURE, entry.name)
        else:
            self._look(entry, path, known=known, is_linked=is_linked)

    def _look(self, entry: os.DirEntry[str], path: Path, *, known: bool, is_linked: bool) -> None:
        """Add a file if it is there and, unless its suffix is `known`, if it begins like an image."""
        try:
            status = entry.stat()
        except OSError:
            self._left_out.name(BROKEN if entry.is_symlink() else DAMAGED, path)
            return
        if not stat.S_ISREG(status.st_mode):
            self._left_out.name(SPECIAL, path)
        elif known or begins_like_image(path):
            self._images.append((is_linked, path, status))
        elif is_heic(path):
            self._left_out.count(FORMAT, entry.name)
        else:
            self._left_out.count(NO_PICTURE, entry.name)

    def files(self) -> Files:
        """The images, sorted by path."""
        files: Files = {}
        seen = set[tuple[int, int]]()
        for is_linked, path, status in sorted(self._images, key=lambda image: image[:2]):
            if (is_linked or status.st_nlink > 1) and _identity(status) in seen:
                self._left_out.name(AGAIN, path)
            else:
                seen.add(_identity(status))
                files[path] = status
        return dict(sorted(files.items()))
