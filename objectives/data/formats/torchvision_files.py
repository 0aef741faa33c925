"""Reads files of torchvision's datasets. Nothing in them is run.

Every reader takes the paths of one part and returns images (n, c, h, w), labels (n,) and the names of the classes. It
raises whatever its parser raises for damaged files, which `reading` turns into a DatasetError.
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

from objectives.base import DatasetError
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

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
KANA = ("o (お)", "ki (き)", "su (す)", "tsu (つ)", "na (な)", "ha (は)", "ma (ま)", "ya (や)", "re (れ)", "wo (を)")

Content = tuple[Labelled, tuple[str, ...]]
"""Images and labels, and the names of the classes."""
Reader = Callable[[Sequence[Path]], Content]

_IDX_TYPES = {np.dtype(np.uint8): "ubyte", np.dtype(np.int32): "int"}
_IDX_BYTES = {"images-idx3-ubyte": (16, 28 * 28), "labels-idx1-ubyte": (8, 1), "labels-idx2-int": (12, 8 * 4)}
"""Bytes of the header and of each image or label, by the end of a file's name."""


@contextlib.contextmanager
def reading(*paths: Path) -> Iterator[None]:
    """Turn every error of a parser into a DatasetError that names the files."""
    try:
        yield
    except (DatasetError, ImportError):  # named already; the parser's library is missing, and no file is damaged
        raise
    except PermissionError as error:
        raise DatasetError(
            f"you may not read {error.filename}; make it readable, or name another folder with --data-dir"
        ) from None
    except Exception as error:  # parsers assert, look up, unpickle and reshape
        reason = " ".join(str(error).split())[:300] or "it is not in the format of torchvision's file"
        names = " or ".join(path.name for path in paths)
        raise DatasetError(
            f"{paths[0].parent / names} is damaged: {reason}; delete it and run again, or name another folder with "
            "--data-dir"
        ) from None


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


def idx_reader(classes: tuple[str, ...], *, first: int = 0, is_transposed: bool = False) -> Reader:
    """Return a reader of a file of images and one of labels in MNIST's format.

    first: label of the first class. is_transposed: whether rows and columns are exchanged. In a table of labels,
    such as QMNIST's, the first column counts; the others say who wrote the digit, and where it was.
    """

    def read(paths: Sequence[Path]) -> Content:
        images, labels = (_read_idx(path) for path in paths)
        with reading(paths[0]):
            if len(images) != len(labels):
                raise ValueError(f"it holds {len(images)} images, and {paths[1].name} {len(labels)} labels")
        upright = images.swapaxes(1, 2) if is_transposed else images
        numbers = labels.reshape(len(labels), -1)[:, 0].astype(np.int64)
        return (np.ascontiguousarray(upright[:, None]), numbers - first), classes

    return read


def _read_idx(path: Path) -> NDArray[Any]:
    """Read one file. Its name gives the number of dimensions and the type, as in `idx3-ubyte`. Raises DatasetError."""
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor  # type: ignore[import-untyped, unused-ignore]

    with reading(path), _unpacked(path) as unpacked:
        values: NDArray[Any] = read_sn3_pascalvincent_tensor(str(unpacked)).numpy()
        if f"idx{values.ndim}-{_IDX_TYPES.get(values.dtype)}" not in path.name:
            raise ValueError(f"it holds {values.dtype} of shape {values.shape}, which is not what its name says")
    return values


def count_images(paths: Sequence[Path]) -> int | None:
    """Count images by the sizes of unpacked files in MNIST's format, which are not opened. None for other files.

    Raises DatasetError for sizes that do not agree.
    """
    sizes = [size for path in paths for end, size in _IDX_BYTES.items() if path.name.endswith(end)]
    if len(sizes) < len(paths):
        return None
    with reading(*paths):
        images, labels = ((path.stat().st_size - head) / each for path, (head, each) in zip(paths, sizes, strict=True))
        if images != labels or images < 1 or images % 1:
            raise ValueError(f"the sizes are those of {images:g} images and {labels:g} labels")
    return int(images)


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
