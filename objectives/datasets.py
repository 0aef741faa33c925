"""Where do the pictures come from, and which of them may a search see?

A `Dataset` is the pool that training and validation share; the test split has a function of its own,
`load_test_split`, which nothing calls before a winner is chosen. MNIST's relatives are mapped into memory from their
raw files, so all trainers of a machine share one copy.

Importing this module is cheap: numpy, Pillow, scikit-learn and torchvision are imported by the functions that need
them, the last one only for its lists of download addresses.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import importlib.util
import json
import logging
import math
import os
import queue
import re
import secrets
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from objectives.base import DatasetError, PictureError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from objectives.pictures import Framing

SPLIT_SEED = 20240601
MIN_PER_CLASS = 5
FIRST_ANSWER_S = 9.0
STALL_S = 10.0
MIRROR_VARIABLE = "SEARCH_DATA_MIRROR"
NAMES = ("mnist", "fashion-mnist", "kmnist", "digits", "folder:PATH")

_MAX_DOWNLOAD_BYTES = 64 * 2**20
_MAX_SIDE_PX = 64
_PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp"),
    *(".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
_log = logging.getLogger(__name__)


class DatasetUnavailableError(DatasetError):
    """The files of a dataset are neither there nor to be had."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures and classes that a search may see: the pool of its training and validation splits."""

    name: str
    images: NDArray[np.uint8]
    """Shape (n, c, h, w), memory-mapped and read-only where it comes from a file."""
    labels: NDArray[np.int64]
    """Index of the class, shape (n,)."""
    classes: tuple[str, ...]
    train: NDArray[np.int64]
    """Sorted indices into the pool; shares none with `validation`."""
    validation: NDArray[np.int64]
    source: str
    """Where the pictures were read from."""

    @cached_property
    def digest(self) -> str:
        """First 32 hexadecimal digits of a SHA-256 over the pool; computed when first asked for."""
        content = hashlib.sha256(repr((self.images.shape, str(self.labels.dtype))).encode())
        content.update(self.images.data)
        content.update(self.labels.data)
        return content.hexdigest()[:32]

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return int(self.images.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) in pixels."""
        return int(self.images.shape[2]), int(self.images.shape[3])

    @property
    def n_classes(self) -> int:
        """How many classes there are: k."""
        return len(self.classes)


@dataclass(frozen=True)
class DownloadSpec:
    """What to fetch: base addresses in order of preference, and (name of the .gz file, its MD5)."""

    mirrors: tuple[str, ...]
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _IdxFamily:
    """A dataset in MNIST's file format, as torchvision lays it out."""

    torchvision_class: str
    classes: tuple[str, ...]
    md5: dict[str, str]
    """Of the unpacked files, where known."""
    content_fraction: float | None

    def raw(self, data_dir: Path) -> Path:
        return data_dir / self.torchvision_class / "raw"


