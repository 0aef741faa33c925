"""Folders of pictures, with splits of their own or without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from objectives.data.datasets import Dataset, load_dataset

PETS = {"cat": 10, "dog": 10}


def make_folder(root: Path, classes: dict[str, int], size: tuple[int, int] = (30, 30), mode: str = "RGB") -> Path:
    random = np.random.RandomState(1)
    for name, number in classes.items():
        (root / name).mkdir(parents=True)
        for at in range(number):
            pixels = random.randint(0, 256, (*size[::-1], 3)).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{at}.png")
    return root


def make_splits(root: Path, splits: dict[str, dict[str, int]]) -> Path:
    """Folders of splits, whose images all have a grey of their own."""
    level = 0
    for split, classes in splits.items():
        for name, number in classes.items():
            (root / split / name).mkdir(parents=True)
            for at in range(number):
                level += 1
                Image.new("L", (16, 16), level).save(root / split / name / f"{at}.png")
    return root


def loaded(root: Path, **settings: int) -> Dataset:
    return load_dataset(f"folder:{root}", root.parent / "data", **settings)


def levels(root: Path, split: str) -> set[int]:
    """The greys of the files of a split."""
    return {int(np.asarray(Image.open(path)).max()) for path in (root / split).rglob("*.png")}


def greys(images: np.ndarray) -> set[int]:
    return set(images[:, 0, 0, 0].tolist())
