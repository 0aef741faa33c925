"""PNG images of one trial: its confusion matrix, a sample of its predictions, its most confident mistakes."""

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from search.tracking.figures.canvas import BLACK, GREY, Canvas, load_font

BLUE_RGB, RED_RGB, EMPTY_RGB = (36, 89, 199), (194, 65, 45), (246, 247, 249)
RED = "#c2412d"

CELL_PX = 84  # side of one image in a grid
TOP_PX = 44  # height of the headline above a confusion matrix

Caption = tuple[int, int | None, float]  # predicted class, true class if known, probability of the predicted class


def draw_trial(packed: bytes, classes: Sequence[str]) -> dict[str, bytes]:
    """Draw the images of a trial, by file name, from what `predictions.pack` returns."""
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        labels, predicted = arrays["labels"], arrays["predicted"]
        images = {
            "confusion_matrix.png": confusion_matrix(labels, predicted, classes),
            "sample_predictions.png": _grid(arrays, "sample", classes, "A fixed sample of the validation images"),
        }
        if n_shown := len(arrays["wrong_images"]):
            n_wrong = int((labels != predicted).sum())
            title = f"{n_wrong:,} of {len(labels):,} wrong"
            title += f"; the {n_shown} most confident" if n_wrong > n_shown else ""
            images["confidently_wrong.png"] = _grid(arrays, "wrong", classes, title)
    return images


def _grid(arrays: Mapping[str, NDArray[Any]], name: str, classes: Sequence[str], title: str) -> bytes:
    captions = list(zip(*arrays[name].tolist(), arrays[f"{name}_sure"].tolist(), strict=True))
    return prediction_grid(arrays[f"{name}_images"], captions, classes, title=title)


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, classes: Sequence[str]) -> bytes:
    """Draw counts of true (rows) against predicted (columns) classes, both (n,); colour is the share of the row.

    Correct counts are blue and wrong ones red, on a square-root scale: a few mistakes among thousands still show.
    Raises IndexError if an index has no class.
    """
    k = len(classes)
    counts = np.zeros((k, k), dtype=np.int64)
    np.add.at(counts, (np.asarray(labels, dtype=int), np.asarray(predicted, dtype=int)), 1)
    cell = max(16, min(56, 560 // k))
    font = max(8, min(13, cell - 5))
    names = _shortened(classes, 14)
    longest = max(int(load_font(font).getlength(name)) for name in names)
    left = 34 + longest
    vertical = longest > cell - 4
    canvas = Canvas(max(left + cell * k + 16, 320), TOP_PX + cell * k + (left if vertical else 34 + font))
    canvas.text(left, 22, _headline(counts), 15, bold=True)
    _draw_cells(canvas, counts, left, cell, font)
    _draw_axes(canvas, names, left, cell, font, vertical=vertical)
    return canvas.png()


def _headline(counts: NDArray[np.int64]) -> str:
    n_correct, n = int(np.trace(counts)), int(counts.sum())
    if not n:
        return "no images"
    share = 1.0 if n_correct == n else min(n_correct / n, 0.9999)  # 100% only if all are correct
    return f"{n_correct:,} of {n:,} correct ({share:.2%})"


def _draw_axes(canvas: Canvas, names: Sequence[str], left: int, cell: int, font: int, *, vertical: bool) -> None:
    side = cell * len(names)
    for index, name in enumerate(names):
        middle = index * cell + cell // 2
        canvas.text(left - 6, TOP_PX + middle, name, font, GREY, "rm")
        if vertical:
            canvas.vertical_text(left + middle, TOP_PX + side + 6, name, font, GREY, below=True)
        else:
            canvas.text(left + middle, TOP_PX + side + 6, name, font, GREY, "mt")
    canvas.text(left + side / 2, canvas.height - 10, "predicted", 12, BLACK, "mm")
    canvas.vertical_text(12, TOP_PX + side / 2, "true", 12)


def _draw_cells(canvas: Canvas, counts: NDArray[np.int64], left: int, cell: int, font: int) -> None:
    """Draw coloured cells with a white line between them, and a count where one fits."""
    shares = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    # The root of one mistake in a thousand is 0.03: start at a tint that shows.
    tints = np.where(shares > 0, 0.14 + 0.86 * shares, 0.0)
    hues = np.where(np.eye(len(counts), dtype=bool)[..., None], BLUE_RGB, RED_RGB)
    colours = (1 - tints[..., None]) * np.array(EMPTY_RGB) + tints[..., None] * hues
    pixels = colours.astype(np.uint8).repeat(cell, axis=0).repeat(cell, axis=1)
    pixels[cell - 1 :: cell] = pixels[:, cell - 1 :: cell] = 255
    canvas.paste(pixels, left, TOP_PX)
    for row, column in np.argwhere(counts > 0).tolist():
        text = f"{counts[row, column]}"
        size = min(font, int(cell / (0.7 * len(text))))
        if size >= 7:
            colour = "white" if tints[row, column] > 0.5 else BLACK
            canvas.text(left + (column + 0.5) * cell, TOP_PX + (row + 0.5) * cell, text, size, colour, "mm")


def prediction_grid(
    images: ArrayLike, captions: Sequence[Caption], classes: Sequence[str], *, title: str = ""
) -> bytes:
    """Draw images with their predicted and, if known, true class; wrong predictions are framed in red.

    images: uint8 (n, c, h, w) with c = 1 or 3; one caption per image. Raises ValueError on another shape or count.
    """
    pixels = _rgb(images)
    if len(pixels) != len(captions):
        raise ValueError(f"{len(pixels)} images but {len(captions)} captions; give one caption per image")
    columns = min(max(1, math.ceil(math.sqrt(len(pixels)))), 8)
    rows = max(1, math.ceil(len(pixels) / columns))
    step_x, step_y, top = CELL_PX + 14, CELL_PX + 42, 42 if title else 12
    names = _shortened(classes, 8)
    title_px = 28 + int(load_font(14, bold=True).getlength(title)) if title else 0
    canvas = Canvas(max(columns * step_x + 14, title_px), rows * step_y + top)
    canvas.text(14, 20, title, 14, bold=True)
    for index, (image, caption) in enumerate(zip(pixels, captions, strict=True)):
        x, y = 14 + index % columns * step_x, top + index // columns * step_y
        wrong = caption[1] not in (None, caption[0])
        _draw_image(canvas, image, x, y, framed=wrong)
        _draw_caption(canvas, caption, names, x, y + CELL_PX, wrong=wrong)
    return canvas.png()


def _draw_image(canvas: Canvas, pixels: NDArray[np.uint8], x: int, y: int, *, framed: bool) -> None:
    """Fit (h, w, 3) into a cell: hard pixels when it grows, averages when it shrinks."""
    scale = CELL_PX / max(pixels.shape[:2])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), method)
    left, top = x + (CELL_PX - width) // 2, y + (CELL_PX - height) // 2
    if framed:
        canvas.box(left - 2, top - 2, width + 4, height + 4, RED)
    canvas.paste(np.asarray(resized), left, top)


