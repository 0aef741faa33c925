"""Networks that compute with numbers of the host train without a CUDA graph, which would freeze the first ones."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from recordings import Recorder
from torch import Tensor, nn
from trainings import finish, network, recipe, striped, told

from objectives.base import Task
from objectives.images.training.cuda_graphs import GraphCache
from objectives.images.training.host_state import copy_host_state, restore_host_state
from objectives.images.training.loop import ImageTraining


class Scaled(nn.Module):
    """A network whose outputs are scaled by a number from Python, in training."""

    def __init__(self, scale: Callable[[Scaled], float]) -> None:
        super().__init__()
        self.network, self.scale, self.calls = network(seed=5), scale, 0

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits * self.scale(self) if self.training else logits


def counted(layer: Scaled) -> float:
    layer.calls += 1
    return 1 + layer.calls / 10


HOST: dict[str, Callable[[Scaled], float]] = {
    "random": lambda layer: random.random(),
    "numpy": lambda layer: np.random.rand(),
    "counter": counted,
}


def a_training(scale: Callable[[Scaled], float], graphs: GraphCache) -> ImageTraining:
    random.seed(1)
    np.random.seed(1)
    return ImageTraining(striped(), Scaled(scale), recipe(), Task(0, {}, 5, 2), steps_per_epoch=1, graphs=graphs)


@pytest.mark.parametrize("source", HOST)
def test_a_network_with_numbers_of_the_host_is_not_captured(source: str):
    recorder = Recorder()
    expected = told(finish(a_training(HOST[source], GraphCache(None))))
    training = a_training(HOST[source], GraphCache(recorder))
    results = finish(training)
    assert (training.update.replay, recorder.recorded) == (None, 0)
    assert told(results) == expected
    (notice,) = (result.notice for result in results if result.notice is not None)
    assert notice.startswith("a training goes on without a CUDA graph, slower and with the same results: its network")


def test_the_next_network_is_captured():
    graphs = GraphCache(Recorder())
    finish(a_training(HOST["random"], graphs))
    training = a_training(lambda layer: 2.0, graphs)
    finish(training)
    assert training.update.replay is not None


def test_torchs_numbers_of_the_host_count_where_the_device_has_its_own():
    """As on a GPU, where stochastic depth that asks `torch.rand(1)` on the CPU would be frozen."""
    model, gpu = nn.Linear(1, 1), torch.device("cuda")
    before = copy_host_state(model, gpu)
    assert copy_host_state(model, gpu) == before
    first = torch.rand(1)
    assert copy_host_state(model, gpu) != before
    restore_host_state(model, before)
    assert torch.equal(torch.rand(1), first)
    before = copy_host_state(model, torch.device("cpu"))
    torch.rand(1)
    assert copy_host_state(model, torch.device("cpu")) == before
