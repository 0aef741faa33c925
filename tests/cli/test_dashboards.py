"""The two servers: their links, their start and their end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import optuna
import pytest
from shell import alive, children, in_process, wait_until

from search.cli import dashboards
from search.common.config import Config
from search.common.errors import SearchError, UsageError
from search.study.storage.storage import quiet_optuna
from search.tracking import pages

UNUSABLE = Config(tracking_uri="http://127.0.0.1:9", storage="nonsense://nowhere")


def test_mlflow_link_opens_the_view_that_the_experiment_carries():
    link = dashboards.mlflow_deep_link("http://127.0.0.1:5000", "7")
    path, _, query = urlsplit(link).fragment.partition("?")
    assert path == "/experiments/7/runs"
    values = {"workflowType": ["machine_learning"], "compareRunsMode": ["CHART"], "viewStateShareKey": [pages.VIEW]}
    assert parse_qs(query) == values
    assert f"mlflow.sharedViewState.{pages.VIEW}" in pages.experiment_tags("s", "loss", maximize=False)


def test_mlflow_link_needs_no_experiment():
    assert dashboards.mlflow_deep_link("http://x", None) == "http://x/"


def test_dashboard_link():
    assert dashboards.dashboard_deep_link("http://127.0.0.1:8080", 3) == "http://127.0.0.1:8080/dashboard/studies/3"


def port_of(reservation: socket.socket) -> int:
    return int(reservation.getsockname()[1])


def test_the_next_free_port_replaces_a_taken_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with dashboards.reserve_port(port_of(taken)) as other:
            assert port_of(other) != port_of(taken)


def test_two_that_start_together_get_different_ports():
    with dashboards.reserve_port(0) as first, dashboards.reserve_port(port_of(first)) as second:
        assert port_of(first) != port_of(second)  # although no server listens yet
        port = port_of(first)
    with dashboards.reserve_port(port) as again:
        assert port_of(again) == port


@pytest.mark.parametrize("taken", [0, 1])
def test_a_port_that_is_taken_is_refused(taken: int):
    first = free_pair()
    with socket.socket() as other:
        other.bind(("127.0.0.1", first + taken))
        other.listen()
        problem = rf"--port {first}: port {first + taken} is used by another program; type another, such as --port \d+"
        with pytest.raises(UsageError, match=problem):
            dashboards.require_ports(first, 2)
    for reservation in dashboards.require_ports(first, 2):  # what was reserved first is free again
        reservation.close()


@pytest.mark.parametrize("word", ["0", "65535", "http", "-1"])
def test_a_port_that_does_not_exist_is_refused(word: str):
    result = in_process("ui", "--port", word)
    assert result.exit_code == 2
    assert "'--port'" in result.stderr


def free_pair() -> int:
    """The first of two ports in a row that are free."""
    return next(port for port in range(20_000, 30_000, 7) if not taken_of(port))


def taken_of(port: int) -> bool:
    try:
        for reservation in dashboards.require_ports(port, 2):
            reservation.close()
    except UsageError:
        return True
    return False


@pytest.mark.slow
def test_the_error_quotes_a_server_that_cannot_start():
    with pytest.raises(SearchError, match=r"(?s)optuna-dashboard ended before it was ready; it last wrote:.*nonsense"):
        dashboards.serve(UNUSABLE, 1, None, ports=(0, 0))


# Real servers ------------------------------------------------------------------------------------------------------


class Started:
    """`serve` in its own process, with the two links that it printed."""

    def __init__(self, folder: Path, tracking_uri: str) -> None:
        storage = f"sqlite:///{folder}/optuna.db"
        quiet_optuna()
        study = optuna.create_study(storage=storage, study_name="s")
        script = textwrap.dedent(f"""
            import sys
            from pathlib import Path
            from search.cli.dashboards import serve
            from search.common.config import Config
            config = Config(tracking_uri={tracking_uri!r}, storage={storage!r}, workspace=Path({str(folder)!r}))
            sys.exit(serve(config, {study._study_id}, "0", ports=(0, 0)))
        """)
        root = str(Path(__file__).parents[2])
        self.process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=root)
        assert self.process.stdout
        self.links = [self.process.stdout.readline().strip().split(": ", 1)[-1] for _ in range(2)]
        self.below = children(self.process.pid)

    def rest(self) -> str:
        return self.process.communicate(timeout=30)[0]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to count processes")
@pytest.mark.timeout(180)
def test_both_servers_answer_and_end_with_ctrl_c(tmp_path):
    started = Started(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    assert len(started.below) == 3  # mlflow and its one worker, the dashboard
    for link in started.links:
        with urllib.request.urlopen(link, timeout=20) as response:
            assert response.status == 200
    started.process.send_signal(signal.SIGINT)
    started.rest()
    assert started.process.returncode == 130
    wait_until(lambda: not any(map(alive, started.below)), 10, "the end of the servers")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to count processes")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_the_dashboard_ends_with_its_parent(tmp_path, number, status):
    started = Started(tmp_path, "http://127.0.0.1:9/")
    assert started.links[0].startswith("http://127.0.0.1:9/#/experiments/0/runs?")
    assert len(started.below) == 1
    started.process.send_signal(number)
    started.rest()
    assert started.process.returncode == status
    wait_until(lambda: not any(map(alive, started.below)), 10, "the end of the servers")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to count processes")
def test_a_server_that_dies_is_announced(tmp_path):
    started = Started(tmp_path, "http://127.0.0.1:9")
    os.kill(next(iter(started.below)), signal.SIGKILL)
    assert "optuna-dashboard ended by itself (status -9)" in started.rest()
    assert started.process.returncode == 1


@pytest.mark.slow
def test_outside_the_main_thread_there_are_no_signals():
    raised: list[str] = []

    def run() -> None:
        try:
            dashboards.serve(UNUSABLE, 1, None, ports=(0, 0))
        except SearchError as error:
            raised.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert len(raised) == 1
