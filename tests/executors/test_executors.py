"""One contract for every executor, and what each does when a GPU fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import torch
from shell import environment
from slots import TOY, hear, lose, task, train
from toy import fail_on_gpu

from objectives.base import DeviceError
from search.common.errors import SearchError
from search.common.system import usable_cores
from search.executors.base import Checkpointed, EpochDone, Executor, Failed, Finished
from search.executors.inline import InlineExecutor
from search.executors.local import LocalExecutor
from search.executors.ray import RayExecutor


@pytest.fixture(scope="module")
def inline() -> Iterator[InlineExecutor]:
    executor = InlineExecutor(TOY, "cpu")
    assert executor.ready() == ["cpu"]
    yield executor
    executor.close()


@pytest.fixture(scope="module")
def ray() -> Iterator[RayExecutor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
        with closing(RayExecutor(TOY, "cpu", 2, cpus=usable_cores() / 2, notice=print)) as executor:
            executor.set_demand(2)
            assert executor.ready() == ["cpu", "cpu"]
            yield executor


@pytest.fixture(params=["inline", "local", pytest.param("ray", marks=pytest.mark.slow)])
def executor(request: pytest.FixtureRequest) -> Executor:
    chosen: Executor = request.getfixturevalue(request.param)
    return chosen


# The contract -------------------------------------------------------------------------------------------------------


def test_a_training_gives_its_steps_and_then_its_outcome(executor: Executor):
    results, last = train(executor, task())
    assert [event.result.step for event in results] == [1, 2, 3, 4]
    assert all(event.result.metrics["val/score"] == event.result.value for event in results)
    assert last.outcome.weights == str(results[-1].result.value).encode()


def test_numbers_arrive_as_python_floats(executor: Executor):
    results, _ = train(executor, task(mode="numpy"))
    assert [type(done.result.value) for done in results] == [float] * 4
    assert {type(figure) for done in results for figure in done.result.metrics.values()} == {float}


def test_the_same_task_gives_the_same_results_in_a_used_slot(executor: Executor):
    assert train(executor, task(3)) == train(executor, task(3))
    assert train(executor, task(3)) != train(executor, task(4))


def test_a_slot_sends_nothing_before_a_command(executor: Executor):
    executor.start(0, task())
    assert isinstance(hear(executor), EpochDone)
    assert executor.wait(0.2) == []
    executor.stop(0)
    assert isinstance(hear(executor), Finished)
    assert executor.wait(0.2) == []


def test_a_resumed_training_gives_the_same_results(executor: Executor):
    whole, end = train(executor, task())
    executor.start(0, task())
    hear(executor)
    executor.advance(0)
    hear(executor)
    executor.checkpoint(0)
    checkpoint = hear(executor)
    assert isinstance(checkpoint, Checkpointed)
    assert train(executor, task(9))[0] != whole  # the slot forgets what was left in it
    resumed, resumed_end = train(executor, task(checkpoint=checkpoint.state))
    assert (resumed, resumed_end) == (whole[2:], end)


def test_a_training_goes_on_after_a_checkpoint(executor: Executor):
    whole, _ = train(executor, task())
    executor.start(0, task())
    hear(executor)
    executor.checkpoint(0)
    hear(executor)
    executor.advance(0)
    assert hear(executor) == whole[1]
    executor.stop(0)
    hear(executor)


def test_a_stopped_training_gives_its_outcome(executor: Executor):
    executor.start(0, task())
    first = hear(executor)
    assert isinstance(first, EpochDone)
    executor.stop(0)
    last = hear(executor)
    assert isinstance(last, Finished)
    assert last.outcome.weights == str(first.result.value).encode()


@pytest.mark.parametrize(
    ("mode", "kind", "message"),
    [
        ("diverge", "diverged", "the training loss became nan"),
        ("error", "error", "ValueError: the spoon does not exist"),
        ("memory", "out_of_memory", "no room for 12 GiB"),
        ("exit", "error", "SystemExit: sys.exit(3) was called"),
        ("mute", "error", "GeneratorExit"),
        ("wild", "error", "ValueError: lone \ud800, \x1b[31mred, over\rwritten"),
    ],
)
@pytest.mark.parametrize("after", [0, 2])
def test_a_slot_is_free_after_a_failed_training(executor: Executor, mode: str, kind: str, message: str, after: int):
    executor.start(0, task(mode=f"{mode}@{after}"))
    for _ in range(after):
        assert isinstance(hear(executor), EpochDone)
        executor.advance(0)
    event = hear(executor)
    assert isinstance(event, Failed)
    assert (event.kind, event.message) == (kind, message)
    assert ("toy.py" in event.traceback) == (kind != "diverged")
    assert len(train(executor, task())[0]) == 4


def test_a_damaged_checkpoint_fails_only_its_trial(executor: Executor):
    executor.start(0, task(checkpoint=b"\0"))
    event = hear(executor)
    assert isinstance(event, Failed)
    assert event.kind == "error"
    assert len(train(executor, task())[0]) == 4


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: InlineExecutor(TOY, "cuda:99"), id="inline"),
        pytest.param(lambda: LocalExecutor(TOY, "cuda:99", 1), id="local", marks=pytest.mark.slow),
    ],
)
def test_a_missing_device_is_an_error(make: Callable[[], Executor]):
    executor = make()
    try:
        with pytest.raises(DeviceError, match=r"--device cuda:99: this machine offers \d+ CUDA devices; type"):
            executor.ready()
    finally:
        executor.close()


def test_tuning_changes_nothing_when_there_is_no_choice(executor: Executor):
    slots = executor.slots
    assert executor.tune_workers([task()]) is None
    assert executor.slots == slots == len(executor.available())


def test_the_objective_is_made_again_after_out_of_memory(inline: InlineExecutor):
    assert inline.worker is not None
    before = inline.worker.objective
    inline.start(0, task(mode="memory@0"))
    hear(inline)
    assert inline.worker.objective is not before


# GPUs that fail -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_worker_whose_gpu_fails_is_replaced(engine: str, request: pytest.FixtureRequest):
    executor: Executor = request.getfixturevalue(engine)
    event = lose(executor, task(mode="broken@1"))
    assert event.may_be_task
    words = "this process cannot use its GPU any more after AcceleratorError: CUDA error: device-side assert triggered"
    assert event.reason.splitlines()[-1] == words
    assert f'{os.sep}toy.py", line ' in event.reason  # where it happened
    while 0 not in executor.available():
        assert executor.wait(1.0) == []
    assert len(train(executor, task())[0]) == 4


def test_what_cannot_be_captured_begins_again_in_a_worker_that_captures_nothing(executor: Executor):
    event = lose(executor, task(mode="capture@1"))
    assert not event.may_be_task
    words = "without CUDA graphs, slower and with the same results"
    assert event.reason == f"{words}: the spoon cannot be repeated"
    while 0 not in executor.available():
        assert executor.wait(1.0) == []
    assert len(train(executor, task(mode="capture@1"))[0]) == 4
    executor.start(0, task(mode="never@0"))  # raises the error although it captures nothing
    event = hear(executor)
    assert isinstance(event, Failed)
    assert (event.kind, event.message) == ("error", "CaptureError: the spoon cannot be repeated")


def test_an_error_of_a_gpu_that_still_works_fails_only_its_trial(executor: Executor):
    executor.start(0, task(mode="fault@0"))
    event = hear(executor)
    assert isinstance(event, Failed)
    assert event.kind == "error"
    assert len(train(executor, task())[0]) == 4


def test_a_gpu_that_fails_in_this_process_ends_the_search(inline: InlineExecutor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", fail_on_gpu)
    inline.start(0, task(mode="fault@0"))
    with pytest.raises(SearchError, match="cannot use its GPU any more after .* type the same command again"):
        inline.wait(0)
