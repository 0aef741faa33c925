"""How many workers share a GPU, and which GPU each uses. The workers here are fakes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path

import pytest

from objectives.base import DeviceError, Task
from objectives.devices import assign_device
from objectives.spec import ObjectiveSpec
from objectives.worker.messages import SpeedMeasured, WorkerReady, WorkerSettings
from search.executors import local, mps
from search.executors.gpu_sharing import choose_workers, fit_memory, joint_rate, max_workers
from search.executors.local import LocalExecutor

GIB = 2**30
TOY = ObjectiveSpec("toy:Toy")
TASK = Task(0, {}, seed=0, epochs=1)


@pytest.fixture(autouse=True)
def no_nvidia_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(mps, "n_nvidia_gpus", lambda: 0)


@pytest.mark.parametrize(
    ("rates", "most", "step", "chosen", "why"),
    [
        ({1: 10, 2: 20, 4: 39, 8: 60}, 8, 1, 8, "as many as cores and memory allow"),
        ({1: 10, 2: 19, 4: 20}, 8, 1, 2, "4 were 1.05 times as fast"),
        ({1: 10, 2: 8}, 8, 1, 1, "2 were 0.80 times as fast"),
        ({1: 10, 2: 20, 4: 30, 6: 40}, 6, 1, 6, "as many as cores and memory allow"),
        ({1: 10, 2: 20, 4: 30, 6: 31}, 6, 1, 4, "6 were 1.03 times as fast"),
        ({2: 20, 4: 38, 8: 39}, 16, 2, 4, "8 were 1.03 times as fast"),
        ({1: 10, 2: 0}, 8, 1, 1, "2 were 0.00 times as fast"),
        ({1: 0, 2: 0}, 8, 1, 1, "the measurement failed"),
        ({1: 5}, 1, 1, 1, "as many as cores and memory allow"),
        ({2: 1.8}, 8, 2, 2, "more were not tried: a step takes longer than a second"),
    ],
)
def test_workers_are_added_as_long_as_training_becomes_faster(
    rates: dict[int, float], most: int, step: int, chosen: int, why: str
):
    assert choose_workers(rates.__getitem__, most, step=step) == (chosen, why)


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


@dataclass
class Machine:
    """A machine with GPUs, for fake workers."""

    cores: int
    gpus: int
    free_bytes: int
    useful: int
    """Number of workers on a GPU up to which training becomes faster."""
    ended: int = 0

    def worker(self, settings: WorkerSettings, variables: Mapping[str, str]) -> FakeWorker:
        return FakeWorker(self, settings)


class FakeWorker:
    """Answers like a worker process."""

    def __init__(self, machine: Machine, settings: WorkerSettings) -> None:
        self.machine, self.settings = machine, settings
        self.ready: WorkerReady | None = None
        self.connection, self._theirs = Pipe()
        device = assign_device(settings.device, settings.index, machine.gpus)
        gpus = 1 if ":" in settings.device else machine.gpus
        self._theirs.send(WorkerReady(device, gpus, machine.free_bytes))

    def send(self, message: tuple[object, ...]) -> None:
        assert message[0] == "measure_speed"
        gpus = 1 if ":" in self.settings.device else self.machine.gpus
        useful = self.settings.index < self.machine.useful * gpus
        pulls = 20 if useful else 1
        self._theirs.send(SpeedMeasured(0.0, tuple((pull + 1) / pulls for pull in range(pulls)), ("it is noted",)))

    def end(self) -> None:
        self.machine.ended += 1
        self.connection.close()

    def reap(self, timeout_s: float) -> None:
        pass


@pytest.mark.parametrize(
    ("machine", "device", "started", "kept", "devices"),
    [
        (Machine(16, 1, 70 * GIB, 8), "auto", 8, 8, "cuda:0"),
        (Machine(16, 1, 70 * GIB, 2), "auto", 8, 2, "cuda:0"),
        (Machine(16, 1, 3 * GIB, 8), "auto", 8, 3, "cuda:0"),
        (Machine(4, 1, 70 * GIB, 8), "auto", 4, 4, "cuda:0"),
        (Machine(64, 4, 70 * GIB, 2), "cuda", 32, 8, "cuda:0, cuda:1, cuda:2, cuda:3"),
        (Machine(64, 4, 0, 8), "auto", 32, 4, "cuda:0, cuda:1, cuda:2, cuda:3"),
        (Machine(2, 4, 70 * GIB, 8), "auto", 4, 4, "cuda:0, cuda:1, cuda:2, cuda:3"),
        (Machine(64, 4, 70 * GIB, 4), "cuda:2", 8, 4, "cuda:2"),
    ],
)
def test_gpus_keep_the_workers_that_make_training_faster(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, device: str, started: int, kept: int, devices: str
):
    monkeypatch.setattr(local, "usable_cores", lambda: machine.cores)
    monkeypatch.setattr(local, "WorkerProcess", machine.worker)
    executor = LocalExecutor(TOY, device, None)
    assert len(executor.ready()) == started
    chosen = executor.tune_workers(TASK)
    assert chosen is not None
    assert re.fullmatch(rf"{kept} workers on {devices} \(.*\)\nit is noted", chosen)
    assert executor.slots == kept
    assert machine.ended == started - kept
    executor.close()
    assert machine.ended == started


@pytest.mark.parametrize(
    ("gpus", "useful", "said"),
    [
        (1, 8, "8 workers on cuda:0 through CUDA MPS (as many as cores and memory allow)\nit is noted"),
        (1, 1, "1 worker on cuda:0 through CUDA MPS (2 were 1.05 times as fast)\nit is noted"),
        (2, 2, "4 workers on cuda:0, cuda:1 through CUDA MPS (8 were 1.05 times as fast)\nit is noted"),
    ],
)
def test_nvidia_gpus_are_shared_through_mps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: int, useful: int, said: str
):
    machine = Machine(16, gpus, 70 * GIB, useful)
    monkeypatch.setattr(mps, "n_nvidia_gpus", lambda: gpus)
    (tmp_path / "control").touch()
    monkeypatch.setenv(mps.PIPES, str(tmp_path))
    monkeypatch.setattr(mps, "CLIENT", "")
    monkeypatch.setattr(local, "usable_cores", lambda: machine.cores)
    monkeypatch.setattr(local, "WorkerProcess", machine.worker)
    with closing(LocalExecutor(TOY, "auto", None)) as executor:
        assert len(executor.ready()) == 8 * gpus
        assert executor.tune_workers(TASK) == said


@pytest.mark.parametrize(
    ("gpus", "jobs", "started"),
    [(1, None, "1 worker on cuda:0"), (2, None, "2 workers on cuda:0, cuda:1"), (1, 4, "4 workers on cuda:0")],
)
def test_without_mps_an_nvidia_gpu_has_one_worker_unless_more_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: int, jobs: int | None, started: str
):
    """Nothing is measured: more would only take turns."""
    machine = Machine(16, gpus, 70 * GIB, 8)
    monkeypatch.setattr(mps, "n_nvidia_gpus", lambda: gpus)
    monkeypatch.setattr(mps, "FOLDERS", ())
    monkeypatch.setattr(mps, "DEFAULT_PIPES", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(mps.PIPES, raising=False)
    monkeypatch.setattr(local, "usable_cores", lambda: machine.cores)
    monkeypatch.setattr(local, "WorkerProcess", machine.worker)
    with closing(LocalExecutor(TOY, "auto", jobs)) as executor:
        executor.ready()
        why = "without CUDA MPS several workers only take turns on a GPU: nvidia-cuda-mps-control is not installed"
        assert executor.tune_workers(TASK) == f"{started} ({why})"
    assert machine.ended == int(started[0])


def test_a_given_number_of_workers_is_not_measured(monkeypatch: pytest.MonkeyPatch):
    machine = Machine(16, 2, 70 * GIB, 1)
    monkeypatch.setattr(local, "WorkerProcess", machine.worker)
    executor = LocalExecutor(TOY, "auto", 3)
    assert executor.ready() == ["cuda:0", "cuda:1", "cuda:0"]
    assert executor.tune_workers(TASK) is None
    assert executor.slots == 3
    executor.close()


def test_the_workers_to_keep_are_limited_by_memory():
    assert [fit_memory(8, free) for free in (0, GIB, 3 * GIB, 70 * GIB)] == [1, 1, 3, 8]


def test_the_rate_counts_only_the_time_in_which_all_workers_train():
    early = (0.0, [1.0, 2.0, 3.0, 4.0, 5.0])
    late = (2.5, [4.0, 5.5, 7.0])
    assert joint_rate([early]) == 1.0
    assert joint_rate([early, late]) == (3 + 1) / 2.5
    assert joint_rate([late, early]) == (3 + 1) / 2.5


def test_workers_that_never_trained_together_have_no_rate():
    assert joint_rate([(0.0, [1.0]), (2.0, [3.0])]) == 0
    assert joint_rate([(0.0, [])]) == 0
