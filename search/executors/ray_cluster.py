"""A Ray cluster: connect to it or start one, read its resources, explain why an actor died.

The only module that imports Ray. Ray's own output is suppressed; errors for the user are raised as one message.
"""

import importlib.util
import logging
import os
import pickletools
import re
import secrets
import signal
import socket
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from objectives.spec import ObjectiveSpec
from objectives.worker.ray_actor import ActorLocation
from search.common.errors import SearchError, UsageError
from search.common.system import environment, usable_cores
from search.common.text import sentence

CONNECT_S = 5.0
LAST_LINES = 15
GPU_SHARE = 0.25  # GPUs per worker by default: a small network leaves most of a GPU idle

QUIET = {
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # errors are printed even with logging off
    "RAY_NUM_REDIS_GET_RETRIES": "1",  # a healthy head answers the first request
    "RAY_py_gcs_connect_timeout_s": "5",
}
OWN_RAY = QUIET | {  # for a Ray that the search starts itself, which reads these only once in a process
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on loopback only, on every system
    "RAY_AUTH_MODE": "token",  # other users of the machine can reach loopback
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
}


class Cluster:
    """One job in the cluster at `address`, or without one in a Ray that is started on this machine.

    Workers import the module of the objective. Raises UsageError when Ray is not installed or the cluster
    cannot be reached, SearchError when Ray does not start on this machine.
    """

    def __init__(self, address: str | None, objective: ObjectiveSpec) -> None:
        self._is_own = address is None
        _check_address(address)
        with environment(OWN_RAY if address is None else QUIET), _quiet(), _keep_signals():
            self.ray = _import()
            context = self._connect(address, objective)
        session = getattr(context, "address_info", {}).get("session_dir")
        self._logs = Path(session) / "logs" if session else None  # folder of the log files on this machine

    def _connect(self, address: str | None, objective: ObjectiveSpec) -> Any:
        own = {"num_cpus": usable_cores(), "include_dashboard": False}
        options: Any = own if address is None else {"runtime_env": {"py_modules": modules_to_ship(objective)}}
        if self.ray.is_initialized():
            raise UsageError("this process is connected to Ray already; type ray.shutdown() first")
        try:
            return self.ray.init(address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **options)
        except Exception as error:  # Ray raises many types
            message = sentence(_in_one_line(error))
        if address is None:
            raise SearchError(f"Ray does not start on this machine: {message} Type --engine local to do without it")
        raise UsageError(
            f"--address {address}: {message} Give auto on a machine of the cluster, HOST:PORT of its head from such "
            "a machine, or ray://HOST:PORT from any other; ray status shows whether it runs"
        )

    def share(self, device: str, cpus: float, gpus: float | None) -> dict[str, float]:
        """Return the resources of each worker. Raises UsageError when no machine has them and none can be added."""
        total = self.resources()
        if gpus is None:
            gpus = GPU_SHARE if total["GPU"] and device != "cpu" else 0.0
            if device == "cuda" and not gpus:
                advice = "type --device auto, or --gpus-per-trial 1 to wait for one that has"
                raise UsageError(f"--device cuda: no machine of the Ray cluster has a GPU; {advice}")
        share = {"CPU": cpus, "GPU": gpus}
        if self._is_own and not self.room(share):
            needs, has = describe(share), describe(total)
            advice = "ask for less with --cpus-per-trial and --gpus-per-trial, or name a cluster with --address"
            raise UsageError(f"a worker with {needs} has no room on this machine, which has {has}; {advice}")
        return share

    def resources(self) -> dict[str, float]:
        """Return the CPUs and GPUs of all nodes together."""
        total = self.ray.cluster_resources()
        return {name: float(total.get(name, 0.0)) for name in ("CPU", "GPU")}

    def room(self, share: Mapping[str, float]) -> int:
        """Return how many workers fit into the current nodes when they are empty."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        needed = [(name, amount) for name, amount in share.items() if amount]
        return sum(min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in needed) for node in nodes)

    def is_machine_gone(self, location: ActorLocation | None, error: Exception) -> bool:
        """Return whether the machine of the actor is gone or unreachable, as opposed to a failure of the actor."""
        exceptions = self.ray.exceptions
        if isinstance(error, exceptions.ActorUnavailableError | exceptions.NodeDiedError):
            return True
        # for an actor that was still starting, this text is Ray's only hint
        return "its node has died" in str(error) or (location is not None and not self._node(location).get("Alive"))

    def describe_death(self, location: ActorLocation | None, error: Exception) -> str:
        """Return how the actor died and, if its log file is on this machine, the last lines that it printed."""
        which = f" (pid {location.pid}{self.place(location)})" if location else ""
        lines = [line for line in str(error).splitlines() if not line.startswith("\t")]
        text = " ".join(" ".join(lines).split())
        # without Ray's internal names and guesses
        cause = _in_one_line(re.sub(r"^.*Worker exit detail: |Some (common|potential).*$", "", text))
        return "\n".join([f"its worker{which} died: {cause}", *self._last_lines(location)])

    def place(self, location: ActorLocation | None) -> str:
        """Return a text such as ` on 10.0.0.7`; empty if the node is not known."""
        if location is None:
            return ""
        return f" on {self._node(location).get('NodeManagerAddress', 'a node that is gone')}"

    def _node(self, location: ActorLocation) -> Mapping[str, Any]:
        return next((node for node in self.ray.nodes() if node["NodeID"] == location.node), {})

    def _last_lines(self, location: ActorLocation | None) -> list[str]:
        if location is None or self._logs is None:
            return []
        files = sorted(self._logs.glob(f"worker-{location.worker}-*"), key=lambda path: path.suffix, reverse=True)
        lines = [line for path in files for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        return [line for line in lines if not line.startswith(":")][-LAST_LINES:]  # lines that Ray itself writes


def describe(resources: Mapping[str, float]) -> str:
    """Return a text such as `2 CPU and 0.25 GPU`."""
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items() if amount or name == "CPU")


def _import() -> Any:
    for name in ("ray.util.client.logsclient", "ray.widgets.util"):  # they have levels of their own
        logging.getLogger(name).disabled = True
    try:
        import ray
        import ray.exceptions  # noqa: F401 - used as an attribute of `ray`
    except ImportError:
        command = 'pip install -c constraints.txt -e ".[ray]"'
        raise UsageError(f"--engine ray needs Ray, which is not installed; type: {command}") from None
    return ray


def _check_address(address: str | None) -> None:
    """Raise UsageError for a malformed address or a closed port; Ray itself would try for a minute."""
    if address is None or address == "auto":
        return
    parsed = re.fullmatch(r"(ray://)?(\[[^\]\s]+\]|[^\s:/@]+):(\d{1,5})", address)
    if parsed is None:
        raise UsageError(f"--address {address!r} is not an address; give auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((parsed[2].strip("[]"), int(parsed[3])), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        ports = "A cluster's head listens on port 6379, and for ray:// on 10001, unless it was started otherwise"
        advice = f"{ports}; one of your own is started with: ray start --head"
        raise UsageError(f"--address {address}: nothing answers there ({error}). {advice}") from None


def modules_to_ship(objective: ObjectiveSpec) -> list[str]:
    """Return the paths of `objectives` and of the objective's modules, which all machines need, unless installed."""
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")}
    own = [re.split("[:.]", objective.target)[0]] if objective.pickled is None else _imported_by(objective.pickled)
    specs = [spec for name in dict.fromkeys(("objectives", *own)) if (spec := importlib.util.find_spec(name))]
    paths = [Path([*(spec.submodule_search_locations or ()), str(spec.origin)][0]).resolve() for spec in specs]
    return [str(path) for path in paths if path.exists() and installed.isdisjoint(path.parents)]


def _imported_by(pickled: bytes) -> list[str]:
    """The packages that an object is unpickled with: the names in it that are modules here."""
    words = {word for _, word, _ in pickletools.genops(pickled) if isinstance(word, str)}
    tops = {word.split(" ")[0].partition(".")[0] for word in words if word.split(" ")[0] in sys.modules}
    return sorted(tops - {"__main__", *sys.builtin_module_names})


def _in_one_line(error: object) -> str:
    """Return the message on one line; of a traceback from another process only its last line."""
    before, _, steps = str(error).partition("Traceback (most recent call last):")
    words = before.split() + " ".join(steps.strip().splitlines()[-1:]).split()
    return " ".join(words)[:400].rstrip(".") or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress standard error until Ray's logging is configured."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


@contextmanager
def _keep_signals() -> Iterator[None]:
    """Keep our SIGTERM handler, which Ray replaces, and start Ray's processes with SIGHUP blocked.

    Workers must outlive a closed terminal long enough to save their checkpoints. Only the main thread has handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    except SystemExit:  # Ray's answer to SIGTERM
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
