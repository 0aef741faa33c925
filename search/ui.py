"""The MLflow UI and optuna-dashboard, started together on loopback and ended together.

Each server runs in a process group of its own, so that Ctrl-C reaches only us and everything it forked ends with it.
A server also ends when we vanish without a word (SIGKILL): it holds the reading end of a pipe whose writing end is
ours alone, and a thread in it ends its group at end of file. That needs neither Linux nor an extra process.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import quote

from search.errors import SearchError
from search.masking import bare, mask
from search.pages import VIEW

READY_S = 60.0
GRACE_S = 5.0
"""From asking a server to end to killing it."""

LIFELINE = """
import os, signal, sys, threading, time
def watch():
    sys.stdin.buffer.raw.read(1)
    os.killpg(0, signal.SIGTERM)
    time.sleep(3)
    os.killpg(0, signal.SIGKILL)
signal.signal(signal.SIGINT, signal.SIG_IGN)
threading.Thread(target=watch, daemon=True).start()
"""
MLFLOW = LIFELINE + "import runpy; sys.argv[0] = 'mlflow'; runpy.run_module('mlflow', run_name='__main__')"
DASHBOARD = (
    LIFELINE
    + """
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server
from optuna_dashboard import wsgi
class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
app = wsgi(os.environ.pop('SEARCH_UI_STORAGE'))
make_server('127.0.0.1', int(sys.argv[2]), app, server_class=Server).serve_forever()
"""
)
MLFLOW_QUIET = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


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
    """Start both, announce their deep links, and stay until Ctrl-C, SIGTERM, or the end of one of them.

    A `tracking_uri` that begins with http is somebody's server
    already: its own address is used and none is started. Another free port is taken when the usual one is not free.
    Returns 130 after SIGINT, 143 after SIGTERM, 1 when a server ended by itself (announced with its last lines).
    Raises SearchError, with the last lines a server wrote, when one is not ready within 60 s.
    """
    with _stopped_by_signals() as stop, tempfile.TemporaryDirectory(prefix="search-ui-") as folder:
        servers: list[Server] = []
        try:
            mlflow_url = tracking_uri
            if not tracking_uri.startswith(("http://", "https://")):
                mlflow_url = _start_mlflow(servers, Path(folder), tracking_uri, artifact_root, mlflow_port)
            dashboard_url = _start_dashboard(servers, Path(folder), storage_url, dashboard_port)
            _await_ready(servers, stop)
            if not stop.status:
                links = (
                    mlflow_deep_link(mlflow_url, experiment_id),
                    dashboard_deep_link(dashboard_url, study_id),
                )
                _announce(announce, links, open_browser=open_browser)
            return _watch(servers, stop, announce)
        finally:
            _end(servers)


def mlflow_deep_link(base_url: str, experiment_id: str | None) -> str:
    """Address of the page that shows every trial's curves, best first; the home page without an experiment.

    Filter, order and columns are in the view that the experiment carries (`pages.experiment_tags`); MLflow ignores the
    view when the address names any of them. A user and password in the address are left out: browsers ask for them.
    """
    base_url = bare(base_url).rstrip("/")
    if experiment_id is None:
        return f"{base_url}/"
    query = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={VIEW}"
    return f"{base_url}/#/experiments/{quote(experiment_id, safe='')}/runs?{query}"


def dashboard_deep_link(base_url: str, study_id: int | None) -> str:
    """Address of a study in optuna-dashboard; the list of studies without one."""
    return f"{base_url}/dashboard/" + ("" if study_id is None else f"studies/{study_id}")


# Servers ----------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """One child process with everything it forks, its log file, and its lifeline."""

    name: str
    url: str
    """Answers with status 200 when the server is ready."""
    process: subprocess.Popen[bytes]
    log: IO[bytes] = field(repr=False)

    @classmethod
    def start(cls, name: str, url: str, folder: Path, command: Sequence[str], extra: Mapping[str, str]) -> Server:
        """Run `command` in a new process group with `extra` environment variables."""
        log = (folder / f"{name}.log").open("w+b")
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **extra},
            start_new_session=True,
        )  # fmt: skip
        return cls(name, url, process, log)

    def last_lines(self, count: int = 12) -> str:
        """The end of what it wrote, indented."""
        self.log.seek(0)
        lines = mask(self.log.read().decode(errors="replace")).splitlines()[-count:]
        return "\n".join(f"    {line}" for line in lines) or "    (it wrote nothing)"

    def answers(self) -> bool:
        """Whether it serves its page now."""
        try:
            with _no_proxy().open(self.url, timeout=5) as response:
                return bool(response.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def signal_group(self, number: int) -> bool:
        """Signal every process it started; False when none is left."""
        self.process.poll()  # a dead leader must be collected, or its group never looks empty
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True


def _no_proxy() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _start_mlflow(servers: list[Server], folder: Path, tracking_uri: str, artifact_root: Path | None, port: int) -> str:
    port = free_port(port)
    command = [sys.executable, "-c", MLFLOW, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # by the environment, not by the command line: an address may hold a password, and `ps` shows command lines
    extra = {**MLFLOW_QUIET, "MLFLOW_BACKEND_STORE_URI": tracking_uri}
    if artifact_root is not None:
        extra["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = str(artifact_root)
    url = f"http://127.0.0.1:{port}"
    servers.append(Server.start("mlflow", f"{url}/", folder, command, extra))
    return url


def _start_dashboard(servers: list[Server], folder: Path, storage_url: str, port: int) -> str:
    port = free_port(port)
    extra = {"SEARCH_UI_STORAGE": storage_url}
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", DASHBOARD, "optuna-dashboard", str(port)]
    servers.append(Server.start("optuna-dashboard", f"{url}/dashboard/", folder, command, extra))
    return url


def free_port(wanted: int) -> int:
    """`wanted` on loopback when nothing uses it, else one that the system chooses."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
            return int(probe.getsockname()[1])
    raise SearchError("no free port on 127.0.0.1 for the MLflow UI and the dashboard; close a server and try again")


