"""Classify image files, or test images of a dataset, with a registered model."""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from objectives.base import DatasetError, PictureError
from objectives.data.datasets import load_test_split_of
from objectives.data.files.image_files import NOTHING_FOUND, read_image, to_model_input
from objectives.data.names import BUILT_IN, has_path, is_same_dataset
from search.commands.load import Predictor, load
from search.commands.session.naming import model_names
from search.common.errors import ModelNotFoundError

STORED_SPLIT = "from the split of the training, because the images have changed"


@dataclass(frozen=True)
class Prediction:
    """One image, and its prediction once there is one."""

    name: str
    pixels: NDArray[np.float32] | None = None  # the model's input: (c, h, w) in [0, 1]; None if it cannot be read
    notes: tuple[str, ...] = ()  # how a file was changed to look like the training images
    truth: str | None = None  # the true label, for an image of a dataset
    label: str = ""
    probability: float = 0.0
    error: str | None = None  # the reason, if it could not be classified


def load_for(names: Sequence[str], *, workspace: Path, tracking_uri: str | None) -> Predictor:
    """Load the champion of the dataset whose images are named first, or else the newest champion."""
    datasets = (images[0] for name in names if (images := _dataset_images(name)))
    if (dataset := next(datasets, None)) is not None:
        for model in model_names(dataset):
            with contextlib.suppress(ModelNotFoundError):
                predictor = load(model, workspace=workspace, tracking_uri=tracking_uri)
                if is_same_dataset(dataset, predictor.metadata.get("dataset", "")):
                    return predictor
    return load(workspace=workspace, tracking_uri=tracking_uri)


def require_readable(names: Sequence[str]) -> None:
    """Raise PictureError if no name can be read, before a model is loaded."""
    errors = []
    for name in names:
        if _dataset_images(name):
            return
        try:
            read_image(Path(name))
            return
        except PictureError as error:
            errors.append(_why_unreadable(name, error))
    raise PictureError("\n".join(errors))


def predict(predictor: Predictor, names: Sequence[str], data_dir: Path | None) -> list[Prediction]:
    """Classify images; returns one prediction per image.

    A name is a path, or `DATASET:INDEX` or `DATASET:FIRST-LAST` for images of a dataset's test split.
    """
    rows = [row for name in names for row in _read(name, predictor, data_dir)]
    pixels = [row.pixels for row in rows if row.pixels is not None]
    if not pixels:
        return rows
    predicted = predictor.predict(np.stack(pixels))
    answers = iter(zip(predicted.names.tolist(), predicted.probabilities.max(1).tolist(), strict=True))
    for index, row in enumerate(rows):
        if row.pixels is not None:
            label, probability = next(answers)
            rows[index] = replace(row, label=label, probability=probability)
    return rows


def draw(predictions: Sequence[Prediction], classes: Sequence[str]) -> bytes | None:
    """Draw the images with their predictions and true labels, as PNG; None if no image could be read."""
    from search.tracking.figures.figures import prediction_grid

    index = {name: number for number, name in enumerate(classes)}
    rows = [row for row in predictions if row.pixels is not None]
    if not rows:
        return None
    images = (np.stack([row.pixels for row in rows if row.pixels is not None]) * 255).round().astype(np.uint8)
    titles = [(index[row.label], None if row.truth is None else index[row.truth], row.probability) for row in rows]
    return prediction_grid(images, titles, classes)


def _read(name: str, predictor: Predictor, data_dir: Path | None) -> list[Prediction]:
    """Read the images of one name."""
    if (images := _dataset_images(name)) is not None:
        return _read_dataset(name, *images, predictor, data_dir)
    framing = predictor.framing
    try:
        pixels, notes = to_model_input(read_image(Path(name), value_range=framing.value_range), framing)
    except PictureError as error:
        return [Prediction(name, error=_why_unreadable(name, error))]
    if NOTHING_FOUND in notes:
        return [Prediction(name, error=f"{name}: {NOTHING_FOUND}; is it blank?")]
    return [Prediction(name, pixels, tuple(notes))]


def _why_unreadable(name: str, error: PictureError) -> str:
    if name in BUILT_IN or (has_path(name) and not Path(name).exists()):
        return f"{name} is a dataset; its test images have numbers: type {name}:0 or {name}:0-9"
    return str(error)


def _dataset_images(name: str) -> tuple[str, int, int] | None:
    """Parse `mnist:7` or `mnist:0-24` into dataset, first and last index; None for the name of a file."""
    match = re.fullmatch(r"(.+):(\d+)(?:-(\d+))?", name, re.DOTALL)
    if match is None or Path(name).exists() or not (match[1] in BUILT_IN or has_path(match[1])):
        return None
    return match[1], int(match[2]), int(match[3] or match[2])


def _read_dataset(
    name: str, dataset: str, first: int, last: int, predictor: Predictor, data_dir: Path | None
) -> list[Prediction]:
    if not is_same_dataset(dataset, own := predictor.metadata["dataset"]):
        error = f"{name}: this model knows {own}; type {own}:0, or name another model with --model"
        return [Prediction(name, error=error)]
    try:
        digest, image_size = (predictor.metadata.get(name) for name in ("dataset_digest", "image_size"))
        (images, labels), is_changed = load_test_split_of(own, data_dir, digest, image_size)
    except DatasetError as error:
        return [Prediction(name, error=str(error))]
    if last < first:
        return [Prediction(name, error=f"{name} ends before it begins; type {dataset}:{last}-{first}")]
    if last >= len(labels):
        example = f"type for example {dataset}:0-{min(24, len(labels) - 1)}"
        return [Prediction(name, error=f"{dataset} has test images 0 to {len(labels) - 1}; {example}")]
    pixels = (images[first : last + 1] / 255).astype(np.float32)
    truths = [predictor.classes[label] for label in labels[first : last + 1].tolist()]
    notes = (STORED_SPLIT,) if is_changed else ()
    rows = enumerate(zip(pixels, truths, strict=True), start=first)
    return [Prediction(f"{dataset}:{index}", image, notes, truth) for index, (image, truth) in rows]
