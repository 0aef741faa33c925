"""Images above 64 pixels a side: what is built for them is checked, trains, and takes little memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from trainings import finish

from objectives.base import Params, Task
from objectives.data.datasets import Dataset
from objectives.images import ImageClassification
from objectives.images.baselines import TUTORIAL
from objectives.images.training.loop import EVAL_BATCH_SIZE, evaluate

TRAINING: Params = {**TUTORIAL, "optimizer": "adam", "adam_lr": 1e-3}
SMALL_MLP: Params = dict(family="mlp", mlp_depth=1, mlp_width_1=64, mlp_dropout=0.2)
SMALL_CNN: Params = dict(family="cnn", cnn_blocks=3, cnn_width=8, cnn_kernel=5, cnn_dense=0, cnn_dropout=0.2)


class Checked(ImageClassification):
    """Builds what the built-in objective builds, and has it checked."""

    def build_network(self, params: Params) -> nn.Module:
        return super().build_network(params)


def striped(kind: type[ImageClassification], n: int = 60, side: int = 224) -> ImageClassification:
    """Colour images of three classes, each with a stripe."""
    random = np.random.default_rng(0)
    labels = np.arange(n) % 3
    images = random.integers(0, 120, (n, 3, side, side), dtype=np.uint8)
    for label in range(3):
        images[labels == label, :, 60 * label + 30 : 60 * label + 60] += 100
    train, validation = np.split(np.arange(n), [n - n // 5])
    return kind("digits", data=Dataset("digits", images, labels, ("a", "b", "c"), train, validation, ""))


@pytest.mark.parametrize("network", [SMALL_MLP, SMALL_CNN], ids=["mlp", "cnn"])
def test_a_network_for_large_images_trains_and_can_be_registered(network: Params):
    objective = striped(Checked)
    params = {**TRAINING, **network, "batch_size": 16, "rotation_zoom": 0.1}
    objective.check(params)
    assert objective.n_parameters(params) < 250_000
    results = finish(objective.start(Task(0, params, 1, 6), "cpu"))
    assert results[-1].value is not None
    assert results[-1].value > 0.8


class Sizes(nn.Module):
    """Notes how many images come together."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images.shape[0])
        return images.mean((2, 3))


@pytest.mark.parametrize(("side", "largest"), [(8, EVAL_BATCH_SIZE), (64, EVAL_BATCH_SIZE), (224, 40)])
def test_evaluation_takes_fewer_large_images_together(side: int, largest: int):
    n, network = EVAL_BATCH_SIZE + 100 if side < 224 else 100, Sizes()
    images: Any = torch.zeros(1, 3, side, side, dtype=torch.uint8).expand(n, -1, -1, -1)
    evaluate(network, images, torch.zeros(n, dtype=torch.int64), torch.arange(n))
    assert max(network.seen) == largest
    assert sum(network.seen) == n