_TRAIN_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
_TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_DIGITS = tuple("0123456789")
_FAMILIES = {
    "mnist": _IdxFamily(
        "MNIST",
        _DIGITS,
        {
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
        content_fraction=20 / 28,
    ),
    "fashion-mnist": _IdxFamily(
        "FashionMNIST",
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        {},
        content_fraction=None,
    ),
    "kmnist": _IdxFamily(
        "KMNIST",
        ("o (お)", "ki (き)", "su (す)", "tsu (つ)", "na (な)", "ha (は)", "ma (ま)", "ya (や)", "re (れ)", "wo (を)"),
        {},
        content_fraction=1.0,
    ),
}


def parse_name(name: str) -> tuple[str, Path | None]:
    """Split a dataset's name into its kind and, for `folder:PATH`, the path.

    Raises DatasetError when there is no such dataset.
    """
    kind, separator, path = name.partition(":")
    if kind == "folder" and separator and path:
        return kind, Path(path).expanduser()
    if name in _FAMILIES or name == "digits":
        return name, None
    allowed = f"allowed: {', '.join(NAMES)}"
    if kind == "folder":
        raise DatasetError(f"--dataset {name!r} names no folder; {allowed}; type for example --dataset folder:pictures")
    if Path(name).is_dir():
        raise DatasetError(f"there is no dataset {name!r}; {allowed}. Did you mean --dataset folder:{name} ?")
    close = difflib.get_close_matches(name.lower(), [*_FAMILIES, "digits"], n=1)
    hint = f". Did you mean --dataset {close[0]} ?" if close else ""
    raise DatasetError(f"there is no dataset {name!r}; {allowed}{hint}")


def dataset_slug(name: str) -> str:
    """A dataset's name for use in names of studies and models: `mnist`, `folder-pets`. Raises DatasetError."""
    kind, path = parse_name(name)
    if path is None:
        return kind
    return "folder-" + (re.sub(r"[^\w.-]+", "-", _printable(path.resolve())) or "pictures")


def default_data_dir() -> Path:
    """`SEARCH_DATA_DIR`, or else the user's cache folder."""
    given = os.environ.get("SEARCH_DATA_DIR")
    return Path(given).expanduser() if given else _cache_dir()


def _cache_dir() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("search-data", appauthor=False))


def load_dataset(name: str, data_dir: Path | None, *, download: bool = True, verify: bool = True) -> Dataset:
    """Load what a search may see of a dataset, fetching or preparing it first if need be; never opens test files.

    `verify=False` is for trainers: it trusts files that a call with True has checked, and pictures that one decoded.
    Raises DatasetUnavailableError when the files are neither there nor to be had, and DatasetError when the name or
    the files are no good.
    """
    kind, path = parse_name(name)
    data_dir = data_dir or default_data_dir()
    if kind == "digits":
        images, labels = _split_off_test(*_read_digits())[0]
        return _dataset(name, images, labels, _DIGITS, 5, "scikit-learn: sklearn.datasets.load_digits")
    if path is not None:
        cache = _prepared_folder(path, data_dir) if verify else _find_prepared(path, _listing(path), data_dir)
        images, labels = _read_prepared(cache, "pool")
        return _dataset(name, images, labels, _folder_classes(cache), 5, str(path.resolve()))
    family = _FAMILIES[kind]
    raw = _with_files(kind, family, data_dir, download=download)
    images, labels = _read_pair(raw, _TRAIN_FILES, family, verify=verify)
    _check_test_sizes(raw, images.shape[2:], len(images))
    return _dataset(name, images, labels, family.classes, 6, str(raw.resolve()))


