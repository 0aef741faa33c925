"""The MLflow UI and optuna-dashboard, started together on loopback and stopped together.

Each server runs in its own process group, so Ctrl-C reaches only this process. If this process is killed, the servers
end as well (see `objectives.worker.lifeline`).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

import click

from search.cli.dashboard_server import FOLDER, LAST_ARGUMENT
from search.commands.studies import read_study, stored_studies
from search.common.config import Config
from search.common.errors import SearchError, UsageError
from search.common.passwords import bare, mask
from search.common.signals import Interruption
from search.common.sqlite import MLFLOW_TABLE, check_sqlite, close_databases, fold, readable, sqlite_file, sqlite_url
from search.common.system import module_command
from search.common.workspace import Workspace
from search.study.records import EXPERIMENT
from search.tracking.pages import VIEW
from search.tracking.store import ignored_variables

PORTS = (5000, 8080)  # preferred ports of MLflow and optuna-dashboard
NEXT_PORTS = 20  # ports tried after a preferred one
READY_TIMEOUT_S = 60.0
GRACE_PERIOD_S = 5.0  # time between SIGTERM and SIGKILL


def serve_study(config: Config, name: str | None, *, browse: bool, port: int | None = None) -> int:
    """Serve the pages of a study, by default of the newest, until Ctrl-C. Returns the exit status.

    Raises UsageError or StorageError if the study does not exist, UsageError if `port` or the one after it is taken,
    SearchError if a server does not start.
    """
    study = read_study(config, name)
    if (path := sqlite_file(config.mlflow_uri)) is not None:
        check_sqlite(path, MLFLOW_TABLE)
    study_id = stored_studies(config).get_study_id_from_name(study.name)
    close_databases()
    try:
        return serve(config, study_id, study.attrs.get(EXPERIMENT), browse=browse, first_port=port)
    finally:
        for url in (config.storage_url, config.mlflow_uri):
            if (path := sqlite_file(url)) is not None:
                fold(path)


def serve(
    config: Config,
    study_id: int,
    experiment_id: str | None,
    *,
    browse: bool = False,
    first_port: int | None = None,
    ports: Sequence[int] = PORTS,
) -> int:
    """Start both servers, print their links, and wait for Ctrl-C, another signal or the end of a server.

    If MLflow is tracked at an http address, only the dashboard is started. When one of `ports` is taken, a free one is
    used. With `first_port` the servers get that port and the next one. Returns 130 after Ctrl-C, 143 after SIGTERM,
    and 1 after printing the last lines of a server that ended. Raises UsageError when `first_port` is taken, and
    SearchError, with the last lines of a server, when it is not ready within 60 s.
    """
    with Interruption() as interruption, interruption.graceful(), ExitStack() as stack:
        servers: list[ServerProcess] = []
        stack.callback(_stop, servers)
        mlflow_url = config.mlflow_uri
        starts = [_start_dashboard]
        if not mlflow_url.startswith(("http://", "https://")):
            starts.insert(0, _start_mlflow)
        held = require_ports(first_port, len(starts)) if first_port else map(reserve_port, ports[-len(starts) :])
        for start, reservation in zip(starts, held, strict=True):
            servers.append(start(config, stack.enter_context(reservation).getsockname()[1]))
        mlflow_url = servers[0].url if len(servers) > 1 else mlflow_url
        links = mlflow_deep_link(mlflow_url, experiment_id), dashboard_deep_link(servers[-1].url, study_id)
        _wait_until_ready(servers, interruption)
        if interruption.number is None:
            click.echo(f"MLflow: {links[0]}\nOptuna dashboard: {links[1]}\nCtrl-C ends both.")
            for link in links if browse else ():
                webbrowser.open(link)
        return _watch(servers, interruption)


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


def dashboard_deep_link(base_url: str, study_id: int) -> str:
    """Return the address of a study in optuna-dashboard."""
    return f"{base_url}/dashboard/studies/{study_id}"


@dataclass(frozen=True)
class ServerProcess:
    """One server with its child processes and its log file."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    @classmethod
    def start(
        cls, name: str, port: int, arguments: Sequence[str], variables: Mapping[str, str], folder: Path | None = None
    ) -> ServerProcess:
        """Run a console script in a new process group, in `folder`. It ends when its standard input closes."""
        address = ("--host", "127.0.0.1", "--port", str(port))
        command = module_command("search.cli.dashboard_server", name, *arguments, *address)
        log = tempfile.TemporaryFile()  # noqa: SIM115
        hidden = ignored_variables()  # such as a registry elsewhere, or a prefix of addresses
        installed = sysconfig.get_path("purelib")  # uvicorn's processes would import from the current folder first
        env = {**{name: value for name, value in os.environ.items() if name not in hidden}, **variables}
        env |= {"PYTHONSAFEPATH": "1", "UVICORN_APP_DIR": installed, FOLDER: str(folder or "")}
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=log, stderr=log, env=env, start_new_session=True)
        return cls(name, f"http://127.0.0.1:{port}", process, log)

    def last_lines(self, count: int = 12) -> str:
        """Return the end of the log, indented."""
        self.log.seek(0)
        lines = mask(self.log.read().decode(errors="replace")).splitlines()[-count:]
        return "\n".join(f"    {line}" for line in lines) or "    (it wrote nothing)"

    def answers(self) -> bool:
        """Return whether the server serves its page."""
        with suppress(OSError):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.url, timeout=5).close()
            return True
        return False

    def signal_group(self, number: int) -> bool:
        """Send a signal to the process group. Returns False if the group is empty."""
        self.process.poll()  # reaps the leader, which would otherwise keep the group alive
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True


