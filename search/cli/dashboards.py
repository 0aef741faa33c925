"""The MLflow UI and optuna-dashboard, started together on loopback and ended together.

Each server runs in its own process group, so Ctrl-C reaches only this process, and a server's children end with it.
When this process is killed the servers end as well (see `objectives.lifeline`).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

from search.cli.dashboard_server import STORAGE_VARIABLE
from search.common.errors import SearchError
from search.common.passwords import bare, mask
from search.common.signals import Interruption
from search.tracking.pages import VIEW

if TYPE_CHECKING:
    from search.common.config import Config

READY_S = 60.0
GRACE_S = 5.0
"""Time between SIGTERM and SIGKILL."""

MLFLOW_SETTINGS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def serve_study(config: Config, name: str | None, announce: Callable[[str], None], *, open_browser: bool) -> int:
    """Serve both pages of a study, by default of the newest, until Ctrl-C. Returns the exit status.

    Raises UsageError or StorageError when there is no such study, SearchError when a server does not start.
    """
    from search.commands.studies import read_study
    from search.common.sqlite import MLFLOW_TABLE, check_sqlite, sqlite_file
    from search.common.workspace import Workspace
    from search.study.records import EXPERIMENT

    study = read_study(config, name or None)
    path = sqlite_file(config.mlflow_uri)
    if path is not None:
        check_sqlite(path, MLFLOW_TABLE)
    return serve(
        tracking_uri=config.mlflow_uri,
        storage_url=config.storage_url,
        announce=announce,
        study_id=study.study_id,
        experiment_id=study.attrs.get(EXPERIMENT),
        artifact_root=Workspace(config.workspace).mlruns.absolute(),
        open_browser=open_browser,
    )


def serve(
    *,
    tracking_uri: str,
    storage_url: str,
    announce: Callable[[str], None],
    study_id: int | None = None,
    experiment_id: str | None = None,
    artifact_root: Path | None = None,
    open_browser: bool = False,
    mlflow_port: int = 5000,
    dashboard_port: int = 8080,
) -> int:
    """Start both servers, announce their links, and wait for Ctrl-C, another signal or the end of a server.

    If `tracking_uri` is an http address, that server is used and none is started. When a port is taken, a free one
    is used. Returns 130 after Ctrl-C, 143 after SIGTERM, and 1 when a server ended by itself, after announcing its last
    lines. Raises SearchError, with the last lines of a server, when it is not ready within 60 s.
    """
    with (
        Interruption() as interruption,
        interruption.graceful(),
        tempfile.TemporaryDirectory(prefix="search-ui-") as folder,
    ):
        servers: list[ServerProcess] = []
        try:
            mlflow_url = tracking_uri
            if not tracking_uri.startswith(("http://", "https://")):
                mlflow_url = _start_mlflow(servers, Path(folder), tracking_uri, artifact_root, mlflow_port)
            dashboard_url = _start_dashboard(servers, Path(folder), storage_url, dashboard_port)
            _await_ready(servers, interruption)
            if interruption.number is None:
                links = (mlflow_deep_link(mlflow_url, experiment_id), dashboard_deep_link(dashboard_url, study_id))
                _announce(announce, links, open_browser=open_browser)
            return _watch(servers, interruption, announce)
        finally:
            _end(servers)


def mlflow_deep_link(base_url: str, experiment_id: str | None) -> str:
    """Return the address of an experiment's charts, best trial first; of MLflow's home page without an experiment.

    Filter, order and columns come from the view that the experiment carries (`pages.experiment_tags`). MLflow ignores
    that view when the address names any of them. User and password are left out: browsers ask for them.
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


