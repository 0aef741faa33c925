"""Worker processes of this machine: how many train, how they die and are replaced, and that none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from place import STEPS, Place
from shell import alive, children, environment, variables_of
from slots import TOY, hear, lose, task, train

from objectives.base import ObjectiveError
from objectives.spec import ObjectiveSpec
from objectives.worker.messages import WorkerReady
from search.common.errors import SearchError
from search.executors.base import EpochDone, Finished, Lost, SlotEvent
from search.executors.local import MPS_IS_OFF, MPS_RECOVERS, LocalExecutor
from search.executors.mps import PIPES, WITHOUT_MPS


def test_slots_train_side_by_side(local: LocalExecutor):
    for slot in (0, 1):
        local.start(slot, task(slot))
    first: dict[int, SlotEvent] = {}
    while len(first) < 2:
        first.update(local.wait(10.0))
    assert all(isinstance(event, EpochDone) for event in first.values())
    assert first[0] != first[1]
    for slot in (0, 1):
        local.stop(slot)
    while first:
        for slot, event in local.wait(10.0):
            assert isinstance(event, Finished)
            del first[slot]


def test_a_worker_that_ends_itself_is_told_with_its_own_status(local: LocalExecutor):
    event = lose(local, task(mode="leave@1"))
    assert "exited with status 7\n" in event.reason
    assert event.reason.endswith("goodbye \\x1b[31m")


def test_a_killed_worker_is_replaced_and_its_last_lines_are_reported(local: LocalExecutor):
    before = children(os.getpid())
    event = lose(local, task(mode="kill@1"))
    assert "was killed by SIGKILL" in event.reason
    assert event.reason.splitlines()[-2:] == ["one line before the last", "the very last line"]
    assert local.available() == [1]
    while 0 not in local.available():
        assert local.wait(1.0) == []
    local.start(0, task())
    assert isinstance(hear(local), EpochDone)
    local.stop(0)
    assert isinstance(hear(local), Finished)
    assert len(children(os.getpid())) == len(before)


# Number of workers ---------------------------------------------------------------------------------------------------


@pytest.fixture
def three() -> Iterator[LocalExecutor]:
    with closing(LocalExecutor(TOY, "cpu", jobs=3)) as executor:
        executor.ready()
        yield executor


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "chosen"), [("fine", 3), ("turns", 2)])
def test_workers_that_slow_each_other_down_are_ended(
    monkeypatch: pytest.MonkeyPatch, mode: str, chosen: int, request: pytest.FixtureRequest
):
    """Each pull takes 20 ms: side by side, or in turns."""
    monkeypatch.setenv("TOY_PAUSE_S", "0.02" if mode == "fine" else "0")
    executor: LocalExecutor = request.getfixturevalue("three")
    before = children(os.getpid())
    executor.keep_fastest([task(mode=mode)])
    assert executor.slots == chosen
    deadline = time.monotonic() + 20
    while len(children(os.getpid())) > len(before) - (3 - chosen) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(children(os.getpid())) == len(before) - (3 - chosen)
    assert len(train(executor, task())[0]) == 4


def test_a_measurement_changes_no_result(local: LocalExecutor):
    expected = train(local, task(3))
    assert local.measure_rate(2, task(8), 0.05) > 0
    assert train(local, task(3)) == expected


def test_a_training_that_diverges_is_begun_again(local: LocalExecutor):
    assert local.measure_rate(2, task(mode="diverge@2"), 0.05) > 0


def test_notices_of_a_measurement_are_kept(local: LocalExecutor):
    assert local.measure_rate(2, task(mode="notice"), 0.05) > 0
    assert local._notices == {"a worker has something to say"}


def test_a_measurement_ignores_workers_that_it_does_not_use(local: LocalExecutor):
    os.kill(local._workers[1].process.pid, signal.SIGKILL)
    assert local.measure_rate(1, task(), 0.3) > 0
    assert len(train(local, task())[0]) == 4


@pytest.mark.parametrize("mode", ["error@1", "memory@0", pytest.param("kill@1", marks=pytest.mark.slow)])
def test_a_failed_measurement_gives_a_rate_of_zero(local: LocalExecutor, mode: str):
    assert local.measure_rate(1, task(mode=mode), 0.05) == 0
    assert len(train(local, task())[0]) == 4


@pytest.mark.slow
def test_a_gpu_that_is_gone_for_a_while_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    """A worker that used a GPU is replaced by others on that GPU, never by one on the CPU, and not too often."""
    monkeypatch.setattr("search.executors.local.MAX_FAILED_STARTS", 1)
    monkeypatch.setattr("search.executors.local.MAX_PATIENT_STARTS", 2)
    notices: list[str] = []
    with closing(LocalExecutor(TOY, "auto", jobs=1, notice=notices.append)) as executor:
        executor.ready()
        worker = executor._workers[0]
        worker.ready = WorkerReady("cuda:99")
        os.kill(worker.process.pid, signal.SIGKILL)
        assert isinstance(hear(executor), Lost)
        with pytest.raises(SearchError, match=r"workers do not start: --device cuda:99: this machine offers"):
            hear(executor)
        assert executor._workers[0].failed_starts == 1
        assert executor._workers[0].settings.delay_s == 1.0
    assert len(notices) == 1
    assert notices[0].startswith("a worker does not start, and is tried up to 2 times: --device cuda:99: this machine")


@pytest.mark.slow
@pytest.mark.parametrize("is_new", [False, True])
def test_workers_that_keep_mps_from_recovering_are_ended(monkeypatch: pytest.MonkeyPatch, is_new: bool):
    """A new worker gets no GPU as long as an idle one, which cannot notice the fault, is there.

    One that has been set up since the fault shows that MPS has recovered, and stays.
    """
    monkeypatch.setattr("search.executors.local.MAX_PATIENT_STARTS", 2)
    with closing(LocalExecutor(TOY, "auto", jobs=2)) as executor:
        executor.ready()
        executor._mps.is_on = True
        for worker in executor._workers:
            worker.ready = WorkerReady("cuda:99")
        os.kill(executor._workers[1].process.pid, signal.SIGKILL)
        lost = hear(executor, slot=1)
        assert isinstance(lost, Lost)
        assert lost.may_be_task
        if is_new:
            executor._workers[0].ready_at = time.monotonic()
            with pytest.raises(SearchError, match="workers do not start: --device cuda:99: this machine offers"):
                hear(executor, slot=1)
            assert alive(executor._workers[0].process.pid)
        else:
            assert hear(executor, slot=0) == Lost(MPS_RECOVERS, may_be_task=False)


@pytest.mark.slow
def test_a_trial_that_always_breaks_its_gpu_fails_alone(place: Place, monkeypatch: pytest.MonkeyPatch):
    """With CUDA MPS its fault ends the workers beside it too. Without it, it is alone."""
    monkeypatch.setenv("TOY_PAUSE_S", "0.2")
    notices: list[str] = []
    spec = ObjectiveSpec("asserting:Faulty", {"steps": STEPS})
    with closing(LocalExecutor(spec, "cpu", jobs=3, notice=notices.append)) as executor:
        executor.ready()
        executor._mps.is_on = True  # as on a GPU
        monkeypatch.setattr(executor, "ready", list)
        monkeypatch.setattr("place.InlineExecutor", lambda *_: executor)
        trials = place.search(6).trials
        seen = variables_of(executor._workers[0].process.pid)
    assert [trial.failure for trial in trials] == [None, "crashed", None, None, None, None]
    assert str(trials[1].failure_message).startswith("tried 3 times; its worker (pid ")
    assert notices == [MPS_IS_OFF]
    assert f"is tried again: {MPS_RECOVERS}" in place.lines.getvalue()
    assert seen[PIPES] == WITHOUT_MPS[PIPES]


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "rude.py").write_text("import os\nprint('no, thank you', flush=True)\nos._exit(7)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    message = r"(?s)workers do not start: .*status 7.*no, thank you"
    with (
        closing(LocalExecutor(ObjectiveSpec("rude:Rude"), "cpu", jobs=1)) as broken,
        pytest.raises(SearchError, match=message),
    ):
        broken.ready()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ObjectiveSpec("toy:Toy", {"nonsense": 1}), r"'toy:Toy' cannot be made: .*unexpected keyword"),
        (ObjectiveSpec("toy:Nothing"), r"--objective 'toy:Nothing': toy has no 'Nothing'"),
    ],
    ids=["another option", "not there"],
)
def test_an_objective_that_cannot_be_made_is_an_error(spec: ObjectiveSpec, message: str):
    with closing(LocalExecutor(spec, "cpu", jobs=1)) as broken, pytest.raises(ObjectiveError, match=message):
        broken.ready()


@pytest.mark.slow
def test_closing_ends_a_worker_that_hangs():
    mine = children(os.getpid())
    executor = LocalExecutor(TOY, "cpu", jobs=1)
    executor.ready()
    executor.start(0, task(mode="hang"))
    time.sleep(0.2)
    workers = children(os.getpid()) - mine
    assert workers
    started = time.monotonic()
    executor.close()
    assert time.monotonic() - started < 5
    assert not [pid for pid in workers if alive(pid)]


@pytest.mark.slow
def test_a_worker_ends_when_its_coordinator_is_killed():
    program = """
        import os
        from objectives.base import Task
        from objectives.spec import ObjectiveSpec
        from search.executors.local import LocalExecutor

        executor = LocalExecutor(ObjectiveSpec("toy:Toy"), "cpu", jobs=1)
        executor.ready()
        executor.start(0, Task(0, {"x": 0.1, "mode": "hang"}, 1, 4))
        print("training", flush=True)
        executor.wait(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    coordinator = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert coordinator.stdout is not None
        assert coordinator.stdout.readline() == "training\n"
        time.sleep(0.2)
        workers = children(coordinator.pid)
        assert workers
        coordinator.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while any(map(alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [pid for pid in workers if alive(pid)]
    finally:
        coordinator.kill()
        coordinator.communicate()
