"""Images of a trial: decodable, the right size, and showing what they were given."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from search.tracking.figures import figures
from search.tracking.figures.canvas import load_font
from search.tracking.figures.figures import _shortened

RED = (194, 65, 45)


def decoded(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def pixels_of(png: bytes, colour: tuple[int, int, int], tolerance: int = 12) -> int:
    return int((np.abs(decoded(png) - np.array(colour)).max(axis=2) <= tolerance).sum())


def images(n: int, channels: int = 1, size: int = 28) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 120, (n, channels, size, size)).astype(np.uint8)


@pytest.mark.parametrize("k", [2, 10, 60])
def test_confusion_matrix_marks_hits_and_misses(k):
    labels = np.arange(4 * k) % k
    right = figures.confusion_matrix(labels, labels, [f"class {i}" for i in range(k)])
    one_wrong = labels.copy()
    one_wrong[0] = 1
    wrong = figures.confusion_matrix(labels, one_wrong, [f"class {i}" for i in range(k)])
    assert max(decoded(right).shape) < 1_200
    assert max(len(right), len(wrong)) < 60_000
    reddish = [(image[..., 0] > image[..., 2] + 30).sum() for image in (decoded(right), decoded(wrong))]
    assert reddish[0] == 0
    assert reddish[1] > 50


def test_confusion_matrix_of_no_images():
    assert decoded(figures.confusion_matrix([], [], ["a", "b"])).size


def test_confusion_matrix_refuses_what_does_not_fit():
    with pytest.raises(IndexError, match="index 2 is out of bounds"):
        figures.confusion_matrix([0, 2], [0, 1], ["a", "b"])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n", [1, 7, 25])
def test_prediction_grid_frames_only_the_wrong_ones(channels, n):
    classes = ["$zero$", "one <b>", "a very long class name"]
    right = figures.prediction_grid(images(n, channels), [(i % 3, i % 3, 0.8) for i in range(n)], classes)
    unknown = figures.prediction_grid(images(n, channels), [(i % 3, None, 1.0) for i in range(n)], classes)
    wrong = figures.prediction_grid(images(n, channels), [(1, 2, 0.8)] * n, classes, title="Wrong ones")
    assert pixels_of(right, RED) == pixels_of(unknown, RED) == 0
    assert pixels_of(wrong, RED) > 300 * n


@pytest.mark.parametrize(
    ("classes", "shown"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        (["golden retriever", "dog\nhouse"], ["golden …", "dog hou…"]),
        (["species_number_1", "species_number_22", "cat"], ["spe…er_1", "spe…r_22", "cat"]),
    ],
)
def test_class_names_that_begin_alike_are_cut_in_the_middle(classes: list[str], shown: list[str]):
    assert _shortened(classes, 8) == shown


def test_prediction_grid_shrinks_large_images():
    png = figures.prediction_grid(images(4, 3, 224), [(0, 0, 0.5)] * 4, ["cat"])
    assert decoded(png).shape[1] < 300


def test_prediction_grid_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"give uint8 \(n, c, h, w\)"):
        figures.prediction_grid(images(2).astype(float), [(0, 0, 1.0)] * 2, ["a"])
    with pytest.raises(ValueError, match="2 images but 1 captions"):
        figures.prediction_grid(images(2), [(0, 0, 1.0)], ["a"])


@pytest.mark.parametrize("letter", "éłяλ")
def test_class_names_may_have_letters_beyond_ascii(letter: str):
    face = load_font(14)
    assert bytes(face.getmask(letter)) != bytes(face.getmask("\uffff")), "drawn as the box for an unknown letter"
