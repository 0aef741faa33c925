"""What only a CUDA device can show of trainings that are recorded as graphs; `pytest -m gpu` runs it.

With SEARCH_EXPECT_GPU=1 a missing device is an error, and skips nothing. For searches, see test_gpu_searches.py.

Tolerance between recorded and called updates, of whole trainings: weights within 1% of their way, as at the start of
each training. The two run the same kernels on the same random numbers, but sums in no fixed order differ by rounding.
Against torch's plain loop, whose kernels are others, it is 10% of an epoch's way: RMSprop, whose first steps do not
depend on the size of a gradient, came to 7% (H100, torch 2.11). What may go wrong is far larger.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
from cuda_device import DEVICE, NEEDS_DEVICE
from torch import nn
from trainings import LIVELY, OPTIMIZERS, a_training, equal, finish, network, plain_loop, recipe, striped, weights
from waiting import Waits

from objectives.base import CaptureError, Diverged, Task
from objectives.images.models import Dropout
from objectives.images.training.cuda_graphs import (
    FAILED_GRAPHS,
    MAX_GRAPHS,
    TOLERANCE,
    CudaGraphRecorder,
    GraphCache,
    distance,
    relative_distance,
)
from objectives.images.training.loop import ImageTraining
from objectives.images.training.update import TrainingData, TrainingState, Update

pytestmark = NEEDS_DEVICE


@pytest.fixture(scope="module")
def data(device: None) -> TrainingData:
    return striped(DEVICE)


@pytest.fixture
def graphs() -> GraphCache:
    return GraphCache(CudaGraphRecorder(DEVICE))


def ends(data: TrainingData, how: Any, graphs: GraphCache | None, **other: Any) -> tuple[TrainingState, TrainingState]:
    """A training's state at its start and at its end; recorded, or called where there are no graphs."""
    training = a_training(data, how, graphs=GraphCache(None) if graphs is None else graphs, **other)
    start = training.update.copy_state()
    results = finish(training)
    assert [result.notice for result in results if result.notice] == []
    assert (training.update.replay is None) == (graphs is None)
    return start, training.update.copy_state()


def assert_close(start: TrainingState, expected: TrainingState, found: TrainingState) -> None:
    assert relative_distance(start, expected, found) <= TOLERANCE
    assert torch.equal(*expected["generator"], *found["generator"])


@pytest.mark.parametrize("family", ["mlp", "cnn"])
@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_graph_trains_as_calls_do(data: TrainingData, graphs: GraphCache, optimizer: str, schedule: str, family: str):
    how, net = recipe(optimizer, schedule=schedule, **LIVELY), {"family": family, "dropout": 0.3}
    start, called = ends(data, how, None, **net)
    _, recorded = ends(data, how, graphs, **net)
    assert_close(start, called, recorded)


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "called"])
@pytest.mark.parametrize("family", ["mlp", "cnn"])
def test_one_seed_twice_gives_the_same_weights(data: TrainingData, family: str, recorded: bool):
    """The second time with a graph that was captured anew."""
    kept = []
    for _ in range(2):
        graphs = GraphCache(CudaGraphRecorder(DEVICE)) if recorded else None
        training = a_training(data, recipe(**LIVELY), graphs=graphs, family=family, dropout=0.3)
        finish(training)
        assert (training.update.replay is not None) == recorded
        kept.append(weights(training))
    assert equal(*kept)


