"""How many workers share a GPU, and which GPU each uses. The workers here are fakes."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from objectives.base import DeviceError, EpochResult, Outcome, Task
from objectives.devices import assign_device
from objectives.spec import ObjectiveSpec
from objectives.worker.messages import EpochDone, Failed, Finished, Reply, WorkerReady, WorkerSettings
from search.executors import local, mps
from search.executors.gpu_sharing import max_workers
from search.executors.local import LocalExecutor

GIB = 2**30
TOY = ObjectiveSpec("toy:Toy")
MOST = "as many as cores and memory allow"


@pytest.fixture(autouse=True)
def no_nvidia_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(mps, "n_nvidia_gpus", lambda: 0)


@pytest.mark.parametrize(
    ("cores", "gpus", "workers"),
    [(2, 0, 2), (64, 0, 64), (64, 1, 8), (4, 1, 4), (64, 4, 32), (2, 4, 4)],
)
def test_the_workers_to_start_are_limited_by_cores_and_gpus(cores: int, gpus: int, workers: int):
    assert max_workers(cores, gpus) == workers


@pytest.mark.parametrize(
    ("wanted", "gpus", "devices"),
    [
        ("auto", 0, ["cpu"] * 4),
        ("auto", 1, ["cuda:0"] * 4),
        ("auto", 3, ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]),
        ("cuda", 2, ["cuda:0", "cuda:1"] * 2),
        ("cuda:1", 2, ["cuda:1"] * 4),
        ("cpu", 2, ["cpu"] * 4),
        ("mps", 0, ["mps"] * 4),
    ],
)
def test_workers_are_spread_over_all_gpus(wanted: str, gpus: int, devices: list[str]):
    assert [assign_device(wanted, index, gpus) for index in range(4)] == devices


@pytest.mark.parametrize(("wanted", "gpus"), [("cuda", 0), ("cuda:2", 2)])
def test_a_missing_gpu_is_an_error(wanted: str, gpus: int):
    with pytest.raises(DeviceError, match=rf"--device {wanted}: this machine offers {gpus} CUDA devices; type"):
        assign_device(wanted, 0, gpus)


def task(useful: int = 8, pulls_per_s: float = 30) -> Task:
    """`useful`: number of workers on a GPU up to which training becomes faster. `pulls_per_s`: those of one."""
    return Task(0, {"useful": useful, "pulls_per_s": pulls_per_s}, seed=0, epochs=16)


@dataclass
class Machine:
    """A machine with GPUs and a clock of its own, for fake workers."""

    cores: int = 16
    gpus: int = 1
    free_bytes: int = 70 * GIB
    room: int = 99
    """Number of workers that train together before memory runs out."""
    ended: int = 0
    now: float = 0.0
    training: set[int] = field(default_factory=set)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local, "usable_cores", lambda: self.cores)
        monkeypatch.setattr(local, "WorkerProcess", lambda settings, variables: FakeWorker(self, settings))
        monkeypatch.setattr(local, "time", SimpleNamespace(monotonic=lambda: self.now))


class FakeWorker:
    """Answers like a worker process. Its epochs have four steps."""

    def __init__(self, machine: Machine, settings: WorkerSettings) -> None:
        self.machine, self.settings = machine, settings
        self.ready: WorkerReady | None = None
        self.connection, self._theirs = Pipe()
        device = assign_device(settings.device, settings.index, machine.gpus)
        self.gpus = 1 if ":" in settings.device else machine.gpus
        self._theirs.send(WorkerReady(device, self.gpus, machine.free_bytes))

    def send(self, message: tuple[Any, ...]) -> None:
        machine, training = self.machine, self.machine.training
        training.add(self.settings.index)
        if message[0] == "start":
            self.params, self.step = message[1].params, 0
        reply: Reply = Finished(Outcome())
        if len(training) > machine.room:
            reply = Failed("out_of_memory", "")
        elif message[0] != "stop":
            self.step += 1
            machine.now += 1 / (self.params["pulls_per_s"] * min(len(training), self.params["useful"] * self.gpus))
            reply = EpochDone(EpochResult(self.step, self.step / 4, None, {}, 0.0, "it is noted"))
        if not isinstance(reply, EpochDone):
            training.remove(self.settings.index)
        self._theirs.send(reply)

    def end(self) -> None:
        self.machine.ended += 1
        self.connection.close()

    def reap(self, timeout_s: float) -> None:
        pass


@pytest.mark.parametrize(
    ("machine", "device", "tasks", "started", "said"),
    [
        (Machine(), "auto", [task(8), task(8)], 8, f"8 workers on cuda:0 ({MOST})\nit is noted"),
        (Machine(), "auto", [task(8), task(4)], 8, f"8 workers on cuda:0 ({MOST})\nit is noted"),
        (Machine(), "auto", [task(4), task(2)], 8, "4 workers on cuda:0 (8 were "),
        (Machine(), "auto", [task(1), task(1)], 8, "2 workers on cuda:0 (4 were "),
        (Machine(), "auto", [task(8, 0.5)], 8, "2 workers on cuda:0 (more were not tried: a step takes longer than"),
        (Machine(cores=3), "auto", [task(8)], 3, f"3 workers on cuda:0 ({MOST})\nit is noted"),
        (Machine(free_bytes=9 * GIB), "auto", [task(8)], 8, f"3 workers on cuda:0 ({MOST})\nit is noted"),
        (Machine(free_bytes=0), "auto", [task(8)], 8, f"1 worker on cuda:0 ({MOST})"),
        (Machine(room=7), "auto", [task(8)], 8, "4 workers on cuda:0 (8 failed when they were measured)"),
        (Machine(room=1), "auto", [task(8)], 8, "1 worker on cuda:0 (2 failed when they were measured)"),
        (Machine(64, 2), "cuda", [task(2)], 16, "4 workers on cuda:0, cuda:1 (8 were "),
        (Machine(2, 4), "auto", [task(8)], 4, f"4 workers on cuda:0, cuda:1, cuda:2, cuda:3 ({MOST})"),
        (Machine(64, 4), "cuda:2", [task(8)], 8, f"8 workers on cuda:2 ({MOST})\nit is noted"),
        (Machine(8), "mps", [task(4)], 8, "4 workers on mps (8 were "),
    ],
)
def test_gpus_keep_the_workers_that_make_training_faster(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, device: str, tasks: list[Task], started: int, said: str
):
    machine.install(monkeypatch)
    executor = LocalExecutor(TOY, device, None)
    assert len(executor.ready()) == started
    chosen = executor.tune_workers(tasks)
    assert chosen is not None
    assert chosen.startswith(said)
    assert executor.slots == int(said[0])
    assert machine.ended == started - executor.slots
    executor.close()
    assert machine.ended == started


@pytest.mark.parametrize(
    ("pulls_per_s", "seconds", "pulls"),
    [(30, 0.2, 8), (5, 0.2, 4), (1, 0.2, 2), (0.1, 0.2, 1), (30, 0.0, 1)],
    ids=["whole epochs", "one epoch", "at most ten times as long", "a slow step", "warming up"],
)
def test_whole_epochs_are_measured_where_that_takes_little_time(
    monkeypatch: pytest.MonkeyPatch, pulls_per_s: float, seconds: float, pulls: int
):
    machine = Machine()
    machine.install(monkeypatch)
    with closing(LocalExecutor(TOY, "auto", None)) as executor:
        executor.ready()
        assert executor.measure_rate(1, task(8, pulls_per_s), seconds) == pytest.approx(pulls_per_s)
    assert machine.now == pytest.approx(pulls / pulls_per_s)


def test_nvidia_gpus_are_shared_through_mps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    Machine(gpus=2).install(monkeypatch)
    monkeypatch.setattr(mps, "n_nvidia_gpus", lambda: 2)
    (tmp_path / "control").touch()
    monkeypatch.setenv(mps.PIPES, str(tmp_path))
    monkeypatch.setattr(mps, "CLIENT", "")
    with closing(LocalExecutor(TOY, "auto", None)) as executor:
        executor.ready()
        said = f"16 workers on cuda:0, cuda:1 through CUDA MPS ({MOST})\nit is noted"
        assert executor.tune_workers([task(8)]) == said


@pytest.mark.parametrize(
    ("gpus", "free", "jobs", "kept"),
    [
        (1, 70, None, "2 workers on cuda:0"),
        (2, 70, None, "4 workers on cuda:0, cuda:1"),
        (1, 1, None, "1 worker on cuda:0"),
        (1, 1, 4, "4 workers on cuda:0"),
    ],
)
def test_without_mps_an_nvidia_gpu_has_two_workers_unless_more_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: int, free: int, jobs: int | None, kept: str
):
    """Nothing is measured: more would only take turns."""
    machine = Machine(gpus=gpus, free_bytes=free * GIB)
    machine.install(monkeypatch)
    monkeypatch.setattr(mps, "n_nvidia_gpus", lambda: gpus)
    monkeypatch.setattr(mps, "FOLDERS", ())
    monkeypatch.setattr(mps, "DEFAULT_PIPES", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(mps.PIPES, raising=False)
    with closing(LocalExecutor(TOY, "auto", jobs)) as executor:
        executor.ready()
        why = "without CUDA MPS several workers only take turns on a GPU: nvidia-cuda-mps-control is not installed"
        assert executor.tune_workers([task()]) == f"{kept} ({why})"
        assert executor.slots == int(kept[0])
    assert machine.now == 0


def test_a_given_number_of_workers_is_not_measured(monkeypatch: pytest.MonkeyPatch):
    Machine(gpus=2).install(monkeypatch)
    with closing(LocalExecutor(TOY, "auto", 3)) as executor:
        assert executor.ready() == ["cuda:0", "cuda:1", "cuda:0"]
        assert executor.tune_workers([task()]) is None
        assert executor.slots == 3
