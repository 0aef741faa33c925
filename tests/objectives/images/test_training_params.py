"""The length of a training follows the images and the device."""

from __future__ import annotations

import pytest

from objectives.images.objective import ImageClassification
from objectives.images.training_params import choose_epochs


@pytest.mark.parametrize(
    ("data", "n", "side", "channels", "device", "epochs"),
    [
        ("digits", 1_149, 8, 1, "cpu", 8),
        ("a small folder", 1_000, 64, 3, "cpu", 12),
        ("MNIST", 48_000, 28, 1, "cpu", 2),
        ("CIFAR-10", 40_000, 32, 3, "cpu", 6),
        ("photos", 8_000, 64, 3, "cpu", 7),
        ("large photos, which are shrunk first", 8_000, 224, 3, "cpu", 7),
        ("all of EMNIST", 560_000, 28, 1, "cpu", 1),
        ("MNIST", 48_000, 28, 1, "cuda:0", 16),
        ("CIFAR-10", 40_000, 32, 3, "cuda:0", 16),
    ],
)
def test_larger_data_and_larger_images_get_fewer_epochs(
    data: str, n: int, side: int, channels: int, device: str, epochs: int
):
    assert choose_epochs(n, (side, side), channels, device) == epochs


@pytest.mark.parametrize(
    ("is_large", "epochs", "refit"), [(True, 2, 12), (True, 6, 36), (True, 16, 36), (False, 12, 36), (False, 30, 60)]
)
def test_the_refit_has_two_to_six_times_as_many(is_large: bool, epochs: int, refit: int):
    sized = type("Sized", (ImageClassification,), {"is_large": is_large})
    assert sized("digits").refit_epochs(epochs) == refit
