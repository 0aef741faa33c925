"""A white page that pictures are drawn on: lines, text, boxes, pixels; a PNG at the end.

Lines are drawn with matplotlib's object API on Agg and everything else in pixels with Pillow, never with pyplot: no
global figure list, no display, safe from any one thread. A matplotlib `Axes` with its ticks alone takes 50-100 ms on a
2.5 GHz Xeon core and a `Text` 0.6 ms, which is why there are none (measured, n = 5, matplotlib 3.11).
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

MAX_BYTES = 60_000
INK, SOFT, RULE = "#1b1e24", "#646b78", "#e3e5e9"


class Page:
    """A white picture measured in pixels from its top left corner."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._image = Image.new("RGB", (width, height), "white")
        self._draw = ImageDraw.Draw(self._image)
        self._lines: list[Line2D] = []
        self._texts: list[tuple[tuple[float, float], str, ImageFont.FreeTypeFont, str, str]] = []

    def line(self, x: Sequence[float], y: Sequence[float], colour: str, **style: Any) -> None:
        """Draw a line through points; `style` is matplotlib's."""
        flipped = [self.height - value for value in y]
        self._lines.append(Line2D(x, flipped, transform=None, color=colour, solid_capstyle="round", **style))

    def text(
        self, x: float, y: float, text: str, size: int, colour: str = INK, anchor: str = "lm", *,
        bold: bool = False, turned: bool = False,
    ) -> None:  # fmt: skip
        """Write text, above all lines; `anchor` is Pillow's, `turned` reads upwards."""
        face = typeface(size, bold=bold)
        if not turned:
            self._texts.append(((x, y), text, face, colour, anchor))
            return
        length = max(1, math.ceil(face.getlength(text)))
        strip = Image.new("RGB", (length, size + 4), "white")
        ImageDraw.Draw(strip).text((0, (size + 4) / 2), text, font=face, fill=colour, anchor="lm")
        corner = (round(x - (size + 4) / 2), round(y if anchor[1] == "t" else y - length / 2))
        self._image.paste(strip.transpose(Image.Transpose.ROTATE_90), corner)

    def box(self, x: int, y: int, width: int, height: int, colour: str | tuple[int, int, int]) -> None:
        """Fill a rectangle."""
        self._draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)

    def paste(self, pixels: NDArray[np.uint8], x: int, y: int) -> None:
        """Place a picture (h, w, 3)."""
        self._image.paste(Image.fromarray(pixels), (x, y))

    def png(self) -> bytes:
        """Encode; photographs are reduced to 128 colours to stay small."""
        if self._lines:
            self._image = Image.fromarray(_antialiased(self._image, self._lines))
            self._draw = ImageDraw.Draw(self._image)
        for at, text, face, colour, anchor in self._texts:
            self._draw.text(at, text, font=face, fill=colour, anchor=anchor)
        encoded = _encode(self._image)
        small = encoded if len(encoded) <= MAX_BYTES else _encode(self._image.quantize(128, method=2))
        return small if len(small) <= len(encoded) else encoded


@lru_cache(maxsize=32)
def typeface(size: int, *, bold: bool) -> ImageFont.FreeTypeFont:
    """The font of all pictures, `size` in px."""
    # matplotlib brings this font along, so pictures look alike on every machine
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def _antialiased(image: Image.Image, lines: Sequence[Line2D]) -> NDArray[np.uint8]:
    figure = Figure(figsize=(image.width / 100, image.height / 100), dpi=100, facecolor="white")
    canvas: Any = FigureCanvasAgg(figure)
    for line in lines:
        figure.add_artist(line)
    canvas.draw()
    drawn: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3]
    return np.where(drawn < np.asarray(image), drawn, np.asarray(image)).astype(np.uint8)


def _encode(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "png", compress_level=4)  # beside 7: 10 ms a trial less, 1% more bytes
    return buffer.getvalue()
