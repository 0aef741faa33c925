"""Small files in the formats of torchvision's datasets and of npz, with images that a network can learn in an epoch."""

from __future__ import annotations

import bz2
import gzip
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from objectives.data.datasets import Dataset, load_dataset, load_test_split

N_TRAIN, N_TEST = 300, 60

Images = NDArray[np.uint8]


def images(n: int, shape: tuple[int, ...], n_classes: int = 10, seed: int = 0) -> tuple[Images, NDArray[np.int64]]:
    """Noise whose brightness grows with the class, shape (n, *shape), and the classes in turn."""
    labels = np.arange(n) % n_classes
    levels = (labels * (200 // n_classes)).reshape(-1, *[1] * len(shape))
    return (levels + np.random.RandomState(seed).randint(0, 50, (n, *shape))).astype(np.uint8), labels


def idx(values: NDArray[np.generic]) -> bytes:
    """The format of MNIST's files: bytes, or integers of 32 bits."""
    kind = 8 if values.dtype == np.uint8 else 12
    stored = values if kind == 8 else values.astype(">i4")
    return bytes((0, 0, kind, values.ndim)) + b"".join(n.to_bytes(4, "big") for n in values.shape) + stored.tobytes()


def write_cifar(data: Path, kind: str = "cifar10", names: Sequence[str] | None = None) -> Path:
    """CIFAR's pickles, as Python 2 can read them; returns their folder."""
    is_ten = kind == "cifar10"
    folder = data / ("cifar-10-batches-py" if is_ten else "cifar-100-python")
    folder.mkdir(parents=True)
    n_classes, key = (10, "labels") if is_ten else (100, "fine_labels")
    batches = [f"data_batch_{n}" for n in range(1, 6)] if is_ten else ["train"]
    for seed, name in enumerate((*batches, "test_batch" if is_ten else "test")):
        n = N_TRAIN // len(batches) if name in batches else N_TEST
        pixels, labels = images(n, (3, 32, 32), n_classes, seed)
        content = {"data": pixels.reshape(n, -1), key: labels.tolist(), "filenames": [f"{i}.png" for i in range(n)]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    label_names = list(names or (f"class {n}" for n in range(n_classes)))
    meta, meta_key = ("batches.meta", "label_names") if is_ten else ("meta", "fine_label_names")
    (folder / meta).write_bytes(pickle.dumps({meta_key: label_names}, protocol=2))
    return folder


def write_svhn(data: Path) -> None:
    """MATLAB's files, in which 10 stands for the digit 0."""
    from scipy.io import savemat

    data.mkdir(parents=True, exist_ok=True)
    for seed, (name, n) in enumerate((("train", N_TRAIN), ("test", N_TEST))):
        pixels, labels = images(n, (32, 32, 3), seed=seed)
        stored = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(data / f"{name}_32x32.mat", {"X": pixels.transpose(1, 2, 3, 0), "y": stored})


def write_emnist(data: Path, split: str, n_classes: int, *, first: int = 0, packed: bool = False) -> Path:
    """EMNIST's files, whose images are stored with rows and columns exchanged; returns their folder."""
    folder = data / "EMNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for name, n in (("train", N_TRAIN), ("test", N_TEST)):
        pixels, labels = images(n, (28, 28), n_classes)
        pixels[:, 0, :] = 255  # the upper row of the upright image
        parts = {"images-idx3": pixels.swapaxes(1, 2), "labels-idx1": (labels + first).astype(np.uint8)}
        for part, values in parts.items():
            path = folder / f"emnist-{split}-{name}-{part}-ubyte"
            content = idx(np.ascontiguousarray(values))
            if packed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content, 1))
            else:
                path.write_bytes(content)
    return folder


def write_qmnist(data: Path) -> Path:
    """QMNIST's files, whose labels are a table of eight columns; returns their folder."""
    folder = data / "QMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, n in (("train", N_TRAIN), ("test", N_TEST)):
        pixels, labels = images(n, (28, 28))
        table = np.concatenate([labels[:, None], np.full((n, 7), 4_000)], axis=1)
        (folder / f"qmnist-{name}-images-idx3-ubyte").write_bytes(idx(pixels))
        (folder / f"qmnist-{name}-labels-idx2-int").write_bytes(idx(table))
    return folder


def write_usps(data: Path) -> None:
    """libsvm's text: labels from 1 to 10, pixels from -1 to 1."""
    data.mkdir(parents=True, exist_ok=True)
    for name, n in (("usps.bz2", N_TRAIN), ("usps.t.bz2", N_TEST)):
        pixels, labels = images(n, (256,))
        rows = (
            f"{label + 1} " + " ".join(f"{i}:{value:.6f}" for i, value in enumerate(row / 127.5 - 1, start=1))
            for row, label in zip(pixels, labels.tolist(), strict=True)
        )
        (data / name).write_bytes(bz2.compress("\n".join(rows).encode() + b"\n"))


def write_medmnist(path: Path, *, shape: tuple[int, ...] = (28, 28), n_classes: int = 3, **extra: object) -> Path:
    """A file in MedMNIST's layout, with labels of shape (n, 1). `extra` replaces or adds arrays."""
    content: dict[str, object] = {}
    for seed, (split, n) in enumerate((("train", N_TRAIN), ("val", N_TEST), ("test", N_TEST))):
        pixels, labels = images(n, shape, n_classes, seed)
        content |= {f"{split}_images": pixels, f"{split}_labels": labels[:, None].astype(np.uint8)}
    return write_npz(path, **{**content, **extra})


def write_plain(path: Path, **extra: object) -> Path:
    """A file of `images` and `labels`, the latter texts, in colour. `extra` replaces or adds arrays."""
    pixels, labels = images(N_TRAIN, (32, 32, 3), 3)
    return write_npz(path, **{"images": pixels, "labels": np.array(["cat", "dog", "eel"])[labels], **extra})


def write_npz(path: Path, **content: object) -> Path:
    """Arrays by key; those that are None are left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{key: np.asarray(value) for key, value in content.items() if value is not None})  # type: ignore[arg-type]
    return path


def load_npz(file: Path, size: int | None = None) -> Dataset:
    return load_dataset(f"npz:{file}", file.parent / "data", image_size=size)


def load_npz_test(file: Path) -> tuple[np.ndarray, np.ndarray]:
    return load_test_split(f"npz:{file}", file.parent / "data")
