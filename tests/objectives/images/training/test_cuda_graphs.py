"""Recorded updates: the same numbers as a plain loop, also after they were tried, and where they are used again.

A CUDA graph needs a GPU (test_gpu.py). Everything around it needs only something that records and replays.
"""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from recordings import Recorder, never
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from trainings import LIVELY, OPTIMIZERS, a_training, equal, finish, network, plain_loop, recipe, told, weights

from objectives.base import Task
from objectives.images.training.cuda_graphs import MAX_GRAPHS, GraphCache, graph_key, relative_distance
from objectives.images.training.graph_inputs import dropout_layers
from objectives.images.training.loop import ImageTraining, evaluate
from objectives.images.training.update import LOGITS_BYTES, TrainingData, Update

STRONG: dict[str, Any] = {"weight_decay": 0.1, "momentum": 0.7, "label_smoothing": 0.3, "rotation_zoom": 0.5}
STRONG |= {"class_weights": (0.5, 0.25, 3.0, 1.0)}
NONE = {"weight_decay": 0.0, "momentum": 0.0, "label_smoothing": 0.0, "rotation_zoom": 0.5}


@pytest.mark.parametrize("family", ["mlp", "cnn"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_recorded_training_computes_what_calls_and_a_plain_loop_compute(
    data: TrainingData, optimizer: str, family: str
):
    """With dropout, augmentation and smoothed labels: every random number is the same one.

    Calls compute exactly the same, so trying the recording leaves no trace. A plain loop rounds otherwise, and where a
    maximum changes, a rounding error grows. So the closer of two seeds counts.
    """
    how, net = recipe(optimizer, **LIVELY), {"family": family, "dropout": 0.3}
    distances = []
    for seed in (6, 7):
        called = a_training(data, how, graphs=never(), seed=seed, **net)
        expected = told(finish(called))
        recorded = a_training(data, how, graphs=GraphCache(Recorder()), seed=seed, **net)
        assert told(finish(recorded)) == expected
        assert recorded.update.replay is not None
        assert equal(weights(recorded), weights(called))
        plain = plain_loop(data, how, 3, seed=seed, **net).state_dict()
        distances.append(max(float((tensor - plain[name]).abs().max()) for name, tensor in weights(recorded).items()))
    assert min(distances) < 1e-4


class Reads(TorchDispatchMode):
    """Notes every operation that would make the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(word in str(func) for word in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal.")):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_call_reads_nothing_back_and_nothing_moves(data: TrainingData, optimizer: str):
    """What a graph demands. RMSprop has a form for graphs that torch offers on a GPU alone."""
    how = recipe(optimizer, **LIVELY)
    update = Update(data, network(dropout=0.3).train(), how, capturable=True)
    assert update.graph_inputs is not None

    def places() -> list[int]:
        state = [tensor for state in update.optimizer.state.values() for tensor in state.values()]
        tables = [update.order, update.rates, update.maps, update.position, update.lr, update.targets, update.sums]
        sampled = [update.graph_inputs.decay, update.graph_inputs.momentum, *update.average.tensors]
        dropout = [number for layer in dropout_layers(update.model) for number in layer.graph_inputs or ()]
        everything = (*update.model.state_dict().values(), *state, *tables, *sampled, *dropout)
        return [tensor.data_ptr() for tensor in everything]

    before, snapshot = places(), update.copy_state()
    with Reads() as reads:
        update()
    assert reads.seen == []
    update.load_optimizer(update.optimizer.state_dict())
    update.restore(snapshot)
    update.begin(network(dropout=0.3, seed=1), how, 3)
    update.begin_epoch(torch.arange(256), [0.1] * 8, 1)
    update()
    assert places() == before


@pytest.mark.parametrize("batch_size", [640, 3000], ids=["three batches", "less than one batch"])
@pytest.mark.parametrize("recorder", [None, Recorder()], ids=["called", "recorded"])
@pytest.mark.parametrize("steps", [1, 3])
def test_few_logits_are_stored_and_all_are_counted(steps: int, recorder: Recorder | None, batch_size: int):
    """Of 1,000 classes. Before anything is learned, an epoch's loss is that of its images, which are 8 batches."""
    n, random = 8 * batch_size + 30, torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 1, 2, 2), generator=random, dtype=torch.uint8)
    labels = torch.randint(0, 1000, (n,), generator=random)
    data = TrainingData(images, labels, torch.arange(n), torch.arange(0), 1000)
    torch.manual_seed(0)
    model, how = nn.Sequential(nn.Flatten(), nn.Linear(4, 1000)), recipe("sgd", lr=0.0, batch_size=batch_size)
    graphs = GraphCache(recorder) if recorder else None
    training = ImageTraining(data, model, how, Task(0, {}, 5, 2), steps_per_epoch=steps, graphs=graphs)
    assert training.update.logits.nbytes <= max(LOGITS_BYTES, 4 * 1000 * batch_size)
    ends = [result for result in finish(training) if result.epoch.is_integer()]
    for epoch, result in enumerate(ends):
        index = torch.randperm(n, generator=torch.Generator().manual_seed(5 * 1_000_003 + epoch))[:-30]
        loss, accuracy, _ = evaluate(model, images, labels, index)
        assert result.metrics["train/loss"] == pytest.approx(loss, rel=1e-5)
        assert result.metrics["train/accuracy"] == pytest.approx(accuracy, abs=1.5 / len(index))
    assert len(ends) == 2
    assert (training.update.replay is None) == (recorder is None)


