"""PNG images of one trial: its confusion matrix, a sample of its predictions, its most confident mistakes.

Images are uint8 (n, c, h, w); labels are class indices; colours suit the white page of the MLflow UI.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from search.tracking.figures.canvas import INK, SOFT, Canvas, typeface

HIT, MISS, EMPTY = (36, 89, 199), (194, 65, 45), (246, 247, 249)
WRONG = "#c2412d"
"""Frame and label of a wrong prediction; the colour of `MISS`."""

CELL_PX = 84
"""Side of one image in a grid."""

TOP_PX = 44
"""Height of the headline above a confusion matrix."""

Prediction = tuple[int, int | None, float]
"""Predicted class, true class if known, probability of the predicted class."""


def of_trial(predictions: bytes, classes: Sequence[str]) -> dict[str, bytes]:
    """Draw all images of a trial, by file name.

    `predictions` is what `predictions.pack` returns. There is no `confidently_wrong.png` without a mistake.
    """
    with np.load(io.BytesIO(predictions), allow_pickle=False) as arrays:
        labels, predicted = arrays["labels"], arrays["predicted"]
        images = {
            "confusion_matrix.png": confusion_matrix(labels, predicted, classes),
            "sample_predictions.png": _grid(arrays, "sample", classes, "A fixed sample of the validation images"),
        }
        if shown := len(arrays["wrong_images"]):
            n_wrong = int((labels != predicted).sum())
            title = f"{n_wrong:,} of {len(labels):,} wrong"
            title += f"; the {shown} most confident" if n_wrong > shown else ""
            images["confidently_wrong.png"] = _grid(arrays, "wrong", classes, title)
    return images


def _grid(arrays: Mapping[str, NDArray[Any]], name: str, classes: Sequence[str], title: str) -> bytes:
    predictions = list(zip(*arrays[name].tolist(), arrays[f"{name}_sure"].tolist(), strict=True))
    return prediction_grid(arrays[f"{name}_images"], predictions, classes, title=title)


# Confusion matrix -------------------------------------------------------------------------------------------------


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, classes: Sequence[str]) -> bytes:
    """Draw counts of true (rows) against predicted (columns) classes; colour is the share of the row.

    `labels` and `predicted`: (n,) class indices. Hits are blue and misses red, on a square-root scale: a handful of
    misses among thousands still shows. Raises ValueError if the lengths differ or an index names no class.
    """
    k = len(classes)
    counts = _counts(np.asarray(labels), np.asarray(predicted), k)
    cell = max(16, min(56, 560 // k))
    font = max(8, min(13, cell - 5))
    names = [_short(name, 14) for name in classes]
    longest = max(int(typeface(font, bold=False).getlength(name)) for name in names)
    gutter = 34 + longest
    upward = longest > cell - 4
    below = gutter if upward else 34 + font
    canvas = Canvas(max(gutter + cell * k + 16, 320), TOP_PX + cell * k + below)
    canvas.text(gutter, 22, _headline(counts), 15, bold=True)
    _draw_cells(canvas, counts, gutter, cell, font)
    _draw_axes(canvas, names, gutter, cell, font, upward=upward)
    return canvas.png()


def _counts(labels: NDArray[Any], predicted: NDArray[Any], k: int) -> NDArray[np.int64]:
    if labels.shape != predicted.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and predicted {predicted.shape} must both be (n,)")
    both = np.concatenate([labels, predicted])
    if both.size and not (both.min() >= 0 and both.max() < k):
        raise ValueError(f"class indices {both.min()}..{both.max()} given, but there are {k} classes: 0..{k - 1}")
    pairs = labels.astype(np.int64) * k + predicted.astype(np.int64)
    return np.bincount(pairs, minlength=k * k).reshape(k, k)


def _headline(counts: NDArray[np.int64]) -> str:
    hits, n = int(np.trace(counts)), int(counts.sum())
    if not n:
        return "no images"
    share = hits / n if hits == n else min(hits / n, 0.9999)  # 100% only if all are right
    return f"{hits:,} of {n:,} right ({share:.2%})"


def _draw_axes(canvas: Canvas, names: Sequence[str], left: int, cell: int, font: int, *, upward: bool) -> None:
    bottom = TOP_PX + cell * len(names)
    for index, name in enumerate(names):
        middle = index * cell + cell // 2
        canvas.text(left - 6, TOP_PX + middle, name, font, SOFT, "rm")
        if upward:
            canvas.upward_text(left + middle, bottom + 6, name, font, SOFT, below=True)
        else:
            canvas.text(left + middle, bottom + 6, name, font, SOFT, "mt")
    canvas.text(left + cell * len(names) / 2, canvas.height - 10, "predicted", 12, INK, "mm")
    canvas.upward_text(12, TOP_PX + cell * len(names) / 2, "true", 12)


def _draw_cells(canvas: Canvas, counts: NDArray[np.int64], left: int, cell: int, font: int) -> None:
    """Draw coloured cells with a white gap between them, and a count where one fits."""
    shares = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    # The root of one miss in a thousand is 0.03: start at a tint that shows.
    tints = np.where(shares > 0, 0.14 + 0.86 * shares, 0.0)
    hues = np.where(np.eye(len(counts), dtype=bool)[..., None], HIT, MISS)
    colours = ((1 - tints[..., None]) * np.array(EMPTY) + tints[..., None] * hues).astype(int)
    canvas.paste(_tiles(colours, cell), left, TOP_PX)
    for row, column in np.argwhere(counts > 0).tolist():
        text = f"{counts[row, column]}"
        size = min(font, int(cell / (0.7 * len(text))))
        if size >= 7:
            colour = "white" if tints[row, column] > 0.5 else INK
            canvas.text(left + (column + 0.5) * cell, TOP_PX + (row + 0.5) * cell, text, size, colour, "mm")


def _tiles(colours: NDArray[np.int64], cell: int) -> NDArray[np.uint8]:
    """Enlarge (k, k, 3) colours to squares of `cell` pixels with a white line between them."""
    tiles = colours.astype(np.uint8).repeat(cell, axis=0).repeat(cell, axis=1)
    tiles[cell - 1 :: cell] = 255
    tiles[:, cell - 1 :: cell] = 255
    return tiles


# Prediction grids -------------------------------------------------------------------------------------------------


def prediction_grid(
    images: ArrayLike, predictions: Sequence[Prediction], classes: Sequence[str], *, title: str = ""
) -> bytes:
    """Draw images with their predicted and, if known, true class; wrong predictions are framed in red.

    images: uint8 (n, c, h, w) with c = 1 or 3; one prediction per image. Raises ValueError on another shape or count.
    """
    pixels = _rgb(images)
    if len(pixels) != len(predictions):
        raise ValueError(f"{len(pixels)} images but {len(predictions)} predictions; give one prediction per image")
    columns = min(max(1, math.ceil(math.sqrt(len(pixels)))), 8)
    rows = max(1, math.ceil(len(pixels) / columns))
    step_x, step_y, top = CELL_PX + 14, CELL_PX + 42, 42 if title else 12
    title_px = 28 + int(typeface(14, bold=True).getlength(title)) if title else 0
    canvas = Canvas(max(columns * step_x + 14, title_px), rows * step_y + top)
    canvas.text(14, 20, title, 14, bold=True)
    for index, (image, prediction) in enumerate(zip(pixels, predictions, strict=True)):
        x, y = 14 + index % columns * step_x, top + index // columns * step_y
        _draw_prediction(canvas, _fit(image), prediction, classes, x, y)
    return canvas.png()


def _draw_prediction(
    canvas: Canvas, image: NDArray[np.uint8], prediction: Prediction, classes: Sequence[str], x: int, y: int
) -> None:
    predicted, truth, probability = prediction
    wrong = truth is not None and truth != predicted
    height, width = image.shape[:2]
    left, top = x + (CELL_PX - width) // 2, y + (CELL_PX - height) // 2
    if wrong:
        canvas.box(left - 2, top - 2, width + 4, height + 4, WRONG)
    canvas.paste(image, left, top)
    share = ">99%" if 0.99 < probability < 1 else f"{probability:.0%}"
    canvas.text(x, y + CELL_PX + 11, _short(classes[predicted], 8), 11, WRONG if wrong else INK, bold=True)
    canvas.text(x + CELL_PX, y + CELL_PX + 11, share, 10, SOFT, "rm")
    if truth is not None:
        canvas.text(x, y + CELL_PX + 26, f"true {_short(classes[truth], 9)}", 10, INK if wrong else SOFT)


def _rgb(images: ArrayLike) -> NDArray[np.uint8]:
    """Convert uint8 (n, c, h, w) to (n, h, w, 3)."""
    pixels = np.asarray(images)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or pixels.dtype != np.uint8:
        raise ValueError(f"images are {pixels.dtype} {pixels.shape}; give uint8 (n, c, h, w) with c = 1 or 3")
    pixels = pixels.transpose(0, 2, 3, 1)
    return np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels


def _fit(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale (h, w, 3) into a cell: hard pixels when it grows, averages when it shrinks."""
    height, width = image.shape[:2]
    scale = CELL_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, method))


def _short(text: str, limit: int) -> str:
    text = " ".join(text.split())  # a class may be named after a folder, whose name may hold a newline
    return text if len(text) <= limit else text[: limit - 1] + "…"