def test_a_graph_of_plain_sgd_trains_as_calls_do(data: TrainingData, graphs: GraphCache):
    """Without momentum the optimizer has no state at all."""
    how = recipe("sgd", momentum=0.0)
    start, called = ends(data, how, None)
    _, recorded = ends(data, how, graphs)
    assert_close(start, called, recorded)


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "called"])
@pytest.mark.parametrize("family", ["mlp", "cnn"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_epoch_computes_what_torchs_plain_loop_computes(
    data: TrainingData, graphs: GraphCache, optimizer: str, family: str, recorded: bool
):
    """With unfused optimizers, plain numbers, cross_entropy's own smoothing, and no channels_last."""
    how, net = recipe(optimizer, **LIVELY), {"family": family, "dropout": 0.3}
    training = a_training(data, how, graphs=graphs if recorded else None, epochs=1, **net)
    start = training.update.copy_state()["weights"]
    finish(training)
    expected = list(plain_loop(data, how, 1, **net).parameters())
    apart = distance(list(training.model.parameters()), expected)
    assert apart <= 0.1 * distance(expected, start)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_graph_used_again_trains_as_a_fresh_one(data: TrainingData, graphs: GraphCache, optimizer: str):
    how = recipe(optimizer, **LIVELY)
    other = recipe(
        optimizer, lr=3e-4, momentum=0.5, rotation_zoom=0.9, label_smoothing=0.1, weight_decay=1e-2, schedule="constant"
    )
    first = a_training(data, how, graphs=graphs, dropout=0.3)
    finish(first)
    update, replay = first.update, first.update.replay
    del first
    again = a_training(data, other, graphs=graphs, dropout=0.1, seed=6)
    assert again.update is update
    start = update.copy_state()
    finish(again)
    assert update.replay is replay
    _, fresh = ends(data, other, GraphCache(CudaGraphRecorder(DEVICE)), dropout=0.1, seed=6)
    assert_close(start, fresh, update.copy_state())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_checkpoint_goes_on_in_either_form_and_on_the_cpu(
    data: TrainingData, graphs: GraphCache, optimizer: str, at: int
):
    how, net = recipe(optimizer, **LIVELY), {"dropout": 0.3, "steps": 2}
    start, whole = ends(data, how, None, **net)
    never = GraphCache(None)
    for before, behind in ((never, graphs), (graphs, never), (graphs, graphs)):
        first = a_training(data, how, graphs=before, **net)
        for _ in range(at):
            next(first)
        checkpoint = first.checkpoint()
        torch.rand(17, device=DEVICE)
        second = a_training(data, how, graphs=behind, checkpoint=checkpoint, **net)
        finish(second)
        assert_close(start, whole, second.update.copy_state())
        assert len(finish(a_training(striped(), how, checkpoint=checkpoint, **net))) == 6 - at


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_dropout_drops_its_share_exactly(p: float):
    x = torch.ones(8001, 90, requires_grad=True, device=DEVICE)
    y = Dropout(p)(x)
    assert (y == 0).float().mean(0).tolist() == pytest.approx([p] * 90, abs=5 * (p * (1 - p) / 8001) ** 0.5)
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_a_network_that_cannot_be_recorded_ends_its_training():
    """In a process of its own: a failed capture leaves the allocator of torch before 2.15 in capture for good."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(train_what_cannot_be_recorded).result(timeout=120)


def train_what_cannot_be_recorded() -> None:
    """Then, as with `--engine inline`, the process goes on by calls. Dropout draws from a generator in a graph before.

    In worker processes: test_gpu_searches.py.
    """
    data, how = striped(DEVICE), recipe(**LIVELY)
    start, expected = ends(data, how, None, dropout=0.3)
    model = nn.Sequential(Waits(), network(dropout=0.3, seed=5))
    graphs = GraphCache(CudaGraphRecorder(DEVICE))
    with pytest.raises(CaptureError, match=r"\(waiting.py, line 14\)$"):
        next(ImageTraining(data, model, how, Task(0, {}, 5, 2), steps_per_epoch=1, graphs=graphs))
    assert len(FAILED_GRAPHS) == 1  # the allocator may refer to it for good
    torch.cuda.synchronize()  # as a worker does after every error
    _, found = ends(data, how, None, dropout=0.3)
    assert_close(start, expected, found)


def test_a_training_that_diverges_leaves_the_device_in_order(data: TrainingData, graphs: GraphCache):
    with pytest.raises(Diverged, match="loss became"):
        finish(a_training(data, recipe("sgd", lr=1e30, schedule="constant"), graphs=graphs))
    ends(data, recipe(), graphs)


@pytest.mark.parametrize("steps", [1, 4])
def test_an_epoch_waits_for_the_device_only_where_it_is_read(
    data: TrainingData, graphs: GraphCache, monkeypatch: pytest.MonkeyPatch, steps: int
):
    """Its tables, its replays and its validation; of four quarters, the last is read."""
    training = a_training(data, recipe(**LIVELY), graphs=graphs, dropout=0.3, steps=steps)
    for _ in range(steps):
        next(training)
    reads, read = [], torch.Tensor.tolist

    def reading(figures: torch.Tensor) -> object:
        torch.cuda.set_sync_debug_mode("default")
        reads.append(figures.shape)
        return read(figures)

    monkeypatch.setattr(torch.Tensor, "tolist", reading)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(steps):
            next(training)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert reads == [(2 + 1 + 3 * 4,)]  # of the training, the validation loss, and three counts of four classes


def test_without_memory_for_a_graph_a_training_goes_on_by_calls(data: TrainingData):
    """The error is torch's, the recording is not."""

    class Full(CudaGraphRecorder):
        def record(self, update: Update) -> Callable[[], None]:
            super().record(update)
            raise torch.OutOfMemoryError("CUDA out of memory")

    graphs = GraphCache(Full(DEVICE))
    training = a_training(data, recipe(**LIVELY), graphs=graphs, dropout=0.3)
    start = training.update.copy_state()
    assert [result.notice is None for result in finish(training)] == [False, True, True]
    _, called = ends(data, recipe(**LIVELY), None, dropout=0.3)
    assert_close(start, called, training.update.copy_state())


def test_recordings_that_are_dropped_give_their_memory_back(data: TrainingData, graphs: GraphCache):
    """Of 20 structures, MLPs and CNNs, the last ones are as large as the first."""
    seen = []
    for number in range(20):
        width = 64 + 16 * (number % MAX_GRAPHS) + number // MAX_GRAPHS
        next(a_training(data, recipe(batch_size=256), graphs=graphs, width=width, family=("mlp", "cnn")[number % 2]))
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        seen.append(torch.cuda.memory_reserved(DEVICE))
    assert seen[-1] <= 1.5 * seen[MAX_GRAPHS - 1]