def _start_mlflow(config: Config, port: int) -> ServerProcess:
    database = sqlite_file(config.mlflow_uri)  # relative locations of artifacts mean its folder
    variables = {
        # It may hold a password, which `ps` would show on a command line.
        "MLFLOW_BACKEND_STORE_URI": _readable(config.mlflow_uri),
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": Workspace(config.workspace).mlruns.absolute().as_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    return ServerProcess.start("mlflow", port, ("server", "--workers", "1"), variables, database and database.parent)


def _readable(url: str) -> str:
    """Return the URL of what a server can read: in a write-protected folder that may be a copy."""
    path = sqlite_file(url)
    return url if path is None or not path.exists() else sqlite_url(readable(path))


def _start_dashboard(config: Config, port: int) -> ServerProcess:
    arguments, variables = ("--server", "wsgiref"), {LAST_ARGUMENT: _readable(config.storage_url)}
    return ServerProcess.start("optuna-dashboard", port, arguments, variables)


def reserve_port(preferred: int) -> socket.socket:
    """Reserve a port on loopback: `preferred` or one of the next, else any free one. It lasts until it is closed."""
    for port in (*(range(preferred, preferred + NEXT_PORTS) if preferred else ()), *[0] * NEXT_PORTS):
        with suppress(OSError, OverflowError):
            return _reserve(port)
    raise SearchError("no port of this machine is free; end programs that listen, or try again")


def require_ports(first: int, count: int) -> list[socket.socket]:
    """Reserve `count` ports from `first` on. Raises UsageError when one is taken or may not be used."""
    held: list[socket.socket] = []
    for port in range(first, first + count):
        try:
            held.append(_reserve(port))
        except OSError as error:
            for reservation in held:
                reservation.close()
            reason = "may not be used by you" if isinstance(error, PermissionError) else "is used by another program"
            advice = f"type another, such as --port {max(first, 1024) + 10}, or leave --port out"
            raise UsageError(f"--port {first}: port {port} {reason}; {advice}") from None
    return held


def _reserve(port: int) -> socket.socket:
    """Reserve a port for a server of this process, which takes seconds to listen on it. Raises OSError if it is taken.

    A UDP socket of the same number tells another `ui` that the port is taken. It ends with its process.
    """
    reservation = socket.socket(type=socket.SOCK_DGRAM)
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            reservation.bind(probe.getsockname())
    except BaseException:
        reservation.close()
        raise
    return reservation


def _wait_until_ready(servers: Sequence[ServerProcess], interruption: Interruption) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    for server in servers:
        while interruption.number is None and not server.answers():
            has_ended = server.process.poll() is not None
            if has_ended or time.monotonic() > deadline:
                problem = "ended before it was ready" if has_ended else f"gave no answer within {READY_TIMEOUT_S:.0f} s"
                raise SearchError(f"{server.name} {problem}; it last wrote:\n{server.last_lines()}")
            time.sleep(0.2)


def _watch(servers: Sequence[ServerProcess], interruption: Interruption) -> int:
    while interruption.number is None:
        for server in servers:
            if (status := server.process.poll()) is not None:
                click.echo(f"{server.name} ended by itself (status {status}); it last wrote:\n{server.last_lines()}")
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
