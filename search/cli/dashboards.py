"""The MLflow UI and optuna-dashboard, started together on loopback and stopped together.

Each server runs in its own process group, so Ctrl-C reaches only this process. If this process is killed, the servers
end as well (see `objectives.lifeline`).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

from search.cli.dashboard_server import STORAGE_VARIABLE
from search.common.errors import SearchError
from search.common.passwords import bare, mask
from search.common.signals import Interruption
from search.common.workspace import Workspace
from search.tracking.pages import VIEW

if TYPE_CHECKING:
    from search.common.config import Config

READY_TIMEOUT_S = 60.0
GRACE_PERIOD_S = 5.0
"""Time between SIGTERM and SIGKILL."""

MLFLOW_VARIABLES = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def serve_study(config: Config, name: str | None, announce: Callable[[str], None], *, open_browser: bool) -> int:
    """Serve the pages of a study, by default of the newest, until Ctrl-C. Returns the exit status.

    Raises UsageError or StorageError if the study does not exist, SearchError if a server does not start.
    """
    from search.commands.studies import read_study
    from search.common.sqlite import MLFLOW_TABLE, check_sqlite, sqlite_file
    from search.study.records import EXPERIMENT
    from search.study.storage.storage import open_storage

    study = read_study(config, name)
    if (path := sqlite_file(config.mlflow_uri)) is not None:
        check_sqlite(path, MLFLOW_TABLE)
    study_id = open_storage(config.storage_url, create=False).get_study_id_from_name(study.name)
    experiment_id = study.attrs.get(EXPERIMENT)
    return serve(config, announce, study_id=study_id, experiment_id=experiment_id, open_browser=open_browser)


def serve(
    config: Config,
    announce: Callable[[str], None],
    *,
    study_id: int | None = None,
    experiment_id: str | None = None,
    open_browser: bool = False,
    ports: tuple[int, int] = (5000, 8080),
) -> int:
    """Start both servers, announce their links, and wait for Ctrl-C, another signal or the end of a server.

    If MLflow is tracked at an http address, only the dashboard is started. When one of `ports` is taken, a free one is
    used. Returns 130 after Ctrl-C, 143 after SIGTERM, and 1 after announcing the last lines of a server that ended.
    Raises SearchError, with the last lines of a server, when it is not ready within 60 s.
    """
    with Interruption() as interruption, interruption.graceful(), tempfile.TemporaryDirectory() as folder:
        servers: list[ServerProcess] = []
        try:
            mlflow_url = config.mlflow_uri
            if not mlflow_url.startswith(("http://", "https://")):
                servers.append(_start_mlflow(Path(folder), config, free_port(ports[0])))
                mlflow_url = servers[0].url
            servers.append(_start_dashboard(Path(folder), config, free_port(ports[1])))
            links = mlflow_deep_link(mlflow_url, experiment_id), dashboard_deep_link(servers[-1].url, study_id)
            _wait_until_ready(servers, interruption)
            if interruption.number is None:
                announce(f"MLflow: {links[0]}\nOptuna dashboard: {links[1]}\nCtrl-C ends both.")
                for link in links if open_browser else ():
                    webbrowser.open(link)
            return _watch(servers, interruption, announce)
        finally:
            _stop(servers)


def mlflow_deep_link(base_url: str, experiment_id: str | None) -> str:
    """Return the address of an experiment's charts, best trial first; of MLflow's home page without an experiment.

    Filter, order and columns come from the view that the experiment carries (`pages.experiment_tags`). MLflow ignores
    that view if the address names any of them. User and password are left out, because browsers ask for them.
    """
    base_url = bare(base_url).rstrip("/")
    if experiment_id is None:
        return f"{base_url}/"
    query = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={VIEW}"
    return f"{base_url}/#/experiments/{quote(experiment_id, safe='')}/runs?{query}"


def dashboard_deep_link(base_url: str, study_id: int | None) -> str:
    """Return the address of a study in optuna-dashboard; of the list of studies without one."""
    return f"{base_url}/dashboard/" + ("" if study_id is None else f"studies/{study_id}")


# Servers


@dataclass(frozen=True)
class ServerProcess:
    """One server with its child processes and its log file."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    @classmethod
    def start(
        cls, name: str, url: str, folder: Path, arguments: Sequence[str], variables: Mapping[str, str]
    ) -> ServerProcess:
        """Run `search.cli.dashboard_server` in a new process group, with more environment variables."""
        log = (folder / f"{name}.log").open("w+b")
        process = subprocess.Popen(
            [sys.executable, "-m", "search.cli.dashboard_server", *arguments],
            stdin=subprocess.PIPE,  # the server ends when this pipe closes
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
            start_new_session=True,
        )
        return cls(name, url, process, log)

    def last_lines(self, count: int = 12) -> str:
        """Return the end of the log, indented."""
        self.log.seek(0)
        lines = mask(self.log.read().decode(errors="replace")).splitlines()[-count:]
        return "\n".join(f"    {line}" for line in lines) or "    (it wrote nothing)"

    def answers(self) -> bool:
        """Return whether the server answers now. optuna-dashboard redirects to its page."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy for loopback
        try:
            with opener.open(self.url, timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def signal_group(self, number: int) -> bool:
        """Send a signal to the process group. Returns False if the group is empty."""
        self.process.poll()  # reaps the leader, which would otherwise keep the group alive
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True


def _start_mlflow(folder: Path, config: Config, port: int) -> ServerProcess:
    # The address may hold a password, which `ps` would show on a command line.
    stores = {
        "MLFLOW_BACKEND_STORE_URI": config.mlflow_uri,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(Workspace(config.workspace).mlruns.absolute()),
    }
    arguments = ("mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    return ServerProcess.start("mlflow", f"http://127.0.0.1:{port}", folder, arguments, MLFLOW_VARIABLES | stores)


def _start_dashboard(folder: Path, config: Config, port: int) -> ServerProcess:
    storage = {STORAGE_VARIABLE: config.storage_url}
    return ServerProcess.start("optuna-dashboard", f"http://127.0.0.1:{port}", folder, ("optuna", str(port)), storage)


def free_port(preferred: int) -> int:
    """Return `preferred` if it is free on loopback, else another free port. Raises SearchError if there is none."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SearchError("no free port on 127.0.0.1 for the MLflow UI and the dashboard; close a server and try again")