def _await_ready(servers: Sequence[Server], stop: Stop) -> None:
    deadline = time.monotonic() + READY_S
    waiting = list(servers)
    while waiting and not stop.status:
        for server in list(waiting):
            if server.process.poll() is not None:
                raise SearchError(f"{server.name} ended before it was ready; it last wrote:\n{server.last_lines()}")
            if server.answers():
                waiting.remove(server)
        if waiting and time.monotonic() > deadline:
            late = waiting[0]
            raise SearchError(f"{late.name} gave no answer within {READY_S:.0f} s; it last wrote:\n{late.last_lines()}")
        stop.event.wait(0.2)


def _announce(announce: Callable[[str], None], links: Sequence[str], *, open_browser: bool) -> None:
    for name, link in zip(("MLflow", "Optuna dashboard"), links, strict=True):
        announce(f"{name}: {link}")
    announce("Ctrl-C ends both.")
    if open_browser:
        for link in links:
            webbrowser.open(link)


def _watch(servers: Sequence[Server], stop: Stop, announce: Callable[[str], None]) -> int:
    while not stop.event.wait(0.3):
        for server in servers:
            if server.process.poll() is not None:
                announce(f"{server.name} ended by itself (status {server.process.returncode}); it last wrote:\n"
                         f"{server.last_lines()}")  # fmt: skip
                return 1
    return stop.status


def _end(servers: Sequence[Server]) -> None:
    """Ask every group to end, then kill what is left; returns when no process is."""
    for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        alive = [server for server in servers if server.signal_group(number)]
        deadline = time.monotonic() + patience_s
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


# Signals ----------------------------------------------------------------------------------------------------------


@dataclass
class Stop:
    """Set by a signal; `status` is the exit status that goes with it, 0 before."""

    event: threading.Event = field(default_factory=threading.Event)
    status: int = 0


@contextmanager
def _stopped_by_signals() -> Iterator[Stop]:
    """Turn SIGINT and SIGTERM into a request to stop; outside the main thread there are no signals to turn."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, _frame: object) -> None:
        stop.status = 128 + number
        stop.event.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