def load_test_split(name: str, data_dir: Path | None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Load the pictures (n, c, h, w) and classes (n,) of the test split: the only function that reads it.

    A folder's is the one that `load_dataset` set aside: drawn anew after a change, it could hold pictures trained on.
    Raises as `load_dataset` does.
    """
    kind, path = parse_name(name)
    data_dir = data_dir or default_data_dir()
    if kind == "digits":
        return _split_off_test(*_read_digits())[1]
    if path is not None:
        return _read_prepared(_find_prepared(path, _listing(path), data_dir), "test")
    family = _FAMILIES[kind]
    raw = _with_files(kind, family, data_dir, download=True)
    return _read_pair(raw, _TEST_FILES, family, verify=True)


def framing(dataset: Dataset) -> Framing:
    """How `objectives.pictures.to_model_input` must frame a picture for a model trained on `dataset`."""
    import numpy as np

    from objectives.pictures import Framing

    fractions: dict[str, float | None] = {kind: family.content_fraction for kind, family in _FAMILIES.items()}
    if dataset.name in (*_FAMILIES, "digits"):
        return Framing(dataset.channels, dataset.size, fractions.get(dataset.name, 1.0), True)
    sample = dataset.images[:: max(1, len(dataset.images) // 1000)]
    rims = np.concatenate([sample[..., 0, :], sample[..., -1, :], sample[..., 0], sample[..., -1]], axis=-1)
    # Photographs have rims of every kind, and must not be inverted; drawings on black all look alike here.
    dark = dataset.channels == 1 and float(np.mean(np.median(rims, axis=(1, 2)) < 64)) > 0.95
    return Framing(dataset.channels, dataset.size, None, dark)


# --- splits ---


def _dataset(
    name: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    validation_share: int,
    source: str,
) -> Dataset:
    """Split the pool (n, c, h, w): one picture in `validation_share` is for validation."""
    train, validation = stratified(labels, round(len(labels) / validation_share))
    return Dataset(name, images, labels, classes, train, validation, source)


def stratified(labels: NDArray[np.int64], held_out: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split indices of `labels` (n,) into the kept and the held out, each class in proportion; both sorted.

    Every class with two or more members is on both sides; within that, the second part has exactly `held_out` members.
    """
    import numpy as np

    # numpy promises that RandomState draws the same numbers for ever, and its newer generators do not.
    random = np.random.RandomState(SPLIT_SEED)
    counts = np.bincount(labels)
    quota = counts * held_out / len(labels)
    take = np.maximum(np.floor(quota).astype(int), counts > 1)
    missing = max(0, held_out - int(take.sum()))
    take[np.argsort(take - quota, kind="stable")[:missing]] += 1
    chosen = np.zeros(len(labels), bool)
    for label, number in enumerate(take):
        members = np.flatnonzero(labels == label)
        chosen[random.permutation(members)[:number]] = True
    return np.flatnonzero(~chosen).astype(np.int64), np.flatnonzero(chosen).astype(np.int64)


_Pair = tuple["NDArray[np.uint8]", "NDArray[np.int64]"]


def _split_off_test(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[_Pair, _Pair]:
    """Split pictures that come without a test split into pool and test, a fifth."""
    pool, test = stratified(labels, round(len(labels) / 5))
    return (images[pool], labels[pool]), (images[test], labels[test])


# --- digits ---


def _read_digits() -> _Pair:
    """scikit-learn's 1,797 digits as (n, 1, 8, 8), values 0..16 scaled to 0..255."""
    import numpy as np

    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DatasetUnavailableError("--dataset digits comes with scikit-learn; type: pip install scikit-learn")
    table = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if table.is_file():  # importing scikit-learn takes a second, reading its file a hundredth
        with gzip.open(table, "rt") as file:
            values = np.loadtxt(file, delimiter=",", dtype=np.float64)
        pixels, labels = values[:, :64], values[:, 64]
    else:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

        pixels, labels = load_digits(return_X_y=True)
    images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return images, labels.astype(np.int64)


# --- MNIST and its relatives ---


def _with_files(kind: str, family: _IdxFamily, data_dir: Path, *, download: bool) -> Path:
    """The folder of the raw files, once all four are there."""
    raw = family.raw(data_dir)
    missing = [file for file in (*_TRAIN_FILES, *_TEST_FILES) if not (raw / file).is_file()]
    if not missing:
        return raw
    why = "downloading was not allowed"
    if download:
        try:
            began = time.monotonic()
            spec = _download_spec(family, missing)
            left_s = FIRST_ANSWER_S - (time.monotonic() - began)  # importing torchvision takes seconds of its own
            _log.info("downloading %s to %s", kind, raw)
            download_files(spec, raw, first_answer_s=max(left_s, FIRST_ANSWER_S / 2))
            return raw
        except DatasetUnavailableError as error:
            why = str(error)
    raise DatasetUnavailableError(
        f"{kind} is not in {raw} ({', '.join(missing)} missing) and cannot be downloaded: {why}. "
        f"Put the unpacked files there, name the folder that holds {family.torchvision_class}/raw with --data-dir, "
        "or type --dataset digits, which needs no download"
    )


def _download_spec(family: _IdxFamily, missing: Sequence[str]) -> DownloadSpec:
    from torchvision import datasets  # type: ignore[import-untyped, unused-ignore]

    listed: Any = getattr(datasets, family.torchvision_class)
    files = tuple((name, md5) for name, md5 in listed.resources if name.removesuffix(".gz") in missing)
    own = os.environ.get(MIRROR_VARIABLE)
    return DownloadSpec((*([own] if own else []), *listed.mirrors), files)


def _read_pair(raw: Path, files: tuple[str, str], family: _IdxFamily, *, verify: bool) -> _Pair:
    import numpy as np

    if verify:
        for file in files:
            _check_md5(raw / file, family.md5.get(file))
    images, labels = read_idx(raw / files[0], dims=3), read_idx(raw / files[1], dims=1)
    if len(images) != len(labels):
        raise DatasetError(f"{raw} holds {len(images)} pictures for {len(labels)} labels; {_anew(raw / files[0])}")
    if int(labels.max()) >= len(family.classes):
        found = f"a label {int(labels.max())}, expected 0 to {len(family.classes) - 1}"
        raise DatasetError(f"{raw / files[1]} is damaged: it has {found}; {_anew(raw / files[1])}")
    return images[:, None], labels.astype(np.int64)


def read_idx(path: Path, *, dims: int) -> NDArray[np.uint8]:
    """Map a file in MNIST's idx format into memory: bytes in `dims` dimensions, read-only.

    Raises DatasetError when it is no such file, or is shorter or longer than its header says.
    """
    import numpy as np

    header_bytes = 4 + 4 * dims
    try:
        with path.open("rb") as file:
            header = file.read(header_bytes)
            found_bytes = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}); make it readable or {_anew(path)}") from None
    expected_magic = bytes((0, 0, 8, dims))
    if len(header) < header_bytes or header[:4] != expected_magic:
        found = f"expected it to begin with {expected_magic.hex()}, found {header[:4].hex() or 'nothing'}"
        raise DatasetError(f"{path} is damaged: {found} in {found_bytes} bytes; {_anew(path)}")
    shape = tuple(int.from_bytes(header[at : at + 4], "big") for at in range(4, header_bytes, 4))
    expected_bytes = header_bytes + math.prod(shape)
    if found_bytes != expected_bytes or 0 in shape:
        sizes = f"expected {expected_bytes} bytes ({'x'.join(map(str, shape))}), found {found_bytes}"
        raise DatasetError(f"{path} is damaged: {sizes}; {_anew(path)}")
    return np.memmap(path, np.uint8, mode="r", offset=header_bytes, shape=shape)


