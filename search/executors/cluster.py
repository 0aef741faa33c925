"""The way to a Ray cluster: reached or started, asked what it has and why an actor died. The only door to the package.

Nothing of Ray reaches the terminal: what people should know comes through here, in one message.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import re
import secrets
import signal
import socket
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from objectives.actor import Whereabouts
from search.errors import SearchError, UsageError
from search.provenance import usable_cores

CONNECT_S = 5.0
LAST_LINES = 15

GPU_SHARE = 0.25
"""Of each trainer where there are GPUs: small networks leave most of one idle."""

QUIET = {
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # errors of a cluster's processes are printed even where logs are not
    "RAY_NUM_REDIS_GET_RETRIES": "1",  # the head of a cluster that is well answers at once
    "RAY_py_gcs_connect_timeout_s": "5",
}


@functools.cache  # Ray reads it once in a process
def own_settings() -> dict[str, str]:
    """For a Ray of the search's own."""
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on any system: everything listens on loopback only
        "RAY_AUTH_MODE": "token",  # and only to this search: other users of the machine reach loopback, too
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",  # Ray would tell its makers about this machine
    }


class Cluster:
    """One job in a cluster that is there, or in one that is started for it on this machine.

    `target` is the objective whose module the trainers import. Raises UsageError when Ray is not installed or the
    cluster cannot be reached, SearchError when Ray does not start here.
    """

    def __init__(self, address: str | None, target: str) -> None:
        self._is_own = address is None
        self._logs: Path | None = None
        """Where the processes of this machine print to; None where nobody knows."""
        if address is not None:
            _check_address(address)
        with _environment(QUIET if address is not None else QUIET | own_settings()):
            self.ray = _import()
            context = self._start() if address is None else self._reach(address, target)
        if (session := getattr(context, "address_info", {}).get("session_dir")) is not None:
            self._logs = Path(session) / "logs"

    def _start(self) -> Any:
        try:
            return self._init("local", num_cpus=usable_cores(), include_dashboard=False)
        except Exception as error:  # whatever it is, it is Ray's, and a person can only go round it
            raise SearchError(
                f"Ray does not start on this machine: {_in_one_line(error)}. Type --engine local to do without it"
            ) from None

    def _reach(self, address: str, target: str) -> Any:
        try:
            return self._init(address, runtime_env={"py_modules": modules_to_ship(target)})
        except Exception as error:  # of many types, and always the address's or the cluster's fault
            raise UsageError(
                f"--address {address}: {_in_one_line(error)}. Give auto on a machine of the cluster, HOST:PORT of its "
                "head from such a machine, or ray://HOST:PORT from any other; ray status shows whether it runs"
            ) from None

    def _init(self, address: str, **options: Any) -> Any:
        with _undisturbed(), _silent():
            return self.ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **options)

    def close(self) -> None:
        """End the job; a Ray that was started for it ends, too."""
        self.ray.shutdown()

    # ---- what it has

    def share(self, device: str, cpus: float, gpus: float | None) -> dict[str, float]:
        """What each trainer gets. Raises UsageError when there is no such machine and none can come."""
        have = self.resources()
        if gpus is None:
            gpus = GPU_SHARE if have["GPU"] and device != "cpu" else 0.0
            if device == "cuda" and not gpus:
                raise UsageError(
                    "--device cuda: no machine of the Ray cluster has a GPU; type --device auto, or "
                    "--gpus-per-trial 1 to wait for one that has"
                )
        share = {"CPU": cpus, "GPU": gpus}
        if self._is_own and not self.room(share):
            raise UsageError(
                f"a trainer with {self.describe(share)} has no room on this machine, which has {self.describe(have)}; "
                "ask for less with --cpus-per-trial and --gpus-per-trial, or name a cluster with --address"
            )
        return share

    def resources(self) -> dict[str, float]:
        """CPUs and GPUs of all nodes together."""
        found = self.ray.cluster_resources()
        return {name: float(found.get(name, 0.0)) for name in ("CPU", "GPU")}

    def room(self, share: Mapping[str, float]) -> int:
        """How many trainers fit into the nodes that are there, were they empty."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        needed = [(name, each) for name, each in share.items() if each]
        return sum(min(int(node.get(name, 0.0) / each + 1e-9) for name, each in needed) for node in nodes)

    @staticmethod
    def describe(resources: Mapping[str, float]) -> str:
        """For people: `2 CPU and 0.25 GPU`."""
        return " and ".join(f"{amount:g} {name}" for name, amount in resources.items() if amount or name == "CPU")

    # ---- why an actor died

    def has_lost(self, where: Whereabouts | None, error: Exception) -> bool:
        """Whether it was the machine that went away, or cannot be reached, and not the actor that failed on it."""
        exceptions = self.ray.exceptions
        if isinstance(error, exceptions.ActorUnavailableError | exceptions.NodeDiedError):
            return True
        if "its node has died" in str(error):  # all that Ray says of an actor that had not come there yet
            return True
        return where is not None and not self._node(where).get("Alive", False)

    def last_words(self, where: Whereabouts | None, error: Exception) -> str:
        """How it died, and the last lines it printed where they can be read from here."""
        who = "its trainer" if where is None else f"its trainer (pid {where.pid}{self.place(where)})"
        return "\n".join([f"{who} died: {_cause(error)}", *self._last_lines(where)])

    def place(self, where: Whereabouts | None) -> str:
        """For people: ` on 10.0.0.7`; nothing where the node is not known."""
        if where is None:
            return ""
        return f" on {self._node(where).get('NodeManagerAddress', 'a node that is gone')}"

    def _node(self, where: Whereabouts) -> Mapping[str, Any]:
        return next((node for node in self.ray.nodes() if node["NodeID"] == where.node), {})

    def _last_lines(self, where: Whereabouts | None) -> list[str]:
        if where is None or self._logs is None:
            return []
        files = sorted(self._logs.glob(f"worker-{where.worker}-*"), key=lambda path: path.suffix, reverse=True)
        lines = [line for path in files for line in path.read_text(errors="replace").splitlines()]
        return [line for line in lines if not line.startswith(":")][-LAST_LINES:]  # Ray's own notes on whose it is


def _import() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise UsageError(
            '--engine ray needs Ray, which is not installed; type: pip install -c constraints.txt -e ".[ray]"'
        ) from None
    logging.getLogger("ray.util.client.logsclient").disabled = True  # it keeps a level of its own
    return ray


def _check_address(address: str) -> None:
    """Raise UsageError for what is no address, and where nothing listens: Ray itself would try for a minute."""
    if address == "auto":
        return
    parsed = re.fullmatch(r"(ray://)?(\[[^\]\s]+\]|[^\s:/@]+):(\d{1,5})", address)
    if parsed is None:
        raise UsageError(f"--address {address!r} is no address; give auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((parsed[2].strip("[]"), int(parsed[3])), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"--address {address}: nothing answers there ({error}). A cluster's head listens on port 6379, and for "
            "ray:// on 10001, unless it was started otherwise; one of your own is started with: ray start --head"
        ) from None


def modules_to_ship(target: str) -> list[str]:
    """Files and folders that trainers on other machines import: the trainer's own, and the objective's module.

    What is installed is left out, because it is not for a search to install it.
    """
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")}
    found = []
    for name in dict.fromkeys(("objectives", target.partition(":")[0].partition(".")[0])):
        spec = importlib.util.find_spec(name)
        if spec is None or not (places := [*(spec.submodule_search_locations or ()), spec.origin]):
            continue
        path = Path(str(places[0])).resolve()
        if path.exists() and installed.isdisjoint(path.parents):
            found.append(str(path))
    return found


def _in_one_line(error: object) -> str:
    """Without the steps of a traceback that came from another process: its last line says what was wrong."""
    before, _, steps = str(error).partition("Traceback (most recent call last):")
    said = before + "".join(steps.strip().splitlines()[-1:])
    return " ".join(said.split())[:400].rstrip(".") or type(error).__name__


def _cause(error: Exception) -> str:
    """What Ray says of a death, without the names it has for everything and without guesses."""
    lines = [line for line in str(error).splitlines() if not line.startswith("\t")]
    said = re.sub(r"^.*Worker exit detail: |Some (common|potential).*$", "", " ".join(" ".join(lines).split()))
    return _in_one_line(said)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that Ray and the processes it starts read, and nobody after them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _silent() -> Iterator[None]:
    """Without what Ray's own libraries write to the terminal before they know that they should not."""
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep signals ours: Ray takes SIGTERM for itself, and its processes would end with the terminal.

    Trainers must outlive a closed terminal long enough to give their checkpoints.
    """
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
