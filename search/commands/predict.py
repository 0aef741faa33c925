"""Classify image files, or test images of a dataset, with a registered model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from objectives.base import PictureError
from objectives.data.datasets import NAMES, load_dataset, load_test_split
from objectives.data.image_files import NOTHING_FOUND, read_image, to_model_input
from search.commands.load import Predictor


@dataclass(frozen=True)
class Prediction:
    """One image, and its prediction once there is one."""

    name: str
    pixels: NDArray[np.float32] | None = None
    """The image as the model sees it: (c, h, w) in [0, 1]; None when it cannot be read."""
    notes: tuple[str, ...] = ()
    """How a file was changed to look like the training images."""
    truth: str | None = None
    """The true label, for an image of a dataset."""
    label: str = ""
    probability: float = 0.0
    error: str | None = None
    """Why there is no prediction."""


def require_readable(names: Sequence[str]) -> None:
    """Raise PictureError when no name can be read, which is known long before a model is loaded."""
    errors = []
    for name in names:
        if _dataset_images(name):
            return
        try:
            read_image(Path(name))
            return
        except PictureError as error:
            errors.append(str(error))
    raise PictureError("\n".join(errors))


def predict(predictor: Predictor, names: Sequence[str], data_dir: Path | None) -> list[Prediction]:
    """Classify images, one prediction for each.

    A name is a path, or `DATASET:INDEX` or `DATASET:FIRST-LAST` for images of a dataset's test split.
    """
    rows = [row for name in names for row in _read(name, predictor, data_dir)]
    pixels = [row.pixels for row in rows if row.pixels is not None]
    if not pixels:
        return rows
    labels, probabilities = predictor.predict(np.stack(pixels))
    answers = iter(zip(labels.tolist(), probabilities.max(1).tolist(), strict=True))
    return [row if row.pixels is None else _with_answer(row, *next(answers)) for row in rows]


def draw(predictions: Sequence[Prediction], classes: Sequence[str]) -> bytes | None:
    """Draw the images with their predictions and true labels, as PNG; None when no image could be read."""
    from search.tracking.figures.figures import prediction_grid

    index = {name: number for number, name in enumerate(classes)}
    rows = [row for row in predictions if row.pixels is not None]
    if not rows:
        return None
    images = (np.stack([row.pixels for row in rows if row.pixels is not None]) * 255).round().astype(np.uint8)
    titles = [(index[row.label], None if row.truth is None else index[row.truth], row.probability) for row in rows]
    return prediction_grid(images, titles, classes)


def _with_answer(row: Prediction, label: str, probability: float) -> Prediction:
    return replace(row, label=label, probability=probability)


def _read(name: str, predictor: Predictor, data_dir: Path | None) -> list[Prediction]:
    """Read the images of one name."""
    if (found := _dataset_images(name)) is not None:
        dataset, first, last = found
        if dataset != (own := predictor.metadata["dataset"]):
            error = f"{name}: this model knows {own}; type {own}:0, or name another model with --model"
            return [Prediction(name, error=error)]
        return _read_dataset(dataset, first, last, predictor.classes, data_dir)
    try:
        pixels, notes = to_model_input(read_image(Path(name)), predictor.framing)
    except PictureError as error:
        return [Prediction(name, error=str(error))]
    if NOTHING_FOUND in notes:
        return [Prediction(name, error=f"{name}: {NOTHING_FOUND}; is it blank?")]
    return [Prediction(name, pixels, tuple(notes))]


def _dataset_images(name: str) -> tuple[str, int, int] | None:
    """Parse `mnist:7` and `mnist:0-24` to dataset, first and last index; None when the name is that of a file."""
    found = re.fullmatch(r"(.+):(\d+)(?:-(\d+))?", name, re.DOTALL)
    if found is None or Path(name).exists() or not (found[1] in NAMES or found[1].startswith("folder:")):
        return None
    return found[1], int(found[2]), int(found[3] or found[2])


def _read_dataset(
    dataset: str, first: int, last: int, classes: Sequence[str], data_dir: Path | None
) -> list[Prediction]:
    load_dataset(dataset, data_dir)  # downloads the files if necessary
    images, labels = load_test_split(dataset, data_dir)
    if last < first:
        error = f"{dataset}:{first}-{last} ends before it begins; type {dataset}:{last}-{first}"
        return [Prediction(f"{dataset}:{first}-{last}", error=error)]
    if last >= len(labels):
        example = f"type for example {dataset}:0-{min(24, len(labels) - 1)}"
        error = f"{dataset} has test images 0 to {len(labels) - 1}; {example}"
        return [Prediction(f"{dataset}:{first}", error=error)]
    pixels = (images[first : last + 1] / 255).astype(np.float32)
    return [
        Prediction(f"{dataset}:{index}", image, truth=classes[int(labels[index])])
        for index, image in enumerate(pixels, start=first)
    ]