def _check_md5(path: Path, expected: str | None) -> None:
    if expected is None:
        return
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}); make it readable or {_anew(path)}") from None
    if found != expected:
        detail = f"expected MD5 {expected}, found {found} in {path.stat().st_size} bytes"
        raise DatasetError(f"{path} is damaged: {detail}; {_anew(path)}")


def _check_test_sizes(raw: Path, picture: tuple[int, ...], n_pool: int) -> None:
    """Look at the sizes of the test files, so that a search does not find them truncated at its end."""
    images, labels = (raw / file for file in _TEST_FILES)
    pixels = math.prod(picture)
    n = 10_000 if n_pool == 60_000 else max(1, round((images.stat().st_size - 16) / pixels))
    for path, expected in ((images, 16 + n * pixels), (labels, 8 + n)):
        if path.stat().st_size != expected:
            sizes = f"expected {expected} bytes ({n} pictures), found {path.stat().st_size}"
            raise DatasetError(f"{path} is damaged: {sizes}; {_anew(path)}")


def _anew(path: Path) -> str:
    return f"delete {path} and run again, or name another folder with --data-dir"


# --- download ---


def download_files(
    spec: DownloadSpec, folder: Path, *, first_answer_s: float = FIRST_ANSWER_S, stall_s: float = STALL_S
) -> None:
    """Fetch, check and unpack files into `folder`; each appears whole, so several processes may do this at once.

    Each file is given up when no mirror has answered after `first_answer_s` in all, or the one that did sends nothing
    for `stall_s`. Raises DatasetUnavailableError with every mirror's reason.
    """
    mirrors = list(spec.mirrors)
    for name, md5 in spec.files:
        reasons = []
        give_up_at = time.monotonic() + first_answer_s
        for tried, mirror in enumerate(tuple(mirrors)):
            wait_s = (give_up_at - time.monotonic()) / (len(mirrors) - tried)
            url = f"{mirror.rstrip('/')}/{name}"
            try:
                content = _fetch(url, max(wait_s, 0.1), stall_s)
                _check_download(content, md5)
                _write_whole(folder / name.removesuffix(".gz"), gzip.decompress(content))
            except (OSError, ValueError, EOFError) as error:
                reasons.append(f"{url}: {' '.join(str(error).split()) or type(error).__name__}")
                continue
            mirrors = [mirror, *(other for other in mirrors if other != mirror)]  # the next file asks it first
            break
        else:
            raise DatasetUnavailableError("; ".join(reasons) or "no mirror is known")