def _wait_until_ready(servers: Sequence[ServerProcess], interruption: Interruption) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    for server in servers:
        while interruption.number is None and not server.answers():
            if server.process.poll() is not None:
                raise SearchError(f"{server.name} ended before it was ready; it last wrote:\n{server.last_lines()}")
            if time.monotonic() > deadline:
                lines = server.last_lines()
                raise SearchError(
                    f"{server.name} gave no answer within {READY_TIMEOUT_S:.0f} s; it last wrote:\n{lines}"
                )
            time.sleep(0.2)


def _watch(servers: Sequence[ServerProcess], interruption: Interruption, announce: Callable[[str], None]) -> int:
    while interruption.number is None:
        for server in servers:
            if (status := server.process.poll()) is not None:
                announce(f"{server.name} ended by itself (status {status}); it last wrote:\n{server.last_lines()}")
                return 1
        time.sleep(0.2)
    return 128 + interruption.number


def _stop(servers: Sequence[ServerProcess]) -> None:
    """Send every group SIGTERM, and SIGKILL after the grace period. Wait until all have ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        alive = [server for server in servers if server.signal_group(number)]
        deadline = time.monotonic() + GRACE_PERIOD_S
        while alive and time.monotonic() < deadline:
            time.sleep(0.05)
            alive = [server for server in alive if server.signal_group(0)]
    for server in servers:
        if server.process.stdin:
            server.process.stdin.close()
        server.process.wait()
        server.log.close()
