"""A tracking server that hangs, dies, comes back, or was never there: no trial waits for it, no point is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import BOWL, PLAIN, Place, say, wait_until
from shell import environment, rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WITHOUT_A_SERVER_S = 5.0
"""What a training may stand still where cores are shared (1.9 s were seen); one that waits for its server takes 12."""


class Server:
    """A real `mlflow server` that can be stopped and started again at the same address."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder, self.database = folder, database
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--backend-store-uri", f"sqlite:///{self.database}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.txt").open("ab") as output:
            self.process = subprocess.Popen(
                command,
                env=environment(variables),
                cwd=self.folder,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        wait_until(self.answers, 90, "the server's start")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def signal(self, number: int) -> None:
        """To the server and its workers."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def stop(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, fresh_mlflow: Path) -> Iterator[Server]:
    """Not started yet."""
    folder = tmp_path_factory.mktemp("server")
    database = folder / "mlflow.db"
    database.write_bytes(fresh_mlflow.read_bytes())
    server = Server(folder, database)
    yield server
    server.stop()


@pytest.mark.long
def test_absent_for_the_whole_search(make_place: Callable[..., Place], server: Server, folder: Path):
    place = make_place(folder, mlflow=server.database)
    pictures = make_place(folder.with_name("digits"), study="digits", curve="val/accuracy", mlflow=server.database)
    search = (*BOWL, "--trials", 30, "--jobs", 2, "--tracking-uri", server.url)
    classify = ("--dataset", "digits", "--epochs", 1, "--trials", 4, "--jobs", 2, "--tracking-uri", server.url, *PLAIN)
    said = place.finish(*search)
    assert "tracking is out of reach" in said
    assert "tracking writes wait in" in said
    assert "the winner is not registered yet" in pictures.finish(*classify)
    waited = place.longest_wait_s()
    say(f"30 trials without a server; no step waited longer than {waited:.2f} s; registered nothing")
    assert place.finished() == 30
    assert waited < WITHOUT_A_SERVER_S

    server.start()
    say(place.finish("sync", "--tracking-uri", server.url).strip())
    place.assert_whole(30)
    assert "registered: digits version 1" in pictures.finish("promote", "digits", "--tracking-uri", server.url)
    pictures.assert_whole(4)
    versions = rows(server.database, "SELECT name, version, status FROM model_versions")
    say(f"registered after the server's first start: {versions}")
    assert versions == [("digits", 1, "READY")]


@pytest.mark.long
def test_stopped_for_a_part_of_the_search(make_place: Callable[..., Place], server: Server, folder: Path):
    if server.process is None:
        server.start()
    place = make_place(folder, study="partly", mlflow=server.database, env={"BOWL_STEP_S": "0.2"})
    search = (*BOWL, "--study", "partly", "--trials", 80, "--jobs", 2, "--tracking-uri", server.url)
    process = place.begin(*search)
    place.until_training(process)
    time.sleep(2)
    server.signal(signal.SIGSTOP)  # it takes connections and answers nothing
    frozen_at = place.finished()
    time.sleep(12)
    server.signal(signal.SIGCONT)
    time.sleep(2)
    server.stop()
    dead_at = place.finished()
    time.sleep(4)
    server.start()
    back_at = place.finished()
    assert place.ended(process) == 0, place.said()
    waited = place.longest_wait_s()
    say(f"server frozen at {frozen_at} trials, dead at {dead_at}, back at {back_at}; longest wait {waited:.2f} s")
    assert frozen_at < dead_at < back_at
    assert "tracking writes wait in" not in place.said()
    place.assert_whole(80)
    assert waited < WITHOUT_A_SERVER_S
