"""Pictures with more than 8 bits keep their levels: one range for the whole set, and for single files later."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from objectives.data.datasets import Dataset, framing, load_dataset, load_test_split
from objectives.data.files.image_files import Framing, read_image, to_model_input

pytestmark = pytest.mark.usefixtures("own_cache")


def deep(root: Path, low: float, high: float, dtype: str, suffix: str, n: int = 10) -> Path:
    """Two classes, one dark, one light, whose pictures fill low to high."""
    random = np.random.RandomState(1)
    for name, base in (("dark", 0.0), ("light", 0.5)):
        (root / name).mkdir(parents=True)
        for number in range(n):
            values = low + (high - low) * (base + random.rand(24, 24) / 2)
            Image.fromarray(values.astype(dtype)).save(root / name / f"{number}.{suffix}")
    return root


def loaded(root: Path, tmp_path: Path) -> Dataset:
    return load_dataset(f"folder:{root}", tmp_path / "data")


def levels(data: Dataset) -> int:
    return len(np.unique(data.images))


@pytest.mark.parametrize(
    ("low", "high", "dtype", "suffix"),
    [
        (0, 4095, "uint16", "png"),
        (0, 1300, "uint16", "tif"),
        (0, 65535, "uint16", "png"),
        (30_000, 31_000, "uint16", "png"),
        (0, 4095, "uint16", "jp2"),
        (-1000, 3000, "int32", "tif"),
        (0, 2e6, "int32", "tif"),
        (-3, 8, "float32", "tif"),
        (0, 1, "float32", "tif"),
    ],
)
def test_a_set_fills_the_levels_whatever_range_it_uses(
    tmp_path: Path, low: float, high: float, dtype: str, suffix: str
) -> None:
    data = loaded(deep(tmp_path / "set", low, high, dtype, suffix), tmp_path)
    assert levels(data) > 240
    means = [float(data.images[data.labels == label].mean()) for label in (0, 1)]
    assert means == pytest.approx([64, 191], abs=5)  # not each picture by itself
    assert data.value_range == pytest.approx((low, high), abs=(high - low) / 100)


def test_hot_pixels_do_not_count(tmp_path: Path) -> None:
    root = deep(tmp_path / "set", 0, 4095, "uint16", "png")
    for path in sorted(root.rglob("*.png"))[::3]:
        values = np.asarray(Image.open(path)).copy()
        values[5, 5] = 65535
        Image.fromarray(values).save(path)
    assert levels(loaded(root, tmp_path)) > 240


def test_values_that_are_not_finite_do_not_count(tmp_path: Path) -> None:
    root = deep(tmp_path / "set", 0, 1, "float32", "tif")
    for number, value in enumerate((np.nan, np.inf, -np.inf)):
        values = np.full((24, 24), value, np.float32)
        values[0, number:] = 0.5
        Image.fromarray(values).save(root / "dark" / f"{number}.tif")
    Image.fromarray(np.full((24, 24), np.nan, np.float32)).save(root / "dark" / "4.tif")
    assert levels(loaded(root, tmp_path)) > 240


def test_pictures_of_8_bits_beside_them_stay_as_they_are(tmp_path: Path) -> None:
    root = deep(tmp_path / "set", 0, 4095, "uint16", "png")
    for number in range(10):
        Image.new("L", (24, 24), 100).save(root / "dark" / f"flat {number}.png")
    data = loaded(root, tmp_path)
    assert (data.images.reshape(len(data.images), -1) == 100).all(axis=1).sum() == 8
    assert levels(data) > 240


def test_a_set_of_one_value_is_dark(tmp_path: Path) -> None:
    assert levels(loaded(deep(tmp_path / "set", 500, 500, "uint16", "png"), tmp_path)) == 1


def test_the_test_part_decides_nothing(tmp_path: Path) -> None:
    root, name = deep(tmp_path / "set", 0, 4095, "uint16", "png"), f"folder:{tmp_path / 'set'}"
    before = loaded(root, tmp_path)
    test = load_test_split(name, tmp_path / "data")[0]
    for path in root.rglob("*.png"):
        picture = read_image(path, value_range=before.value_range)
        if any(np.array_equal(np.asarray(picture), image[0]) for image in test):
            Image.fromarray(np.asarray(Image.open(path)) + np.uint16(9000)).save(path)
    after = loaded(root, tmp_path)
    assert (after.value_range, after.digest) == (before.value_range, before.digest)


def test_a_single_file_is_scaled_as_the_set_was(tmp_path: Path) -> None:
    root = deep(tmp_path / "set", 0, 4095, "uint16", "png")
    data = loaded(root, tmp_path)
    frame = Framing.of({**asdict(framing(data)), "size": [24, 24], "value_range": list(data.value_range or ())})
    assert frame == framing(data)

    def pixels(picture: NDArray[np.uint16]) -> NDArray[np.float32]:
        Image.fromarray(picture).save(tmp_path / "one.png")
        return to_model_input(read_image(tmp_path / "one.png", value_range=frame.value_range), frame)[0]

    known = pixels(np.asarray(Image.open(root / "light" / "3.png")))
    assert min(float(np.abs(known * 255 - image).max()) for image in data.images) < 0.01
    assert float(pixels(np.full((24, 24), 65535, np.uint16)).min()) == 1  # brighter than any of them
    assert float(pixels(np.full((24, 24), 2048, np.uint16)).mean()) == pytest.approx(0.5, abs=0.01)


def test_metadata_of_earlier_versions_has_no_range() -> None:
    stored = {"channels": 1, "size": [28, 28], "content_fraction": 0.7, "dark_background": True}
    assert Framing.of(stored) == Framing(1, (28, 28), 0.7, True, None)


def test_colours_of_16_bits_are_cut_and_it_is_said(tmp_path: Path) -> None:
    import struct
    import zlib

    def png(values: NDArray[np.uint16]) -> bytes:  # Pillow does not write colours of 16 bits
        height, width, _ = values.shape
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        chunks = (
            b"IHDR" + struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0),
            b"IDAT" + zlib.compress(rows),
            b"IEND",
        )
        framed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
        return b"\x89PNG\r\n\x1a\n" + b"".join(framed)

    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(6):
            values = np.random.RandomState(number).randint(0, 65536, (20, 20, 3)).astype(np.uint16)
            (tmp_path / "set" / name / f"{number}.png").write_bytes(png(values))
    data = loaded(tmp_path / "set", tmp_path)
    assert data.channels == 3
    assert "of 12 with colours of 16 bits, Pillow reads the upper 8 bits" in str(data.left_out)
