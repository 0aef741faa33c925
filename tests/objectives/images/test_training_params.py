"""The length of a training follows the images and the device."""

from __future__ import annotations

import pytest
from test_baselines import images

from objectives.images.objective import LARGE_FROM_IMAGES, ImageClassification
from objectives.images.training_params import choose_epochs


@pytest.mark.parametrize(
    ("data", "n", "side", "channels", "device", "epochs"),
    [
        ("digits", 1_150, 8, 1, "cpu", 8),
        ("a small folder", 1_000, 64, 3, "cpu", 12),
        ("MNIST", 50_000, 28, 1, "cpu", 2),
        ("MNIST with fewer validation images", 55_000, 28, 1, "cpu", 2),
        ("CIFAR-10", 40_000, 32, 3, "cpu", 6),
        ("photos", 8_000, 64, 3, "cpu", 8),
        ("large photos, which are shrunk first", 8_000, 224, 3, "cpu", 8),
        ("grey photos", 15_000, 64, 1, "cpu", 4),
        ("all of EMNIST", 560_000, 28, 1, "cpu", 1),
        ("MNIST", 50_000, 28, 1, "cuda:0", 16),
        ("many photos", 50_000, 64, 3, "cuda:0", 16),
    ],
)
def test_larger_data_and_larger_images_get_fewer_epochs(
    data: str, n: int, side: int, channels: int, device: str, epochs: int
):
    assert choose_epochs(n, (channels, side, side), device, is_large=n >= LARGE_FROM_IMAGES) == epochs


@pytest.mark.parametrize(
    ("side", "epochs", "refit"), [(28, 1, 12), (28, 2, 24), (32, 6, 24), (32, 16, 32), (64, 30, 60), (8, 8, 32)]
)
def test_the_refit_has_two_to_twelve_times_as_many(side: int, epochs: int, refit: int):
    assert images("folder:x", 1, (side, side), (9, 9)).refit_epochs(epochs) == refit


def test_an_objective_counts_its_own_training_images():
    assert images("folder:x", 1, (28, 28), (2 * LARGE_FROM_IMAGES, 60_000)).epochs("cpu") == 2
    assert ImageClassification("digits").epochs("cpu") == 8


@pytest.mark.parametrize(("channels", "n", "steps"), [(1, 30_000, 4), (3, 30_000, 2), (1, 300, 1), (3, 300, 1)])
def test_long_epochs_are_measured_in_parts(channels: int, n: int, steps: int):
    assert images("folder:x", channels, (32, 32), (n, n)).steps_per_epoch() == steps
