"""Classify pictures with a registered model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from objectives.base import PictureError
from objectives.datasets import NAMES, load_dataset, load_test_split
from objectives.pictures import NOTHING_FOUND, Framing, read_picture, to_model_input
from search.registry import Loaded


@dataclass(frozen=True)
class Prediction:
    """What the model makes of one picture."""

    name: str
    label: str
    probability: float
    notes: tuple[str, ...] = ()
    """What was done to the picture."""
    truth: str | None = None
    """The true label, for a picture of a dataset."""
    error: str | None = None
    """Why there is no prediction."""


@dataclass(frozen=True)
class Picture:
    """One picture as the model sees it: (c, h, w) in [0, 1]."""

    name: str
    pixels: NDArray[np.float32] | None
    notes: tuple[str, ...] = ()
    truth: int | None = None
    error: str | None = None


def predict(loaded: Loaded, names: Sequence[str], data_dir: Path | None) -> tuple[list[Prediction], bytes | None]:
    """Classify files and dataset pictures; also a PNG of them all, None when none could be read.

    A name is a path, or `DATASET:INDEX` or `DATASET:FIRST-LAST` for pictures of a dataset's test split.
    """
    framing = Framing(**{**loaded.metadata["framing"], "size": tuple(loaded.metadata["framing"]["size"])})
    dataset = str(loaded.metadata["dataset"])
    pictures = [picture for name in names for picture in read(name, framing, dataset, data_dir)]
    readable = [picture for picture in pictures if picture.pixels is not None]
    if not readable:
        return [_predict(picture, None, loaded.classes) for picture in pictures], None
    images = np.stack([picture.pixels for picture in readable if picture.pixels is not None])
    probabilities = loaded.probabilities(images)
    rows = iter(probabilities)
    known = [None if picture.pixels is None else next(rows) for picture in pictures]
    predictions = [_predict(picture, row, loaded.classes) for picture, row in zip(pictures, known, strict=True)]
    return predictions, draw(images, readable, probabilities, loaded.classes)


def read(name: str, framing: Framing, dataset: str, data_dir: Path | None) -> list[Picture]:
    """The pictures that a name stands for; `dataset` is the one that the model was trained on."""
    found = re.fullmatch(r"(.+):(\d+)(?:-(\d+))?", name, re.DOTALL)
    if found and not Path(name).exists() and (found[1] in NAMES or found[1].startswith("folder:")):
        if found[1] != dataset:
            error = f"{name}: this model knows {dataset}; type {dataset}:0, or name another model with --model"
            return [Picture(name, None, error=error)]
        return _from_dataset(dataset, int(found[2]), int(found[3] or found[2]), data_dir)
    try:
        pixels, notes = to_model_input(read_picture(Path(name)), framing)
    except PictureError as error:
        return [Picture(name, None, error=str(error))]
    if NOTHING_FOUND in notes:
        return [Picture(name, None, error=f"{name}: {NOTHING_FOUND}; is it blank?")]
    return [Picture(name, pixels, tuple(notes))]


def _from_dataset(dataset: str, first: int, last: int, data_dir: Path | None) -> list[Picture]:
    load_dataset(dataset, data_dir)  # fetches the files where needed
    images, labels = load_test_split(dataset, data_dir)
    if last < first:
        error = f"{dataset}:{first}-{last} ends before it begins; type {dataset}:{last}-{first}"
        return [Picture(f"{dataset}:{first}-{last}", None, error=error)]
    if last >= len(labels):
        known = f"{dataset} has test pictures 0 to {len(labels) - 1}"
        error = f"{known}; type for example {dataset}:0-{min(24, len(labels) - 1)}"
        return [Picture(f"{dataset}:{first}", None, error=error)]
    chosen = range(first, last + 1)
    pixels = (images[first : last + 1] / 255).astype(np.float32)
    return [Picture(f"{dataset}:{i}", pixels[i - first], truth=int(labels[i])) for i in chosen]


def _predict(picture: Picture, row: NDArray[np.float32] | None, classes: Sequence[str]) -> Prediction:
    if row is None:
        return Prediction(picture.name, "", 0.0, error=picture.error)
    best = int(row.argmax())
    truth = None if picture.truth is None else classes[picture.truth]
    return Prediction(picture.name, classes[best], float(row[best]), picture.notes, truth)


def draw(
    images: NDArray[np.float32], pictures: Sequence[Picture], probabilities: NDArray[np.float32], classes: Sequence[str]
) -> bytes:
    """A PNG of the pictures as the model saw them, with prediction and, where known, true label."""
    from search.figures import prediction_grid

    truths = (picture.truth for picture in pictures)
    titles = list(zip(probabilities.argmax(1).tolist(), truths, probabilities.max(1).tolist(), strict=True))
    return prediction_grid((images * 255).round().astype(np.uint8), titles, classes)