def _check_download(content: bytes, md5: str) -> None:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(f"got {len(content)} bytes with MD5 {found} instead of {md5}")


def _fetch(url: str, first_answer_s: float, stall_s: float) -> bytes:
    """The content of an address. Raises OSError or ValueError, TimeoutError among them."""
    # A thread, because looking a name up cannot be timed out: the thread may hang, its caller does not.
    arrived: queue.Queue[bytes | Exception | None] = queue.Queue()
    threading.Thread(target=_pump, args=(url, first_answer_s + stall_s, arrived), daemon=True, name="download").start()
    content = bytearray()
    wait_s, silence = first_answer_s, f"no answer in {first_answer_s:.1f} s"
    while True:
        try:
            piece = arrived.get(timeout=wait_s)
        except queue.Empty:
            raise TimeoutError(silence) from None
        if piece is None:
            return bytes(content)
        if isinstance(piece, Exception):
            raise piece if isinstance(piece, OSError) else ValueError(str(piece) or type(piece).__name__)
        content += piece
        wait_s, silence = stall_s, f"the transfer stalled for {stall_s:.1f} s after {len(content)} bytes"


def _pump(url: str, timeout_s: float, arrived: queue.Queue[bytes | Exception | None]) -> None:
    """Put what an address sends into a queue: an empty piece for its answer, the content, then None or the error."""
    total = 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "python-search"})
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            arrived.put(b"")
            # Blocks, not whatever is there: a server that sends a byte now and then counts as stalled.
            while piece := response.read(16384):
                arrived.put(piece)
                total += len(piece)
                if total > _MAX_DOWNLOAD_BYTES:
                    raise ValueError(f"more than {_MAX_DOWNLOAD_BYTES} bytes")
        arrived.put(None)
    except urllib.error.HTTPError as error:
        with error:  # it holds the connection
            arrived.put(OSError(f"the server says {error.code} {error.reason}"))
    except Exception as error:  # handed to the thread that waits
        arrived.put(error)


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# --- a folder of pictures ---


def _listing(folder: Path) -> dict[str, list[Path]]:
    """The picture files of each class of a folder, sorted. Raises DatasetError when it holds no classes."""
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DatasetError(
            f"--dataset folder:{folder}: {str(folder)!r} {what}; give a folder with one folder per class"
        )
    try:
        classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        found = {_printable(entry): _pictures_in(entry) for entry in classes}
    except OSError as error:
        raise DatasetError(f"--dataset folder:{folder} cannot be read ({error}); make it readable") from None
    if len(found) < 2:
        held = f"only one class, {next(iter(found))!r}" if found else "no folders"
        raise DatasetError(
            f"--dataset folder:{folder} holds {held}; put the pictures of each class, two or more, into a folder of "
            f"its own, such as {folder}/cat/1.png and {folder}/dog/1.png"
        )
    return found


def _printable(path: Path) -> str:
    return os.fsencode(path.name).decode("utf-8", "replace")


def _pictures_in(folder: Path) -> list[Path]:
    pictures: list[Path] = []
    for where, folders, files in os.walk(folder):
        named = [n for n in (*files, *folders) if n.lower().endswith(_PICTURE_SUFFIXES) and not n.startswith(".")]
        pictures.extend(Path(where, name) for name in named)
        folders[:] = [name for name in folders if not name.startswith(".") and name not in named]
    return sorted(pictures)