def _draw_caption(canvas: Canvas, caption: Caption, names: Sequence[str], x: int, y: int, *, wrong: bool) -> None:
    predicted, truth, probability = caption
    share = ">99%" if 0.99 < probability < 1 else f"{probability:.0%}"
    canvas.text(x, y + 11, names[predicted], 11, RED if wrong else BLACK, bold=True)
    canvas.text(x + CELL_PX, y + 11, share, 9, GREY, "rm")
    if truth is not None:
        canvas.text(x, y + 26, f"true {names[truth]}", 10, BLACK if wrong else GREY)


def _rgb(images: ArrayLike) -> NDArray[np.uint8]:
    """Convert uint8 (n, c, h, w) to (n, h, w, 3)."""
    pixels = np.asarray(images)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or pixels.dtype != np.uint8:
        raise ValueError(f"images are {pixels.dtype} {pixels.shape}; give uint8 (n, c, h, w) with c = 1 or 3")
    return np.broadcast_to(pixels.transpose(0, 2, 3, 1), (len(pixels), *pixels.shape[2:], 3))


def _shortened(classes: Sequence[str], limit: int) -> list[str]:
    """Cut long names at their ends, or in their middles where their beginnings are alike."""
    names = [" ".join(name.split()) for name in classes]  # a class may be named after a folder with a newline
    cut = [_cut(name, limit) for name in names]
    alike = {name for name, count in Counter(cut).items() if count > 1}
    return [
        _cut(name, limit, tail=limit // 2) if short in alike else short for name, short in zip(names, cut, strict=True)
    ]


def _cut(name: str, limit: int, tail: int = 0) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1 - tail]}…{name[len(name) - tail :]}"
