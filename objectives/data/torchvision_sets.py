"""MNIST, CIFAR-10 and other datasets of torchvision, which downloads their files. Arrays are made of them.

The files lie where torchvision puts them. torchvision is imported only when files are missing or arrays have not been
made. The test files are opened by `prepare(..., "test", ...)` alone.
"""

import contextlib
import hashlib
import io
import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from objectives.base import DatasetUnavailableError
from objectives.data import arrays
from objectives.data.files.resizing import resize
from objectives.data.formats import torchvision_files as formats
from objectives.data.splits import Labelled

TIMEOUT_S = 10.0
"""How long a server may stay silent."""
MIRROR_TIMEOUT_S = 4.0
"""How long a mirror may stay silent. MNIST has two mirrors."""
MIRROR_VARIABLE = "SEARCH_DATA_MIRROR"
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TorchvisionSet:
    """A dataset, and where its files are."""

    torchvision_class: str
    folder: str
    """The folder of the files in the data folder. Empty for the data folder itself."""
    files: Mapping[arrays.Part, tuple[str, ...]]
    """Each may be packed, with `.gz` after its name, if `may_be_packed`."""
    read: formats.Reader
    """Reads the files of one part."""
    content_fraction: float | None
    """As in `objectives.data.files.image_files.Framing`."""
    is_drawing: bool
    """Whether it shows bright strokes on black."""
    downloads: Sequence[Mapping[str, Any]] = ({},)
    """Arguments with which torchvision's class downloads all files, one call each."""
    validation_share: int = 5
    """Validation takes one image of this many in the pool."""
    may_be_packed: bool = False
    md5: Mapping[str, str] = field(default_factory=dict)
    """Digests of the unpacked files, by name. Arrays are made only of files that match."""


def _cifar(name: str, folder: str, batches: Sequence[str], test: str, meta: str) -> TorchvisionSet:
    files: dict[arrays.Part, tuple[str, ...]] = {"pool": (*batches, meta), "test": (test, meta)}
    return TorchvisionSet(name, folder, files, formats.read_cifar, None, False)


def _idx(
    name: str,
    read: formats.Reader,
    content_fraction: float | None,
    prefixes: tuple[str, str] = ("train", "t10k"),
    labels: str = "labels-idx1-ubyte",
    **more: Any,
) -> TorchvisionSet:
    """A dataset in MNIST's format. prefixes: what the names of its training and of its test files begin with."""
    pool, test = ((f"{prefix}-images-idx3-ubyte", f"{prefix}-{labels}") for prefix in prefixes)
    files: dict[arrays.Part, tuple[str, ...]] = {"pool": pool, "test": test}
    return TorchvisionSet(name, f"{name}/raw", files, read, content_fraction, True, validation_share=6, **more)


def _emnist(split: str, classes: tuple[str, ...]) -> TorchvisionSet:
    read = formats.idx_reader(classes, first=1 if split == "letters" else 0, is_transposed=True)
    prefixes, downloads = (f"emnist-{split}-train", f"emnist-{split}-test"), [{"split": split}]
    # Characters fill the image but for 2 pixels at each side: https://arxiv.org/abs/1702.05373, section II.
    return _idx("EMNIST", read, 24 / 28, prefixes, downloads=downloads, may_be_packed=True)


_SPLITS, _TRAIN_OR_NOT = ({"split": "train"}, {"split": "test"}), ({"train": True}, {"train": False})

SETS: Mapping[str, TorchvisionSet] = {
    "mnist": _idx("MNIST", formats.idx_reader(formats.DIGITS), 20 / 28, md5=MNIST_MD5),
    "fashion-mnist": _idx("FashionMNIST", formats.idx_reader(formats.CLOTHES), None),
    "kmnist": _idx("KMNIST", formats.idx_reader(formats.KANA), 1.0),
    "cifar10": _cifar(
        "CIFAR10", "cifar-10-batches-py", [f"data_batch_{n}" for n in range(1, 6)], "test_batch", "batches.meta"
    ),
    "cifar100": _cifar("CIFAR100", "cifar-100-python", ["train"], "test", "meta"),
    "svhn": TorchvisionSet(
        "SVHN",
        "",
        {"pool": ("train_32x32.mat",), "test": ("test_32x32.mat",)},
        formats.read_svhn,
        content_fraction=None,
        is_drawing=False,
        downloads=_SPLITS,
    ),
    **{f"emnist-{split}": _emnist(split, classes) for split, classes in formats.EMNIST_CLASSES.items()},
    "usps": TorchvisionSet(
        "USPS",
        "",
        {"pool": ("usps.bz2",), "test": ("usps.t.bz2",)},
        formats.read_usps,
        content_fraction=1.0,
        is_drawing=True,
        downloads=_TRAIN_OR_NOT,
    ),
    "qmnist": _idx(
        "QMNIST",
        formats.idx_reader(formats.DIGITS),
        20 / 28,
        ("qmnist-train", "qmnist-test"),
        labels="labels-idx2-int",
        downloads=_TRAIN_OR_NOT,
        may_be_packed=True,
    ),
}