def _folder_key(folder: Path, listing: dict[str, list[Path]]) -> str:
    """A digest of what a folder holds: names, sizes and times of its pictures, without opening any."""
    content = hashlib.sha256(f"1 {SPLIT_SEED} {_MAX_SIDE_PX}".encode())
    for name, paths in listing.items():
        content.update(b"\0\0" + name.encode())
        for path in paths:
            try:
                about = path.stat()
                figures = f"{about.st_size} {about.st_mtime_ns}"
            except OSError:
                figures = "-"
            content.update(b"\0" + os.fsencode(path.relative_to(folder)) + b"\0" + figures.encode())
    return content.hexdigest()[:32]


def _places(key: str, data_dir: Path) -> list[Path]:
    """Where the decoded pictures of a folder may lie: beside the other data, or else in the user's cache."""
    # The mode bits are asked because root may write even into a folder that was made read-only on purpose.
    closed = data_dir.is_dir() and not data_dir.stat().st_mode & 0o222
    bases = (_cache_dir(),) if closed else dict.fromkeys((data_dir, _cache_dir()))
    return [base / "folders" / key for base in bases]


def _find_prepared(folder: Path, listing: dict[str, list[Path]], data_dir: Path) -> Path:
    places = _places(_folder_key(folder, listing), data_dir)
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise _NotPreparedError(
            f"folder:{folder} has not been prepared as it is now: its pictures changed after the search began, or no "
            "search was begun; undo the changes, or start a new search on it"
        )
    return found


class _NotPreparedError(DatasetError):
    """A folder's pictures have not been decoded and split yet."""


def _prepared_folder(folder: Path, data_dir: Path) -> Path:
    """Where the decoded pictures of a folder lie; decodes them when they do not yet. Warns of unreadable ones."""
    listing = _listing(folder)
    try:
        cache = _find_prepared(folder, listing, data_dir)
    except _NotPreparedError:
        cache = _store_folder(_decode_folder(folder, listing), _places(_folder_key(folder, listing), data_dir))
    skipped = _about(cache)["skipped"]
    if skipped:
        _log.warning("folder:%s: skipped %s that cannot be read as pictures", folder, _few(skipped))
    return cache


def _few(skipped: Sequence[str]) -> str:
    more = ", ..." if len(skipped) > 3 else ""
    return f"{len(skipped)} file{'s' if len(skipped) > 1 else ''} ({', '.join(map(repr, skipped[:3]))}{more})"


@dataclass(frozen=True)
class _Decoded:
    pool: _Pair
    test: _Pair
    classes: tuple[str, ...]
    skipped: list[str]


def _decode_folder(folder: Path, listing: dict[str, list[Path]]) -> _Decoded:
    import numpy as np

    pictures: list[Image.Image] = []
    labels: list[int] = []
    skipped: list[str] = []
    sides: list[int] = []
    for label, (name, paths) in enumerate(listing.items()):
        for path in paths:
            try:
                picture, size = _thumbnail(path)
            except PictureError:
                skipped.append(str(path.relative_to(folder)))
                continue
            pictures.append(picture)
            labels.append(label)
            sides.extend(size)
        _check_class(folder, name, labels.count(label), len(paths))
    if len(skipped) > 0.1 * (len(skipped) + len(labels)):
        raise DatasetError(
            f"folder:{folder} has {_few(skipped)} out of {len(skipped) + len(labels)} that cannot be read as pictures, "
            "more than a tenth; repair or remove them"
        )
    images = _stacked(pictures, _common_side_px(sides))
    pool, test = _split_off_test(images, np.array(labels, np.int64))
    return _Decoded(pool, test, tuple(listing), skipped)


