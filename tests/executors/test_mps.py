"""CUDA MPS: when a daemon is started, who is told of it, and that it ends. The daemon here is a small program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import mps_daemon
import pytest
from shell import alive, environment, variables_of, wait_until

from objectives.spec import ObjectiveSpec
from search.executors import mps
from search.executors.local import LocalExecutor
from search.executors.mps import CONTROL, PIPES, WITHOUT_MPS, Mps

TOY = ObjectiveSpec("toy:Toy")


class Machine:
    """A machine with two NVIDIA GPUs and the program."""

    def __init__(self, folder: Path) -> None:
        self.record = mps_daemon.install(folder)

    @property
    def daemon(self) -> dict[str, Any] | None:
        """What the daemon that was started last wrote; None if none was."""
        return json.loads(self.record.read_text()) if self.record.exists() else None

    def assert_nothing_is_left(self) -> None:
        assert self.daemon is not None
        assert not alive(self.daemon["pid"])
        assert not Path(self.daemon["environment"][PIPES]).exists()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name in (PIPES, "CUDA_MPS_LOG_DIRECTORY", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(mps, "n_nvidia_gpus", lambda: 2)
    monkeypatch.setattr(mps, "DEFAULT_PIPES", str(tmp_path / "default"))
    monkeypatch.setattr(mps, "CLIENT", "import os; assert os.environ['CUDA_MPS_PIPE_DIRECTORY']")  # needs no GPU
    made = Machine(tmp_path / "bin")
    yield made
    if made.daemon is not None:
        made.assert_nothing_is_left()


def test_only_workers_are_told_of_a_daemon_which_ends_with_the_executor(machine: Machine):
    with closing(LocalExecutor(TOY, "auto", jobs=3)) as executor:
        assert machine.daemon is not None
        assert alive(machine.daemon["pid"])
        for worker in executor._workers:
            seen = variables_of(worker.process.pid)
            assert seen[PIPES] == seen["CUDA_MPS_LOG_DIRECTORY"] == machine.daemon["environment"][PIPES]
        assert PIPES not in os.environ
    machine.assert_nothing_is_left()
    executor.close()


@pytest.mark.parametrize(
    ("device", "jobs", "visible", "started"),
    [
        ("auto", None, None, True),
        ("cuda", 3, None, True),
        ("cuda:1", 2, None, True),
        ("auto", 2, "1", True),
        ("auto", 2, None, False),
        ("cuda:1", 1, None, False),
        ("auto", 1, None, False),
        ("cpu", 8, None, False),
        ("mps", 8, None, False),
        ("auto", None, "", False),
        ("auto", None, "-1", False),
    ],
)
def test_a_daemon_is_started_only_where_workers_share_a_gpu(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, device: str, jobs: int | None, visible: str | None, started: bool
):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with closing(Mps(device, jobs)) as sharing:
        assert (sharing.is_on, sharing.problem) == (started, None)
        assert (machine.daemon is not None) == started == bool(sharing.variables)


def test_no_daemon_is_started_without_an_nvidia_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mps, "n_nvidia_gpus", lambda: 0)
    sharing = Mps("auto", None)
    assert (sharing.is_on, sharing.problem, machine.daemon) == (False, None, None)


@pytest.mark.slow
def test_a_daemon_ends_where_torch_can_use_no_gpu(machine: Machine):
    with closing(LocalExecutor(TOY, "auto", jobs=3)) as executor:
        assert executor.ready() == ["cpu"] * 3
        machine.assert_nothing_is_left()


@pytest.fixture(params=["variable", "default folder"])
def folder_of_user(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a daemon that somebody else started."""
    folder = Path(mps.DEFAULT_PIPES)
    if request.param == "variable":
        folder = tmp_path / "mps"
        monkeypatch.setenv(PIPES, str(folder))
    folder.mkdir()
    (folder / "control").touch()
    return folder


def test_a_daemon_of_the_user_is_used(machine: Machine, monkeypatch: pytest.MonkeyPatch, folder_of_user: Path):
    monkeypatch.setattr(mps, "CLIENT", "")
    sharing = Mps("auto", None)
    assert (sharing.is_on, sharing.variables, machine.daemon) == (True, {}, None)
    sharing.close()


def test_a_daemon_of_the_user_that_serves_nobody_is_not_used(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, folder_of_user: Path
):
    monkeypatch.setattr(mps, "CLIENT", "raise SystemExit('a client gets CUDA error 805')")
    sharing = Mps("auto", None)
    assert (
        sharing.problem == f"{folder_of_user} should be the folder of an MPS daemon, but a client gets CUDA error 805"
    )
    assert (sharing.is_on, sharing.variables, machine.daemon) == (False, WITHOUT_MPS, None)


