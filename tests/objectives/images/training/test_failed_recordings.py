"""Without a recording that can be had and trusted, a training goes on by calls, and says so once."""

from __future__ import annotations

import re
import weakref

import pytest
import torch
from recordings import Recorder, never
from trainings import LIVELY, a_training, equal, finish, recipe, told, weights

from objectives.base import Diverged
from objectives.images.training.cuda_graphs import GraphCache
from objectives.images.training.update import TrainingData, Update


def same_batch_again(update: Update) -> None:
    update()
    update.position.sub_(1)


def same_numbers_again(update: Update) -> None:
    state = update.generator.get_state()
    update()
    update.generator.set_state(state)


def doubled_rate(update: Update) -> None:
    rates = update.rates.clone()
    update.rates.mul_(2)
    update()
    update.rates.copy_(rates)


def nothing_at_all(update: Update) -> None:
    update.position.add_(1)


def not_a_number(update: Update) -> None:
    update()
    next(update.model.parameters()).data.fill_(torch.nan)


WITHOUT = "a worker goes on without CUDA graphs, slower and with the same results: "
FAULTS = (same_batch_again, same_numbers_again, doubled_rate, nothing_at_all, not_a_number)


@pytest.mark.parametrize(
    ("recorder", "reason"),
    [
        pytest.param(Recorder(error=RuntimeError("not permitted")), "RuntimeError: not permitted", id="cannot"),
        *(
            pytest.param(Recorder(fault), "3 replays ended .*% of their way from .*", id=fault.__name__)
            for fault in FAULTS
        ),
    ],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_a_recording_that_agrees_the_training_is_the_plain_one(
    data: TrainingData, optimizer: str, recorder: Recorder, reason: str
):
    """And the trainer says so once, and does not try again."""
    how, graphs = recipe(optimizer, **LIVELY), GraphCache(recorder)
    recorder.recorded = 0
    plain = a_training(data, how, dropout=0.3, epochs=1, graphs=never())
    expected = finish(plain)
    for first in (True, False):
        training = a_training(data, how, dropout=0.3, epochs=1, graphs=graphs)
        results = finish(training)
        assert told(results) == told(expected)
        assert equal(weights(training), weights(plain))
        notices = [result.notice for result in results if result.notice is not None]
        assert [bool(re.fullmatch(f"{WITHOUT}{reason}", notice)) for notice in notices] == [True] * first
    assert recorder.recorded == 1


LATE = RuntimeError("operation failed due to a previous error during capture")
LATE.__context__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")


CUDA = torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later")


@pytest.mark.parametrize("error", [LATE, LATE.__context__, CUDA], ids=["in the end", "at once", "of CUDA"])
def test_without_memory_for_a_recording_one_training_goes_on_by_calls(data: TrainingData, error: Exception):
    """The recordings of others make room, and the next training is recorded again."""
    recorder = Recorder()
    graphs = GraphCache(recorder)
    other = a_training(data, recipe(), graphs=graphs, width=16)
    next(other)
    kept = weakref.ref(other.update)
    del other
    plain = a_training(data, recipe(**LIVELY), dropout=0.3, graphs=never())
    expected = told(finish(plain))

    recorder.error = error
    training = a_training(data, recipe(**LIVELY), graphs=graphs, dropout=0.3)
    results = finish(training)
    assert told(results) == expected
    assert equal(weights(training), weights(plain))
    assert [result.notice for result in results if result.notice] == [
        "a training goes on without a CUDA graph, slower and with the same results: no memory for one"
    ]
    assert kept() is None
    assert recorder.recorded == 2

    recorder.error = None
    later = a_training(data, recipe(**LIVELY), graphs=graphs, dropout=0.3)
    assert not [result for result in finish(later) if result.notice]
    assert later.update.replay is not None


def test_without_memory_for_calls_the_trial_fails(data: TrainingData, monkeypatch: pytest.MonkeyPatch):
    def no_room(update: Update, *batches: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")

    monkeypatch.setattr(Update, "__call__", no_room)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        next(a_training(data, recipe(), graphs=GraphCache(Recorder())))


def test_a_training_that_diverges_says_nothing_of_recordings(data: TrainingData):
    graphs = GraphCache(Recorder())
    with pytest.raises(Diverged, match="loss became"):
        finish(a_training(data, recipe("sgd", lr=1e30, schedule="constant"), graphs=graphs))
    assert graphs.take_notice() is None
    healthy = a_training(data, recipe(), graphs=graphs)
    next(healthy)
    assert healthy.update.replay is not None