# Recordings used again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [STRONG, NONE], ids=["strong", "none"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_recording_used_again_trains_as_a_fresh_one_and_as_plain_numbers_do(
    data: TrainingData, optimizer: str, numbers: dict[str, Any]
):
    """Of another trial with a network of the same structure: every number that a sampler draws is another one.

    Plain numbers are added up in another order, so over eight batches the end is as near as rounding lets it be.
    """
    recorder = Recorder()
    graphs = GraphCache(recorder)
    first = a_training(data, recipe(optimizer, **LIVELY), graphs=graphs, dropout=0.3)
    finish(first)
    update = first.update
    del first
    how, net = recipe(optimizer, schedule="constant", **numbers), {"epochs": 1, "seed": 6, "dropout": 0.15}
    fresh = a_training(data, how, graphs=GraphCache(Recorder()), **net)
    expected = told(finish(fresh))
    again = a_training(data, how, graphs=graphs, **net)
    assert again.update is update
    assert told(finish(again)) == expected
    assert equal(weights(again), weights(fresh))
    assert recorder.recorded == 1
    plain = a_training(data, how, **net)
    start = plain.update.copy_state()
    finish(plain)
    assert relative_distance(start, plain.update.copy_state(), update.copy_state()) < 1e-3


@pytest.mark.parametrize(
    ("how", "net"),
    [
        ({"batch_size": 64}, {}),
        ({"optimizer": "adamw"}, {}),
        ({"rotation_zoom": 0.0, "translation": 0.0, "flip": False}, {}),
        ({}, {"width": 16}),
        ({}, {"dropout": 0.0}),
        ({}, {"family": "mlp"}),
    ],
)
def test_what_a_recording_freezes_makes_another_shape(data: TrainingData, how: dict[str, Any], net: dict[str, Any]):
    graphs = GraphCache(Recorder())
    update = a_training(data, recipe(**LIVELY), graphs=graphs, dropout=0.3).update
    other = a_training(data, recipe(**{**LIVELY, **how}), graphs=graphs, **{"dropout": 0.3, **net})
    assert other.update is not update


def test_another_share_of_torchs_own_dropout_makes_another_shape(data: TrainingData):
    """Only of ours it is read from memory."""
    keys = [graph_key(data, nn.Sequential(nn.Flatten(), nn.Dropout(p)), recipe()) for p in (0.1, 0.1, 0.2)]
    assert [key == keys[0] for key in keys] == [True, True, False]


def test_a_training_that_still_lives_keeps_its_recording(data: TrainingData):
    graphs = GraphCache(Recorder())
    whole = told(finish(a_training(data, recipe(**LIVELY), graphs=never())))
    one, two = (a_training(data, recipe(**LIVELY), graphs=graphs) for _ in range(2))
    assert one.update is not two.update
    mixed = [[next(training) for training in (one, two)] for _ in range(3)]
    assert [told([results[0] for results in mixed]), told([results[1] for results in mixed])] == [whole, whole]


def test_the_recording_used_longest_ago_is_freed(data: TrainingData):
    graphs = GraphCache(Recorder())

    def train(width: int) -> weakref.ref[Update]:
        training = a_training(data, recipe(), graphs=graphs, width=width)
        next(training)
        return weakref.ref(training.update)

    updates = [train(8 * (number + 1)) for number in range(MAX_GRAPHS)]
    assert all(update() is not None for update in updates)
    assert train(8)() is updates[0]()
    train(8 * (MAX_GRAPHS + 1))
    assert [update() is not None for update in updates] == [True, False, *[True] * (MAX_GRAPHS - 2)]


# Checkpoints --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_checkpoint_goes_on_in_either_form(data: TrainingData, optimizer: str, at: int):
    """Recorded or called exactly; with plain numbers, as those of the CPU are, as near as sums in another order."""
    how, net = recipe(optimizer, **LIVELY), {"dropout": 0.3, "steps": 2, "epochs": 3}
    graphs = GraphCache(Recorder())
    whole = a_training(data, how, graphs=never(), **net)
    start = whole.update.copy_state()
    expected = told(finish(whole))
    for before, behind in ((None, graphs), (graphs, None), (never(), graphs), (graphs, never())):
        first = a_training(data, how, graphs=before, **net)
        for _ in range(at):
            next(first)
        checkpoint = first.checkpoint()
        next(first)
        second = a_training(data, how, graphs=behind, checkpoint=checkpoint, **net)
        results = told(finish(second))
        assert [result[0] for result in results] == list(range(at + 1, 7))
        if before is not None and behind is not None:
            assert results == expected[at:]
            assert equal(weights(second), weights(whole))
        else:
            assert relative_distance(start, whole.update.copy_state(), second.update.copy_state()) < 0.01


def test_sgd_without_momentum_goes_on_in_the_other_form(data: TrainingData):
    """One form keeps momenta even then; they are zero times what they are."""
    how = recipe("sgd", **NONE)
    for before, behind in ((None, never()), (never(), None)):
        first = a_training(data, how, graphs=before)
        next(first)
        second = a_training(data, how, graphs=behind, checkpoint=first.checkpoint())
        finish(first)
        finish(second)
        for name, tensor in weights(second).items():
            torch.testing.assert_close(tensor, weights(first)[name], rtol=1e-3, atol=1e-4)


def test_distance_is_a_share_of_the_way(data: TrainingData):
    training: ImageTraining = a_training(data, recipe())
    update = training.update
    before = update.copy_state()
    next(training)
    after = update.copy_state()
    assert relative_distance(before, after, after) == 0
    assert relative_distance(before, after, before) == pytest.approx(1)
    assert relative_distance(before, before, after) == float("inf")
