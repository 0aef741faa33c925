"""Without a recording that can be trusted a training ends, and without memory for one it goes on by calls."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from recordings import Recorder, never
from trainings import LIVELY, a_training, equal, finish, recipe, told, weights

from objectives.base import CaptureError, Diverged
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


FAULTS = (same_batch_again, same_numbers_again, doubled_rate, nothing_at_all, not_a_number)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_recording_that_does_not_agree_with_calls_ends_the_training(
    data: TrainingData, optimizer: str, fault: Callable[[Update], None]
):
    training = a_training(data, recipe(optimizer, **LIVELY), dropout=0.3, graphs=GraphCache(Recorder(fault)))
    with pytest.raises(CaptureError, match=r"^3 replays ended .*% of their way from where as many calls end$"):
        next(training)


def test_a_training_that_cannot_be_recorded_ends(data: TrainingData):
    training = a_training(data, recipe(), graphs=GraphCache(Recorder(error=CaptureError("it asks the device"))))
    with pytest.raises(CaptureError, match=r"^it asks the device$"):
        next(training)


def test_an_error_of_the_network_is_none_of_the_recording(data: TrainingData, monkeypatch: pytest.MonkeyPatch):
    def broken(update: Update, *batches: int) -> None:
        raise ValueError("the spoon does not exist")

    monkeypatch.setattr(Update, "__call__", broken)
    with pytest.raises(ValueError, match="spoon"):
        next(a_training(data, recipe(), graphs=GraphCache(Recorder())))


LATE = RuntimeError("operation failed due to a previous error during capture")
LATE.__context__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")


CUDA = torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later")


RAISED = CaptureError(f"RuntimeError: {LATE}")
RAISED.__cause__ = LATE


@pytest.mark.parametrize(
    "error", [LATE, RAISED, LATE.__context__, CUDA], ids=["in the end", "as it is raised", "at once", "of CUDA"]
)
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