def prepare(
    kind: str, part: arrays.Part, data_dir: Path, image_size: int | None, *, download: bool
) -> tuple[Path, Path, int | None]:
    """Return the folders of one part's arrays and of the raw files, and the number of test images if it is known.

    Makes the arrays if necessary. Raises DatasetUnavailableError when files are missing, and DatasetError when one is
    damaged.
    """
    files = locate(kind, data_dir, download=download)
    folder = files[part][0].parent
    statuses = {path: path.stat() for path in files[part]}
    head = f"1 {kind}" if image_size is None else f"1 {kind} {image_size}"
    name = f"arrays/{kind}-{part}-{arrays.cache_key(head, {part: statuses}, folder)}"
    prepared = arrays.find(data_dir, name)
    if prepared is None:
        (images, labels), classes = _read(kind, files[part])
        images, original = resize(images, image_size)
        about: arrays.About = {"classes": classes, "original_size": original}
        prepared = arrays.store(data_dir, name, {part: (images, labels)}, about)
    return prepared, folder, formats.count_images(files["test"])


def locate(kind: str, data_dir: Path, *, download: bool) -> Mapping[arrays.Part, Sequence[Path]]:
    """Find the files of both parts, without opening them. Raises DatasetUnavailableError when some are missing."""
    dataset = SETS[kind]
    missing: list[str] = []
    for base in dict.fromkeys((data_dir, *arrays.base_folders(data_dir))):
        files = {part: [_file(dataset, base, name) for name in names] for part, names in dataset.files.items()}
        absent = [path.name for paths in files.values() for path in paths if not path.is_file()]
        if not absent:
            return files
        missing = missing or list(dict.fromkeys(absent))
    reason = "downloading was not allowed"
    for base in arrays.base_folders(data_dir) if download else ():
        try:
            _download(dataset, base)
            return locate(kind, data_dir, download=False)
        except DatasetUnavailableError as error:
            reason = str(error)
            break
        except OSError as error:  # the next folder may be writable
            reason = str(error)
    raise DatasetUnavailableError(
        f"{kind} is not in {data_dir / dataset.folder} ({', '.join(missing)} missing) and cannot be downloaded: "
        f"{reason.removesuffix('.')}. Put torchvision's files there, name the folder that holds "
        f"{dataset.folder or missing[0]} with --data-dir, or type --dataset digits, which needs no download"
    )


def _file(dataset: TorchvisionSet, base: Path, name: str) -> Path:
    path = base / dataset.folder / name
    packed = path.with_name(f"{name}.gz")
    return packed if dataset.may_be_packed and not path.is_file() and packed.is_file() else path


def _download(dataset: TorchvisionSet, base: Path) -> None:
    """Download and unpack the files, and verify their checksums. Each appears in its folder when it is complete."""
    base.mkdir(parents=True, exist_ok=True)
    _log.info("downloading %s to %s", dataset.torchvision_class, base / dataset.folder)
    reasons = []
    for source, server, timeout_s in _sources(dataset.torchvision_class):
        with tempfile.TemporaryDirectory(dir=base, prefix=".download-") as temporary:
            try:
                with _downloading(timeout_s):
                    for arguments in dataset.downloads:
                        source(temporary, download=True, **arguments)
            except Exception as error:  # of torchvision, urllib, gzip or tarfile
                reasons.append(f"{server}{_reason(error)}")
                continue
            (base / dataset.folder).mkdir(parents=True, exist_ok=True)
            for path in Path(temporary, dataset.folder).iterdir():  # EMNIST's splits come together
                if path.is_file() and path.suffix not in (".gz", ".zip"):
                    os.replace(path, base / dataset.folder / path.name)
            return
    raise DatasetUnavailableError("; ".join(reasons))


def _sources(name: str) -> Iterator[tuple[Any, str, float]]:
    """Yield torchvision's class, restricted to each of its mirrors in turn, with their address and timeout.

    With several mirrors, torchvision itself would give up after the first timeout.
    """
    from torchvision import datasets  # type: ignore[import-untyped, unused-ignore]

    dataset_class: Any = getattr(datasets, name)
    mirrors = vars(dataset_class).get("mirrors")  # EMNIST and QMNIST inherit MNIST's, and do not use them
    if mirrors is None:
        yield dataset_class, "", TIMEOUT_S
        return
    for mirror in filter(None, (os.environ.get(MIRROR_VARIABLE), *mirrors)):
        one_mirror = type(name, (dataset_class,), {"mirrors": [mirror.rstrip("/") + "/"]})
        yield one_mirror, f"{mirror}: ", MIRROR_TIMEOUT_S


@contextlib.contextmanager
def _downloading(timeout_s: float) -> Iterator[None]:
    """Let torchvision print nothing, and its connections fail after `timeout_s` of silence."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout_s)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    """Return the reason in torchvision's message, such as `Connection refused`."""
    message = " ".join(str(error).split()).rpartition("got: ")[2]
    return re.sub(r"^<urlopen error (?:\[Errno -?\d+\] )?(.*)>$", r"\1", message) or type(error).__name__


def _read(kind: str, paths: Sequence[Path]) -> tuple[Labelled, Sequence[str]]:
    """Read and check the files of one part. Raises DatasetError."""
    dataset = SETS[kind]
    for path in (path for path in paths if path.name in dataset.md5):
        with formats.reading(path), path.open("rb") as file:
            expected, actual = dataset.md5[path.name], hashlib.file_digest(file, "md5").hexdigest()
            if actual != expected:
                raise ValueError(f"expected MD5 {expected}, got {actual} for {path.stat().st_size} bytes")
    with formats.reading(*paths):
        (images, labels), classes = dataset.read(paths)
        if len(images) != len(labels) or len(images) == 0:
            raise ValueError(f"it holds {len(images)} images and {len(labels)} labels")
        if len(wrong := labels[(labels < 0) | (labels >= len(classes))]):
            raise ValueError(f"it has a label {wrong[0]}, expected 0 to {len(classes) - 1}")
    return (images, labels), classes