def _check_class(folder: Path, name: str, readable: int, files: int) -> None:
    if readable < MIN_PER_CLASS:
        unread = f" ({files - readable} more cannot be read)" if files > readable else ""
        raise DatasetError(
            f"folder:{folder}: class {name!r} has {readable} pictures{unread}, and every class needs {MIN_PER_CLASS}; "
            f"add pictures to {str(folder / name)!r} or remove that folder"
        )


def _thumbnail(path: Path) -> tuple[Image.Image, tuple[int, int]]:
    """A picture at no more than the largest side in use, and the size (w, h) that it had."""
    from PIL import Image

    from objectives.pictures import read_picture

    picture = read_picture(path)
    size = picture.size
    picture.thumbnail((_MAX_SIDE_PX, _MAX_SIDE_PX), Image.Resampling.LANCZOS)
    return picture, size


def _common_side_px(sides: Sequence[int]) -> int:
    """The median side, rounded to a multiple of 4 so that networks may pool twice, from 16 to 64."""
    import numpy as np

    return int(np.clip(4 * round(float(np.median(sides)) / 4), 16, _MAX_SIDE_PX))


def _stacked(pictures: Sequence[Image.Image], side_px: int) -> NDArray[np.uint8]:
    """Pictures of any size as (n, c, h, w): one channel when all but a few are grey."""
    import numpy as np

    from objectives.pictures import fit

    coloured = np.mean([picture.mode == "RGB" and _is_coloured(np.asarray(picture)) for picture in pictures])
    mode, channels = ("RGB", 3) if coloured > 0.05 else ("L", 1)
    stacked = np.empty((len(pictures), channels, side_px, side_px), np.uint8)
    for at, picture in enumerate(pictures):
        fitted = np.asarray(fit(picture.convert(mode), (side_px, side_px)))
        stacked[at] = np.atleast_3d(fitted).transpose(2, 0, 1)
    return stacked


def _is_coloured(pixels: NDArray[np.uint8]) -> bool:
    """Whether (h, w, 3) shows colours; JPEG files of grey pictures are a few levels off."""
    return bool((pixels.max(axis=2).astype(int) - pixels.min(axis=2)).max() > 12)


def _store_folder(decoded: _Decoded, places: Sequence[Path]) -> Path:
    """Keep decoded pictures in the first of `places` that can be written."""
    reasons = []
    for place in places:
        temporary = place.with_name(f".{place.name}.{secrets.token_hex(6)}")
        try:
            temporary.mkdir(parents=True)
            _write_prepared(decoded, temporary)
            if not place.is_dir():
                temporary.rename(place)
            return place
        except OSError as error:
            if place.is_dir():  # another process was quicker
                return place
            reasons.append(f"{place.parent} ({error.strerror})")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    raise DatasetError(
        f"decoded pictures can be kept neither in {' nor in '.join(reasons)}; name a writable folder with --data-dir"
    )


def _write_prepared(decoded: _Decoded, place: Path) -> None:
    import numpy as np

    for part, (images, labels) in (("pool", decoded.pool), ("test", decoded.test)):
        np.save(place / f"{part}-images.npy", images)
        np.save(place / f"{part}-labels.npy", labels)
    about = {"classes": decoded.classes, "skipped": decoded.skipped}
    (place / "about.json").write_text(json.dumps(about), encoding="utf-8")


def _about(cache: Path) -> dict[str, list[str]]:
    try:
        about: dict[str, list[str]] = json.loads((cache / "about.json").read_text(encoding="utf-8"))
        return about
    except (OSError, ValueError):
        raise DatasetError(f"{cache} is damaged; delete it and run again") from None


def _folder_classes(cache: Path) -> tuple[str, ...]:
    return tuple(_about(cache)["classes"])


def _read_prepared(cache: Path, part: str) -> _Pair:
    import numpy as np

    try:
        images = np.load(cache / f"{part}-images.npy", mmap_mode="r")
        return images, np.load(cache / f"{part}-labels.npy")
    except (OSError, ValueError, EOFError):
        raise DatasetError(f"{cache} is damaged; delete it and run again") from None
