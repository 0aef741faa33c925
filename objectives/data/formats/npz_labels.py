"""Reads labels of npz files: whole numbers or texts, one an image."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from objectives.base import DatasetError

MAX_FLOAT = 2**53
"""From here on floats do not tell all whole numbers apart."""

Labels = NDArray[np.generic]
"""Integers or texts, shape (n,)."""


def labels_of(where: str, key: str, values: Labels) -> Labels:
    """Check labels of shape (n,) or (n, 1). Whole floats become integers, bytes texts.

    where: the dataset's name, for messages. Raises DatasetError.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DatasetError(f"{where}: {key} has the shape {values.shape}, and there must be one label for each image")
    return _plain(where, key, values)


def refuse_several(where: str, key: str, values: Labels) -> None:
    """Raise DatasetError for labels that are one-hot, or that give an image several classes."""
    if values.ndim != 2 or values.shape[1] < 2:
        return
    head = f"{where}: {key} has the shape {values.shape}"
    if values.dtype.kind in "biuf" and np.isin(values, (0, 1)).all() and (values.sum(axis=1) == 1).all():
        raise DatasetError(f"{head}, one column for each class; save {key}.argmax(1) instead")
    raise DatasetError(
        f"{head}, and images with several labels cannot be searched; save one label for each image, for example one "
        f"column, {key}[:, 0], or the largest, {key}.argmax(1)"
    )


def _plain(where: str, key: str, values: Labels) -> Labels:
    kind = values.dtype.kind
    if kind == "S":
        return np.char.decode(values.astype(np.bytes_), "utf-8", "replace")
    if kind == "b":
        return values.astype(np.int64)
    if kind == "f":
        numbers = values.astype(np.float64)
        is_label = (np.abs(numbers) < MAX_FLOAT) & (numbers == np.rint(numbers))
        if not is_label.all():
            raise DatasetError(
                f"{where}: {key} holds the number {numbers[~is_label][0]:g}, and labels are whole numbers, as floats "
                "below 2**53, or texts; for classes that you made of numbers, save their index, for example "
                f"numpy.digitize({key}, limits)"
            )
        values, kind = numbers.astype(np.int64), "i"
    if kind not in "iuU":
        raise DatasetError(f"{where}: {key} holds {values.dtype}, and labels are whole numbers or texts")
    if kind == "i" and len(values) and values.min() < 0:
        raise DatasetError(
            f"{where}: {key} holds the label {values.min()}, and labels count from 0; leave out images without a "
            f"class, images[{key} >= 0], or save {key} + {-values.min()}"
        )
    return values


def class_names(where: str, labels: Labels, names_key: str | None, names: Labels | None) -> Sequence[str]:
    """Names of the sorted distinct labels of training. `names`: from the file, by index, or the labels themselves.

    Raises DatasetError.
    """
    if names is None or labels.dtype.kind == "U" or np.array_equal(names, labels):
        return [str(label) for label in labels.tolist()]
    texts = _plain(where, str(names_key), names.astype(str) if names.dtype.kind in "iu" else names)
    if texts.ndim != 1 or texts.dtype.kind != "U" or len(set(texts.tolist())) < len(texts):
        raise DatasetError(
            f"{where}: {names_key} must hold different texts, shape (k,); found {names.dtype} of shape {names.shape}"
        )
    if len(labels) and int(labels[-1]) >= len(texts):
        raise DatasetError(
            f"{where}: {names_key} names {len(texts)} classes, and there is a label {labels[-1]}; add its name"
        )
    return [str(texts[int(label)]) for label in labels]