@dataclass
class ServerProcess:
    """One server with its child processes and its log file."""

    name: str
    url: str
    """Answers with status 200 when the server is ready."""
    process: subprocess.Popen[bytes]
    log: IO[bytes] = field(repr=False)

    @classmethod
    def start(
        cls, name: str, url: str, folder: Path, arguments: Sequence[str], extra: Mapping[str, str]
    ) -> ServerProcess:
        """Run `search.cli.dashboard_server` in a new process group, with `extra` environment variables."""
        log = (folder / f"{name}.log").open("w+b")
        process = subprocess.Popen(
            [sys.executable, "-m", "search.cli.dashboard_server", *arguments],
            stdin=subprocess.PIPE,  # its end tells the server that this process has ended
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **extra},
            start_new_session=True,
        )
        return cls(name, url, process, log)

    def last_lines(self, count: int = 12) -> str:
        """Return the end of its log, indented."""
        self.log.seek(0)
        lines = mask(self.log.read().decode(errors="replace")).splitlines()[-count:]
        return "\n".join(f"    {line}" for line in lines) or "    (it wrote nothing)"

    def answers(self) -> bool:
        """Return whether it serves its page now."""
        try:
            with _no_proxy().open(self.url, timeout=5) as response:
                return bool(response.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def signal_group(self, number: int) -> bool:
        """Signal every process that it started. Returns False when none is left."""
        self.process.poll()  # collects a leader that ended, or its group would never look empty
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True


def _no_proxy() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _start_mlflow(
    servers: list[ServerProcess], folder: Path, tracking_uri: str, artifact_root: Path | None, port: int
) -> str:
    port = free_port(port)
    # the address may hold a password, which `ps` would show in a command line
    extra = {**MLFLOW_SETTINGS, "MLFLOW_BACKEND_STORE_URI": tracking_uri}
    if artifact_root is not None:
        extra["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = str(artifact_root)
    url = f"http://127.0.0.1:{port}"
    arguments = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    servers.append(ServerProcess.start("mlflow", f"{url}/", folder, arguments, extra))
    return url


def _start_dashboard(servers: list[ServerProcess], folder: Path, storage_url: str, port: int) -> str:
    port = free_port(port)
    extra = {STORAGE_VARIABLE: storage_url}
    url = f"http://127.0.0.1:{port}"
    arguments = ["optuna", str(port)]
    servers.append(ServerProcess.start("optuna-dashboard", f"{url}/dashboard/", folder, arguments, extra))
    return url


def free_port(wanted: int) -> int:
    """Return `wanted` if it is free on loopback, else a port that the system chooses. Raises SearchError for none."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
            return int(probe.getsockname()[1])
    raise SearchError("no free port on 127.0.0.1 for the MLflow UI and the dashboard; close a server and try again")


def _await_ready(servers: Sequence[ServerProcess], interruption: Interruption) -> None:
    deadline = time.monotonic() + READY_S
    waiting = list(servers)
    while waiting and interruption.number is None:
        for server in list(waiting):
            if server.process.poll() is not None:
                raise SearchError(f"{server.name} ended before it was ready; it last wrote:\n{server.last_lines()}")
            if server.answers():
                waiting.remove(server)
        if waiting and time.monotonic() > deadline:
            late = waiting[0]
            raise SearchError(f"{late.name} gave no answer within {READY_S:.0f} s; it last wrote:\n{late.last_lines()}")
        time.sleep(0.2)


def _announce(announce: Callable[[str], None], links: Sequence[str], *, open_browser: bool) -> None:
    for name, link in zip(("MLflow", "Optuna dashboard"), links, strict=True):
        announce(f"{name}: {link}")
    announce("Ctrl-C ends both.")
    if open_browser:
        for link in links:
            webbrowser.open(link)


def _watch(servers: Sequence[ServerProcess], interruption: Interruption, announce: Callable[[str], None]) -> int:
    while interruption.number is None:
        for server in servers:
            if (status := server.process.poll()) is not None:
                announce(f"{server.name} ended by itself (status {status}); it last wrote:\n{server.last_lines()}")
                return 1
        time.sleep(0.2)
    return 128 + interruption.number


def _end(servers: Sequence[ServerProcess]) -> None:
    """Send every group SIGTERM, then SIGKILL to those that are left, and wait until they have ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        alive = [server for server in servers if server.signal_group(number)]
        deadline = time.monotonic() + GRACE_S
        while alive and time.monotonic() < deadline:
            time.sleep(0.05)
            alive = [server for server in alive if server.signal_group(0)]
        if not alive:
            break
    for server in servers:
        if server.process.stdin:
            server.process.stdin.close()
        server.process.wait()
        server.log.close()
