"""CIFAR-10, SVHN and other datasets of torchvision: torchvision downloads their files, and arrays are made of them.

The files lie where torchvision puts them. It is imported only when files are missing or arrays have not been made. The
test files are opened by `prepare(..., "test", ...)` alone.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives.base import DatasetError, DatasetUnavailableError
from objectives.data import arrays, mnist
from objectives.data.files.resizing import resize
from objectives.data.formats import torchvision_files as formats
from objectives.data.splits import Labelled

TIMEOUT_S = 10.0
"""How long a server may stay silent."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TorchvisionSet:
    """A dataset, and where its files are."""

    torchvision_class: str
    folder: str
    """The folder of the files in the data folder. Empty for the data folder itself."""
    files: Mapping[arrays.Part, tuple[str, ...]]
    """Each may be packed, with `.gz` after its name, if `may_be_packed`."""
    read: Callable[[Sequence[Path]], formats.Content]
    """Reads the files of one part."""
    content_fraction: float | None
    """As in `objectives.data.files.image_files.Framing`."""
    is_drawing: bool
    """Whether it shows bright strokes on black."""
    downloads: Sequence[Mapping[str, Any]]
    """Arguments with which torchvision's class downloads all files, one call each."""
    validation_share: int = 5
    """Validation takes one image of this many in the pool."""
    may_be_packed: bool = False


def _cifar(name: str, folder: str, batches: Sequence[str], test: str, meta: str) -> TorchvisionSet:
    files: dict[arrays.Part, tuple[str, ...]] = {"pool": (*batches, meta), "test": (test, meta)}
    return TorchvisionSet(name, folder, files, formats.read_cifar, None, False, [{}])


def _emnist(split: str) -> TorchvisionSet:
    files: dict[arrays.Part, tuple[str, ...]] = {
        part: (f"emnist-{split}-{name}-images-idx3-ubyte", f"emnist-{split}-{name}-labels-idx1-ubyte")
        for part, name in _PARTS.items()
    }
    # Characters fill the image but for 2 pixels at each side: https://arxiv.org/abs/1702.05373, section II.
    reader, downloads = formats.emnist_reader(split), [{"split": split}]
    return TorchvisionSet("EMNIST", "EMNIST/raw", files, reader, 24 / 28, True, downloads, 6, may_be_packed=True)


_PARTS: Mapping[arrays.Part, str] = {"pool": "train", "test": "test"}
_QMNIST_FILES: Mapping[arrays.Part, tuple[str, ...]] = {
    part: (f"qmnist-{name}-images-idx3-ubyte", f"qmnist-{name}-labels-idx2-int") for part, name in _PARTS.items()
}
_SPLITS, _TRAIN_OR_NOT = ({"split": "train"}, {"split": "test"}), ({"train": True}, {"train": False})

SETS: Mapping[str, TorchvisionSet] = {
    "cifar10": _cifar(
        "CIFAR10", "cifar-10-batches-py", [f"data_batch_{n}" for n in range(1, 6)], "test_batch", "batches.meta"
    ),
    "cifar100": _cifar("CIFAR100", "cifar-100-python", ["train"], "test", "meta"),
    "svhn": TorchvisionSet(
        "SVHN",
        "",
        {part: (f"{name}_32x32.mat",) for part, name in _PARTS.items()},
        formats.read_svhn,
        content_fraction=None,
        is_drawing=False,
        downloads=_SPLITS,
    ),
    **{f"emnist-{split}": _emnist(split) for split in formats.EMNIST_CLASSES},
    "usps": TorchvisionSet(
        "USPS",
        "",
        {"pool": ("usps.bz2",), "test": ("usps.t.bz2",)},
        formats.read_usps,
        content_fraction=1.0,
        is_drawing=True,
        downloads=_TRAIN_OR_NOT,
    ),
    "qmnist": TorchvisionSet(
        "QMNIST",
        "QMNIST/raw",
        _QMNIST_FILES,
        formats.read_qmnist,
        content_fraction=20 / 28,
        is_drawing=True,
        downloads=_TRAIN_OR_NOT,
        validation_share=6,
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
    files = _locate(kind, data_dir, download=download)
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
    return prepared, folder, _count_test_images(files["test"])


def _locate(kind: str, data_dir: Path, *, download: bool) -> Mapping[arrays.Part, Sequence[Path]]:
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
            return _locate(kind, data_dir, download=False)
        except DatasetUnavailableError as error:
            reason = str(error)
            break
        except OSError as error:  # the next folder may be writable
            reason = str(error)
    place, reason = data_dir / dataset.folder, reason.removesuffix(".")
    is_partial = len(missing) < len({name for names in dataset.files.values() for name in names})
    absent_names = f" ({', '.join(missing)} missing)" if is_partial or not dataset.folder else ""
    raise DatasetUnavailableError(
        f"{kind} is not in {place}{absent_names} and cannot be downloaded: {reason}. "
        f"Put torchvision's files there, name the folder that holds {dataset.folder or missing[0]} with --data-dir, "
        "or type --dataset digits, which needs no download"
    )


def _file(dataset: TorchvisionSet, base: Path, name: str) -> Path:
    path = base / dataset.folder / name
    packed = path.with_name(f"{name}.gz")
    return packed if dataset.may_be_packed and not path.is_file() and packed.is_file() else path


def _download(dataset: TorchvisionSet, base: Path) -> None:
    """Download and unpack the files, and verify their checksums. Each appears in its folder when it is complete."""
    from torchvision import datasets  # type: ignore[import-untyped, unused-ignore]

    base.mkdir(parents=True, exist_ok=True)
    _log.info("downloading %s to %s", dataset.torchvision_class, base)
    with tempfile.TemporaryDirectory(dir=base, prefix=".download-") as temporary:
        try:
            with mnist.downloading(TIMEOUT_S):
                for arguments in dataset.downloads:
                    getattr(datasets, dataset.torchvision_class)(temporary, download=True, **arguments)
        except Exception as error:  # of torchvision, urllib, gzip or tarfile
            raise DatasetUnavailableError(mnist.download_reason(error)) from None
        (base / dataset.folder).mkdir(parents=True, exist_ok=True)
        for path in Path(temporary, dataset.folder).iterdir():  # EMNIST's splits come together
            if path.is_file() and path.suffix not in (".gz", ".zip"):
                os.replace(path, base / dataset.folder / path.name)


def _read(kind: str, paths: Sequence[Path]) -> tuple[Labelled, Sequence[str]]:
    """Read and check the files of one part. Raises DatasetError."""
    try:
        (images, labels), classes = SETS[kind].read(paths)
        if len(images) != len(labels) or len(images) == 0:
            raise ValueError(f"it holds {len(images)} images and {len(labels)} labels")
        if labels.min() < 0 or labels.max() >= len(classes):
            low, high = int(labels.min()), int(labels.max())
            raise ValueError(f"it has labels from {low} to {high}, and there are {len(classes)} classes")
    except Exception as error:  # parsers assert, look up, unpickle and reshape
        names = " or ".join(path.name for path in paths)
        reason = " ".join(str(error).split())[:300] or "it is not in the format of torchvision's file"
        raise DatasetError(
            f"{paths[0].parent / names} is damaged: {reason}; delete it and run again, or name another folder with "
            "--data-dir"
        ) from None
    return (images, labels), classes


def _count_test_images(paths: Sequence[Path]) -> int | None:
    """Count the test images by the size of an unpacked file of 28 x 28 pixels, which is not opened."""
    if not paths[0].name.endswith("-images-idx3-ubyte"):
        return None
    return (paths[0].stat().st_size - 16) // (28 * 28)
