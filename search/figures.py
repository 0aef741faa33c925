"""PNG pictures of one trial: its curves, its confusion matrix, its predictions.

Images are uint8 (n, c, h, w); labels are class indices; colours suit the white page of the MLflow UI.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from search.canvas import INK, RULE, SOFT, Page, typeface

TRAIN, VAL, WRONG = "#9aa3b2", "#2459c7", "#c2412d"
CELL_PX = 84
"""Side of one picture in a grid."""

Prediction = tuple[int, int | None, float]
"""Predicted class, true class when it is known, probability of the predicted class."""


def of_trial(
    points: Mapping[str, Sequence[tuple[float, float]]], predictions: bytes, classes: Sequence[str]
) -> dict[str, bytes]:
    """Draw all pictures of a trial, by file name.

    `points`: as for `curves`. `predictions`: as `predictions.pack` gives them. Without a mistake there is no picture
    of mistakes.
    """
    pictures = {"curves.png": curves({name: line for name, line in points.items() if line})}
    with np.load(io.BytesIO(predictions), allow_pickle=False) as drawn:
        labels, predicted = drawn["labels"], drawn["predicted"]
        pictures["confusion_matrix.png"] = confusion_matrix(labels, predicted, classes)
        pictures["sample_predictions.png"] = _grid(drawn, "sample", classes, "A fixed sample of the validation images")
        if shown := len(drawn["wrong_images"]):
            n_wrong = int((labels != predicted).sum())
            title = f"{n_wrong:,} of {len(labels):,} wrong" + (f"; the {shown} surest" if n_wrong > shown else "")
            pictures["confidently_wrong.png"] = _grid(drawn, "wrong", classes, title)
    return pictures


def _grid(drawn: Mapping[str, NDArray[Any]], name: str, classes: Sequence[str], title: str) -> bytes:
    found = list(zip(*drawn[name].tolist(), drawn[f"{name}_sure"].tolist(), strict=True))
    return prediction_grid(drawn[f"{name}_images"], found, classes, title=title)


def curves(points: Mapping[str, Sequence[tuple[float, float]]]) -> bytes:
    """Draw loss and accuracy over epochs, training beside validation.

    `points` maps names such as `train/loss` and `val/accuracy` to (epoch, value) pairs; other names are ignored and
    values that are not finite are left out. One point is drawn as a dot.
    """
    page = Page(820, 300)
    for column, quantity in enumerate(("loss", "accuracy")):
        lines = {split: _finite(points.get(f"{split}/{quantity}", ())) for split in ("train", "val")}
        _panel(page, quantity, lines, left=52 + 410 * column, top=52, width=255, height=200)
    return page.png()


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, classes: Sequence[str]) -> bytes:
    """Draw counts of true (rows) against predicted (columns) classes; colour is the share of the row.

    `labels` and `predicted`: (n,) class indices. Hits are blue and misses red, on a square-root scale, so that a
    handful of misses among thousands still shows. Raises ValueError when the lengths differ or an index names no class.
    """
    k = len(classes)
    counts = _counts(np.asarray(labels), np.asarray(predicted), k)
    cell = max(16, min(56, 560 // k))
    font = max(8, min(13, cell - 5))
    names = [_short(name, 14) for name in classes]
    gutter = 34 + max(int(typeface(font, bold=False).getlength(name)) for name in names)
    turned = max(int(typeface(font, bold=False).getlength(name)) for name in names) > cell - 4
    under = gutter if turned else 34 + font
    page = Page(max(gutter + cell * k + 16, 320), 44 + cell * k + under)
    hits, n = int(np.trace(counts)), int(counts.sum())
    headline = f"{hits:,} of {n:,} right ({_percent(hits / n)})" if n else "no images"
    page.text(gutter, 22, headline, 15, bold=True)
    _matrix(page, counts, gutter, 44, cell, font)
    for index, name in enumerate(names):
        middle = index * cell + cell // 2
        page.text(gutter - 6, 44 + middle, name, font, SOFT, "rm")
        page.text(gutter + middle, 44 + cell * k + 6, name, font, SOFT, "mt", turned=turned)
    page.text(gutter + cell * k / 2, page.height - 10, "predicted", 12, INK, "mm")
    page.text(12, 44 + cell * k / 2, "true", 12, INK, "mm", turned=True)
    return page.png()


def prediction_grid(
    images: ArrayLike, predictions: Sequence[Prediction], classes: Sequence[str], *, title: str = ""
) -> bytes:
    """Draw pictures with what was predicted; with the true class under it where it is known and wrong ones in red.

    images: uint8 (n, c, h, w) with c = 1 or 3; one prediction per image. Raises ValueError on another shape or count.
    """
    pixels = _pictures(images)
    if len(pixels) != len(predictions):
        raise ValueError(f"{len(pixels)} images but {len(predictions)} predictions; give one prediction per image")
    columns = min(max(1, math.ceil(math.sqrt(len(pixels)))), 8)
    rows = max(1, math.ceil(len(pixels) / columns))
    step_x, step_y, top = CELL_PX + 14, CELL_PX + 42, 42 if title else 12
    needed = 28 + int(typeface(14, bold=True).getlength(title))
    page = Page(max(columns * step_x + 14, needed if title else 0), rows * step_y + top)
    page.text(14, 20, title, 14, bold=True)
    for index, (picture, prediction) in enumerate(zip(pixels, predictions, strict=True)):
        x, y = 14 + index % columns * step_x, top + index // columns * step_y
        _cell(page, _fit(picture), prediction, classes, x, y)
    return page.png()


# Words ------------------------------------------------------------------------------------------------------------


def _short(text: str, limit: int) -> str:
    text = " ".join(text.split())  # a folder's name, which is a class's, may hold a newline
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _percent(share: float) -> str:
    """A share in percent that says 100% only for all of them."""
    return f"{share:.2%}" if share == 1 or share < 0.9999 else "99.99%"


# Curves -----------------------------------------------------------------------------------------------------------


def _finite(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    return sorted((x, y) for x, y in points if math.isfinite(x) and math.isfinite(y))


def _panel(
    page: Page, quantity: str, lines: Mapping[str, list[tuple[float, float]]], *,
    left: int, top: int, width: int, height: int,
) -> None:  # fmt: skip
    page.text(left, 24, quantity.capitalize(), 16, bold=True)
    everything = [point for line in lines.values() for point in line]
    if not everything:
        page.text(left, top + height / 2, "nothing recorded", 12, SOFT)
        return
    values = [y for _, y in everything]
    log = quantity == "loss" and min(values) > 0 and max(values) / min(values) > 30
    low, high, ticks = _scale(values, log=log)
    warp = math.log10 if log else float
    first, last = min(x for x, _ in everything), max(x for x, _ in everything)

    def x_px(epoch: float) -> float:
        return left + width * ((epoch - first) / (last - first) if last > first else 0.5)

    def y_px(value: float) -> float:
        return top + height * (1 - (warp(value) - warp(low)) / (warp(high) - warp(low)))

    show = _accuracy_tick if quantity == "accuracy" else "{:.4g}".format
    for tick in ticks:
        page.line((left, left + width), (y_px(tick), y_px(tick)), RULE, linewidth=0.7)
        page.text(left - 7, y_px(tick), show(tick), 11, SOFT, "rm")
    for epoch in _epoch_ticks(first, last):
        page.text(x_px(epoch), top + height + 10, f"{epoch:g}", 11, SOFT, "mt")
    page.text(left + width / 2, top + height + 36, "epoch", 11, SOFT, "mm")
    for split, colour in (("train", TRAIN), ("val", VAL)):
        if lines[split]:
            x, y = [x_px(point[0]) for point in lines[split]], [y_px(point[1]) for point in lines[split]]
            page.line(x, y, colour, linewidth=1.5)
            page.line(x[-1:], y[-1:], colour, marker="o", markersize=4.5)
    _end_labels(page, quantity, {split: (line[-1][1], y_px(line[-1][1])) for split, line in lines.items() if line},
                left + width + 12)  # fmt: skip


def _scale(values: Sequence[float], *, log: bool) -> tuple[float, float, list[float]]:
    """Lowest and highest value shown, and the ticks between them."""
    low, high = min(values), max(values)
    if low == high:
        spare = abs(low) * 0.05 or 0.05
        low, high = low - spare, high + spare
    elif not log:
        low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
    locator = LogLocator() if log else MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
    return low, high, [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high]


def _epoch_ticks(first: float, last: float) -> list[float]:
    if first == last:
        return [first]
    return [float(tick) for tick in MaxNLocator(6, integer=True).tick_values(first, last) if first <= tick <= last]


def _accuracy_tick(value: float) -> str:
    return f"{100 * value:.4g}%"


def _end_labels(page: Page, quantity: str, ends: Mapping[str, tuple[float, float]], x: float) -> None:
    """Name each line at its end, pushed apart where the ends meet."""
    order = sorted(ends, key=lambda split: ends[split][1])
    at = [ends[split][1] for split in order]
    if len(at) == 2 and at[1] - at[0] < 17:
        middle = (at[0] + at[1]) / 2
        at = [middle - 8.5, middle + 8.5]
    for split, y in zip(order, at, strict=True):
        value = ends[split][0]
        text = f"{split} {value:.2%}" if quantity == "accuracy" else f"{split} {value:.4g}"
        page.text(x, y, text, 12, VAL if split == "val" else SOFT, bold=split == "val")


# Confusion matrix -------------------------------------------------------------------------------------------------


def _counts(labels: NDArray[Any], predicted: NDArray[Any], k: int) -> NDArray[np.int64]:
    if labels.shape != predicted.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and predicted {predicted.shape} must both be (n,)")
    both = np.concatenate([labels, predicted])
    if both.size and not (both.min() >= 0 and both.max() < k):
        raise ValueError(f"class indices {both.min()}..{both.max()} given, but there are {k} classes: 0..{k - 1}")
    pairs = labels.astype(np.int64) * k + predicted.astype(np.int64)
    return np.bincount(pairs, minlength=k * k).reshape(k, k)


def _matrix(page: Page, counts: NDArray[np.int64], left: int, top: int, cell: int, font: int) -> None:
    """Coloured cells with a white gap between them; a count where one fits."""
    shares = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    # one miss in a thousand has a share of 0.03 after the root: start at a tint that can be seen
    tints = np.where(shares > 0, 0.14 + 0.86 * shares, 0.0)
    empty, hit, miss = np.array([246, 247, 249]), np.array([36, 89, 199]), np.array([194, 65, 45])
    hues = np.where(np.eye(len(counts), dtype=bool)[..., None], hit, miss)
    colours = ((1 - tints[..., None]) * empty + tints[..., None] * hues).astype(int)
    page.paste(_tiles(colours, cell), left, top)
    for row, column in np.argwhere(counts > 0).tolist():
        text = f"{counts[row, column]}"
        size = min(font, int(cell / (0.7 * len(text))))
        if size >= 7:
            colour = "white" if tints[row, column] > 0.5 else INK
            page.text(left + (column + 0.5) * cell, top + (row + 0.5) * cell, text, size, colour, "mm")


def _tiles(colours: NDArray[np.int64], cell: int) -> NDArray[np.uint8]:
    """(k, k, 3) colours as squares of `cell` pixels with a white line between them."""
    tiles = colours.astype(np.uint8).repeat(cell, axis=0).repeat(cell, axis=1)
    tiles[cell - 1 :: cell] = 255
    tiles[:, cell - 1 :: cell] = 255
    return tiles


# Grids ------------------------------------------------------------------------------------------------------------


def _pictures(images: ArrayLike) -> NDArray[np.uint8]:
    """uint8 (n, c, h, w) -> (n, h, w, 3)."""
    pixels = np.asarray(images)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or pixels.dtype != np.uint8:
        raise ValueError(f"images are {pixels.dtype} {pixels.shape}; give uint8 (n, c, h, w) with c = 1 or 3")
    pixels = pixels.transpose(0, 2, 3, 1)
    return np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels


def _fit(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale (h, w, 3) into a cell: hard pixels when it grows, averaged when it shrinks."""
    height, width = picture.shape[:2]
    scale = CELL_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize(size, method))


def _cell(
    page: Page, picture: NDArray[np.uint8], prediction: Prediction, classes: Sequence[str], x: int, y: int
) -> None:
    predicted, truth, probability = prediction
    wrong = truth is not None and truth != predicted
    height, width = picture.shape[:2]
    left, top = x + (CELL_PX - width) // 2, y + (CELL_PX - height) // 2
    if wrong:
        page.box(left - 2, top - 2, width + 4, height + 4, WRONG)
    page.paste(picture, left, top)
    page.text(x, y + CELL_PX + 11, _short(classes[predicted], 8), 11, WRONG if wrong else INK, bold=True)
    page.text(x + CELL_PX, y + CELL_PX + 11, _probability(probability), 10, SOFT, "rm")
    if truth is not None:
        page.text(x, y + CELL_PX + 26, f"true {_short(classes[truth], 9)}", 10, INK if wrong else SOFT)


def _probability(share: float) -> str:
    return ">99%" if 0.99 < share < 1 else f"{share:.0%}"
