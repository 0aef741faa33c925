"""Reads files of torchvision's datasets. Nothing in them is run, and no checksum has to match.

Every reader takes the paths of one part and returns images (n, c, h, w), labels (n,) and the names of the classes. It
raises whatever its parser raises for damaged files.
"""

import contextlib
import gzip
import pickle
import shutil
import string
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from objectives.data.splits import Labelled

DIGITS = tuple(string.digits)
_MERGED = set("cijklmopsuvwxyz")
"""Letters whose lower case EMNIST merges into the upper case, because the two look alike."""
_UNMERGED = (*DIGITS, *string.ascii_uppercase, *(x for x in string.ascii_lowercase if x not in _MERGED))
EMNIST_CLASSES: Mapping[str, tuple[str, ...]] = {
    "letters": tuple(string.ascii_lowercase),
    "balanced": _UNMERGED,
    "byclass": (*DIGITS, *string.ascii_uppercase, *string.ascii_lowercase),
    "bymerge": _UNMERGED,
    "digits": DIGITS,
    "mnist": DIGITS,
}

Content = tuple[Labelled, tuple[str, ...]]
"""Images and labels, and the names of the classes."""


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays, containers, texts and numbers. Anything else could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]  # its module has another name in each version of numpy
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not part of CIFAR's format")


def _latin1(text: str, encoding: str) -> bytes:
    """Python 3 writes this for bytes in a pickle that Python 2 can read."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it names the encoding {encoding!r}, which is not part of CIFAR's format")
    return text.encode("latin1")


def _unpickle(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        content = _PlainUnpickler(file, encoding="latin1").load()
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, expected a dict")
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in content.items()}


def read_cifar(paths: Sequence[Path]) -> Content:
    """Read batches of CIFAR-10 or CIFAR-100. The last path is that of the names."""
    *batches, meta = paths
    kind = "fine_label" if meta.name == "meta" else "label"
    names = tuple(map(str, _unpickle(meta)[f"{kind}_names"]))
    contents = [_unpickle(path) for path in batches]
    images = np.concatenate([np.asarray(content["data"], np.uint8).reshape(-1, 3, 32, 32) for content in contents])
    labels = np.concatenate([np.asarray(content[f"{kind}s"], np.int64) for content in contents])
    return (images, labels), names


def read_svhn(paths: Sequence[Path]) -> Content:
    """Read a file of MATLAB, in which the label 10 stands for the digit 0."""
    from scipy.io import loadmat  # type: ignore[import-untyped, unused-ignore]

    content = loadmat(paths[0], variable_names=("X", "y"))
    images, labels = content["X"], content["y"].reshape(-1).astype(np.int64)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise ValueError(f"X is {images.dtype} of shape {images.shape}, expected uint8 of shape (32, 32, 3, n)")
    return (np.ascontiguousarray(images.transpose(3, 2, 0, 1)), np.where(labels == 10, 0, labels)), DIGITS


def read_usps(paths: Sequence[Path]) -> Content:
    """Read packed text of libsvm. torchvision's class reads the file whose name belongs to the split."""
    from torchvision.datasets import USPS  # type: ignore[import-untyped, unused-ignore]

    content = USPS(str(paths[0].parent), train=paths[0].name == "usps.bz2")
    return (content.data[:, None], np.asarray(content.targets, np.int64)), DIGITS


def emnist_reader(split: str) -> Callable[[Sequence[Path]], Content]:
    """Return the reader of a split of EMNIST, whose images are stored with rows and columns exchanged."""

    def read(paths: Sequence[Path]) -> Content:
        images, labels = (_read_idx(path) for path in paths)
        first = 1 if split == "letters" else 0  # letters are counted from 1
        return (_grey(images.swapaxes(1, 2)), labels.astype(np.int64) - first), EMNIST_CLASSES[split]

    return read


def read_qmnist(paths: Sequence[Path]) -> Content:
    """Read images, and the first column of a table of labels. The others say who wrote the digit, and where it was."""
    images, labels = (_read_idx(path) for path in paths)
    return (_grey(images), labels[:, 0].astype(np.int64)), DIGITS


def _grey(images: NDArray[Any]) -> NDArray[np.uint8]:
    if images.dtype != np.uint8 or images.ndim != 3:
        raise ValueError(f"it holds {images.dtype} of shape {images.shape}, expected uint8 of shape (n, h, w)")
    return np.ascontiguousarray(images[:, None])


def _read_idx(path: Path) -> NDArray[Any]:
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor  # type: ignore[import-untyped, unused-ignore]

    with _unpacked(path) as unpacked:
        values: NDArray[Any] = read_sn3_pascalvincent_tensor(str(unpacked)).numpy()
    return values


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The file itself, or one that holds its content unpacked."""
    if path.suffix != ".gz":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, path.stem)
        with gzip.open(path) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file)
        yield target