def test_a_variable_that_names_no_daemon_is_said(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(PIPES, "/nonexistent")
    sharing = Mps("auto", 3)
    assert sharing.problem == "/nonexistent should be the folder of an MPS daemon, but none runs there"
    assert (sharing.is_on, machine.daemon) == (False, None)


@pytest.mark.parametrize(("visible", "kept"), [("1", None), ("GPU-5f3c,GPU-77aa", "GPU-5f3c,GPU-77aa")])
def test_the_daemon_numbers_no_gpu_anew(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, visible: str, kept: str | None
):
    """A worker keeps its value. If the daemon had the number 1 as well, it would offer that GPU under the number 0."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with closing(Mps("auto", None)) as sharing:
        assert machine.daemon is not None
        assert machine.daemon["environment"].get("CUDA_VISIBLE_DEVICES") == kept
        assert "CUDA_VISIBLE_DEVICES" not in sharing.variables


def test_without_the_program_the_reason_is_said(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(mps, "FOLDERS", ())
    sharing = Mps("auto", None)
    assert (sharing.is_on, sharing.problem) == (False, f"{CONTROL} is not installed")


def test_the_program_is_also_found_where_containers_have_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(mps, "FOLDERS", (os.environ["PATH"].partition(":")[0], "/usr/bin", "/bin"))
    monkeypatch.delenv("PATH")
    with closing(Mps("auto", None)) as sharing:
        assert sharing.is_on


def test_a_daemon_that_does_not_start_leaves_its_reason_and_nothing_else(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MPS_FAULT", "start")
    before = set(Path("/tmp").glob("search-mps-*"))
    sharing = Mps("auto", None)
    assert sharing.problem == f"{CONTROL} does not start: An instance of this daemon is already running"
    assert (sharing.is_on, sharing.variables) == (False, {})
    assert set(Path("/tmp").glob("search-mps-*")) <= before


def test_a_daemon_that_serves_nobody_is_ended(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mps, "CLIENT", "raise SystemExit('a client gets CUDA error 805')")
    sharing = Mps("auto", None)
    assert sharing.problem == f"{CONTROL} runs, but a client gets CUDA error 805"
    assert (sharing.is_on, sharing.variables) == (False, {})
    machine.assert_nothing_is_left()


def test_a_daemon_that_does_not_quit_is_killed(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MPS_FAULT", "quit")
    sharing = Mps("auto", None)
    assert sharing.is_on
    sharing.close()
    machine.assert_nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_daemon_ends_although_its_supervisor_gets_a_signal(machine: Machine, number: signal.Signals):
    with closing(Mps("auto", None)) as sharing:
        supervisor, daemon = sharing._supervisor, machine.daemon
        assert supervisor is not None
        assert daemon is not None
        supervisor.send_signal(number)
        supervisor.wait(10)
        if number == signal.SIGKILL:
            sharing.close()
        wait_until(lambda: not alive(daemon["pid"]), 5, "the end of the daemon")
        machine.assert_nothing_is_left()


def test_ctrl_c_during_the_start_leaves_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mps, "CLIENT", "import time; time.sleep(9)")
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(KeyboardInterrupt, match="^$"):
            Mps("auto", None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    machine.assert_nothing_is_left()


def test_a_supervisor_that_cannot_start_leaves_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # without `sh`
    before = set(Path("/tmp").glob("search-mps-*"))
    sharing = Mps("auto", None)
    assert str(sharing.problem).startswith(f"{CONTROL} cannot be used: [Errno 2]")
    assert set(Path("/tmp").glob("search-mps-*")) <= before


def test_workers_that_cannot_be_started_leave_no_daemon(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError("too many processes")

    monkeypatch.setattr("search.executors.local.WorkerProcess", refuse)
    with pytest.raises(OSError, match="too many processes"):
        LocalExecutor(TOY, "auto", jobs=3)
    machine.assert_nothing_is_left()


def test_the_daemon_ends_when_its_coordinator_is_killed(machine: Machine):
    program = """
        import time
        from search.executors import mps

        mps.n_nvidia_gpus, mps.CLIENT = lambda: 2, ""
        sharing = mps.Mps("auto", None)
        print(sharing.is_on, flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    coordinator = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert coordinator.stdout is not None
        assert coordinator.stdout.readline() == "True\n"
        daemon = machine.daemon
        assert daemon is not None
        assert alive(daemon["pid"])
        coordinator.kill()
        wait_until(lambda: not alive(daemon["pid"]), 10, "the end of the daemon")
        wait_until(lambda: not Path(daemon["environment"][PIPES]).exists(), 10, "the end of its folder")
    finally:
        coordinator.kill()
        coordinator.communicate()
