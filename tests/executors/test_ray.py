"""Ray: what is refused before it starts, and actors that are pending, die, end when idle and return."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from shell import environment, free_port
from slots import TOY, hear, task, train

from objectives.base import DeviceError, ObjectiveError, Task
from objectives.images.objective import ImageClassification
from objectives.spec import ObjectiveSpec
from search.commands.setup import check_engine
from search.common.config import Config
from search.common.errors import SearchError, UsageError
from search.common.system import usable_cores
from search.executors import ray as actors
from search.executors.base import EpochDone, Lost
from search.executors.ray import RayExecutor
from search.executors.ray_cluster import modules_to_ship

CORES = usable_cores()


def start_executor(
    jobs: int | None = 1, notices: list[str] | None = None, *, demand: int = 2, **more: Any
) -> RayExecutor:
    notices = [] if notices is None else notices
    options = {"cpus": CORES / 2, "notice": notices.append, **more}
    executor = RayExecutor(options.pop("objective", TOY), options.pop("device", "cpu"), jobs, **options)
    executor.set_demand(demand)
    return executor


# Errors before anything is started ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"address": "auto"}, r"--address is for Ray: add --engine ray, or leave it out"),
        ({"gpus_per_trial": 0.5, "engine": "inline"}, r"--gpus-per-trial is for Ray: add --engine ray"),
        ({"cpus_per_trial": 2.0}, r"--cpus-per-trial is for Ray"),
        ({"engine": "ray", "device": "cuda:1"}, r"--device cuda:1: Ray chooses the GPU .* type --device cuda"),
        ({"engine": "ray", "gpus_per_trial": 1.5}, r"--gpus-per-trial 1.5: .* type 0.5 or 2"),
        ({"engine": "ray", "cpus_per_trial": float("inf")}, r"--cpus-per-trial inf is not a number of CPUs"),
        ({"engine": "ray", "device": "cuda", "gpus_per_trial": 0.0}, r"asks for a GPU and for none"),
    ],
)
def test_flags_that_contradict_each_other_are_errors(given: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        check_engine(Config(**given))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("10.0.0.1", r"--address '10.0.0.1' is not an address; give auto, HOST:PORT or ray://HOST:PORT"),
        ("http://host:6379", r"--address 'http://host:6379' is not an address"),
        ("127.0.0.1:PORT", r"--address 127.0.0.1:\d+: nothing answers there \(.*refused\)\. .*ray start --head"),
        ("ray://127.0.0.1:PORT", r"--address ray://127.0.0.1:\d+: nothing answers there"),
    ],
)
def test_an_unreachable_address_is_an_error(address: str, message: str):
    with pytest.raises(UsageError, match=message):
        start_executor(address=address.replace("PORT", str(free_port())))


def test_without_ray_the_message_says_what_to_type(tmp_path: Path):
    program = "import sys; sys.modules['ray'] = None; from search.cli.main import main; main()"
    words = ("--objective", "toy:Toy", "--engine", "ray")
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    message = '--engine ray needs Ray, which is not installed; type: pip install -c constraints.txt -e ".[ray]"'
    assert (done.returncode, done.stderr) == (2, f"Error: {message}\n")


def test_modules_that_are_not_installed_are_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "single.py").touch()
    (tmp_path / "package" / "inner").mkdir(parents=True)
    (tmp_path / "package" / "__init__.py").touch()
    worker = Path(__file__).parents[2] / "objectives"
    assert modules_to_ship(ObjectiveSpec("single:Made")) == [str(worker), str(tmp_path / "single.py")]
    assert modules_to_ship(ObjectiveSpec("package.inner:Made")) == [str(worker), str(tmp_path / "package")]
    assert modules_to_ship(ObjectiveSpec("objectives.images:ImageClassification")) == [str(worker)]
    assert modules_to_ship(ObjectiveSpec("torch.nn:Module")) == [str(worker)]


def test_a_training_from_arrays_alone_is_the_same():
    """An actor has its arrays in memory that it must not write to."""
    whole = ImageClassification("digits", metric="log_loss")
    buffers: list[pickle.PickleBuffer] = []
    packed = pickle.dumps(dict(whole.portable()), protocol=5, buffer_callback=buffers.append)
    assert len(packed) < 5_000 < sum(buffer.raw().nbytes for buffer in buffers)  # no array is copied into the rest
    options = pickle.loads(packed, buffers=[bytes(buffer.raw()) for buffer in buffers])
    assert not options["data"].images.flags.writeable
    lean: Any = ObjectiveSpec("objectives.images:ImageClassification", options).load()
    assert (lean.fingerprint(), lean.metric) == (whole.fingerprint(), whole.metric)
    one = Task(0, whole.baselines()["tutorial MLP, Adam"], seed=3, epochs=1)
    results = [next(objective.start(one, "cpu")) for objective in (whole, lean)]
    whole_figures, lean_figures = (dict(result.metrics) for result in results)
    for timing in ("seconds", "images_per_s"):
        del whole_figures[timing], lean_figures[timing]
    assert lean_figures == whole_figures


# A real Ray, on this machine ----------------------------------------------------------------------------------------


@pytest.mark.long
def test_actors_are_replaced_and_their_number_follows_the_demand(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(actors, "IDLE_S", 1.0)
    notices: list[str] = []
    with closing(start_executor(3, notices, demand=9)) as executor:
        executor.ready()
        monkeypatch.setattr(actors, "MISSING_NOTICE_S", 2.0)
        missing = (
            f"2 of 3 workers are set up; the others start or wait for room: each needs {CORES / 2:g} CPU, and the "
            f"cluster has {CORES} CPU in all"
        )
        wait_for(executor, lambda: missing in notices)  # the third has no room
        assert executor.available() == [0, 1]
        executor.set_demand(2)
        wait_for(executor, lambda: len(executor._actors) == 2)
        assert executor.available() == [0, 1]  # the one without room went
        executor.start(0, task(mode="kill@1"))
        assert isinstance(hear(executor), EpochDone)
        executor.advance(0)
        lost = hear(executor)
        assert isinstance(lost, Lost)
        assert lost.may_be_task
        assert lost.reason.splitlines()[-2:] == ["one line before the last", "the very last line"]
        wait_for(executor, lambda: executor.available() == [0, 1])
        os.kill(executor._actors[0].location.pid, signal.SIGKILL)  # type: ignore[union-attr]
        time.sleep(1)
        executor.start(0, task())
        lost = hear(executor)
        assert isinstance(lost, Lost)
        assert not lost.may_be_task  # the task never reached it
        wait_for(executor, lambda: executor.available() == [0, 1])
        assert len(train(executor, task())[0]) == 4
        executor.set_demand(1)
        wait_for(executor, lambda: len(executor.available()) == 1)
        executor.set_demand(2)
        wait_for(executor, lambda: len(executor.available()) == 2)
        assert len(train(executor, task())[0]) == 4


def wait_for(executor: RayExecutor, condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert executor.wait(0.1) == []
        assert time.monotonic() < deadline


@pytest.mark.long
@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"cpus": CORES + 1.0}, UsageError, r"a worker with \d+ CPU has no room on this machine, which has \d+ CPU"),
        ({"device": "mps"}, DeviceError, r"--device mps: this machine has no Metal GPU"),
        ({"objective": ObjectiveSpec("toy:Nothing")}, ObjectiveError, r"--objective 'toy:Nothing' cannot be made"),
        ({"objective": ObjectiveSpec("rude:Rude")}, SearchError, r"(?s)workers do not start: .*no, thank you"),
    ],
    ids=["no room", "no device", "no objective", "no start"],
)
def test_workers_that_cannot_start_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], error: type[Exception], message: str
):
    (tmp_path / "rude.py").write_text("import os\nprint('no, thank you', flush=True)\nos._exit(7)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([environment()["PYTHONPATH"], str(tmp_path)]))
    with pytest.raises(error, match=message), closing(start_executor(**more)) as executor:
        executor.ready()


@pytest.mark.long
def test_a_node_that_cannot_train_is_reported_once_and_ends_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A worker is set up only if it finds a file, which it removes; else the import of the objective fails."""
    monkeypatch.setattr(actors, "RETRY_S", 1.0)
    monkeypatch.setattr(actors, "MAX_FAILED_STARTS", 30)
    (files := tmp_path / "files").mkdir()
    (tmp_path / "picky.py").write_text(
        f"import pathlib, toy\nfound = sorted(pathlib.Path({str(files)!r}).iterdir())\n"
        "if not found: raise ImportError('no such package here')\nfound[0].unlink()\nPicky = toy.Toy\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([environment()["PYTHONPATH"], str(tmp_path)]))
    notices: list[str] = []
    with closing(start_executor(2, notices, objective=ObjectiveSpec("picky:Picky"))) as executor:
        wait_for(executor, lambda: any("did not start" in text for text in notices))
        assert executor.available() == []
        for name in "ab":
            (files / name).touch()
        wait_for(executor, lambda: len(executor.available()) == 2)
        monkeypatch.setattr(actors, "MAX_FAILED_STARTS", 3)
        lose(executor, 1)
        until = time.monotonic() + 8  # more tries than are allowed where nothing works
        wait_for(executor, lambda: time.monotonic() > until)
        assert executor.available() == [0]
        assert len(train(executor, task())[0]) == 4
        lose(executor, 0)
        (files / "c").touch()
        wait_for(executor, lambda: len(executor.available()) == 1)
    (text,) = (text for text in notices if "workers are set up" not in text)
    assert re.match(r"a worker did not start on \S+, and is tried again: --objective .*no such package here", text)


def lose(executor: RayExecutor, slot: int) -> None:
    os.kill(executor._actors[slot].location.pid, signal.SIGKILL)  # type: ignore[union-attr]
    executor.start(slot, task())
    assert isinstance(hear(executor, slot), Lost)
