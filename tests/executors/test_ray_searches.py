"""Searches on Ray clusters: through a client, when the cluster is lost or is none, and with nothing left behind."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from shell import (
    alive,
    begin,
    children,
    end,
    environment,
    free_port,
    is_ray_agent,
    own_address,
    process_name,
    rows,
    search,
)

CLIENTS = 31001
"""A port that no other test listens at."""


@pytest.fixture
def head(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A cluster of two CPUs whose head answers Ray clients at the port that its environment names."""
    log, folder = tmp_path / "head.txt", tempfile.mkdtemp(dir="/tmp")  # a socket's name has room for no more
    words = ["--block", "--disable-usage-stats", "--include-dashboard=false", "--num-cpus=2", f"--temp-dir={folder}"]
    words += [f"--node-ip-address={own_address()}", f"--port={free_port()}", f"--ray-client-server-port={CLIENTS}"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *words]
    env = environment({"no_proxy": own_address()})
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=env, cwd=tmp_path, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    deadline = time.monotonic() + 60
    while "Ray runtime started" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    yield process
    kill_all(process)
    shutil.rmtree(folder, ignore_errors=True)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, like a machine that fails."""
    for pid in {process.pid, *children(process.pid)}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.mark.long
def test_a_search_through_a_ray_client(head: subprocess.Popen[bytes], folder: Path):
    """A whole search, then one that loses its cluster and is resumed without it."""
    toy = ("--objective", "toy:Toy", "--confirm", 0)
    words = (*toy, "--engine", "ray", "--address", f"ray://{own_address()}:{CLIENTS}")
    done = search(*words, "--trials", 3, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "3 trials (" in done.stdout
    process = begin(*words, "--trials", 400, cwd=folder)
    deadline = time.monotonic() + 60
    while n_finished(folder) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    kill_all(head)
    lost = end(process)
    assert lost.returncode == 1
    assert re.fullmatch(
        r"Error: the Ray cluster cannot be reached any more \(.*\)\. Nothing is lost: .*\n", lost.stderr
    )
    done = search(*toy, "--trials", (trials := n_finished(folder) + 4), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"{trials} trials (" in done.stdout


def n_finished(folder: Path) -> int:
    query = "SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED', 'FAIL')"
    return int(rows(folder / "optuna.db", query)[0][0])


COORDINATOR = """
    import sys
    from objectives.base import Task
    from objectives.spec import ObjectiveSpec
    from search.executors.ray import RayExecutor

    executor = RayExecutor(ObjectiveSpec("toy:Toy"), "cpu", 1, notice=print)
    executor.ready()
    executor.start(0, Task(0, {"x": 0.1, "mode": "hang"}, 1, 4))
    executor.wait(1)
    print("training", flush=True)
    if sys.stdin.readline():
        executor.close()
    else:
        executor.wait(600)
"""


@pytest.fixture
def coordinator() -> Iterator[subprocess.Popen[str]]:
    """A coordinator whose worker hangs; a line of input closes its executor."""
    command = [sys.executable, "-c", textwrap.dedent(COORDINATOR)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment(), **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == "training\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.long
@pytest.mark.parametrize("how", ["closed", "killed"])
def test_no_process_outlives_the_search(coordinator: subprocess.Popen[str], how: str):
    processes = children(coordinator.pid)
    assert len(processes) > 3
    agents = {pid for pid in processes if how == "killed" and is_ray_agent(pid)}
    listening = {address for pid in processes for address in listening_addresses(pid)}
    assert listening
    assert all(address.is_loopback for address in listening), listening
    started = time.monotonic()
    if how == "killed":
        coordinator.kill()
        coordinator.wait()
    else:
        coordinator.communicate("close\n", timeout=10)
    for pids, within_s in (processes - agents, 10), (agents, 90):
        while any(map(alive, pids)) and time.monotonic() - started < within_s:
            time.sleep(0.05)
        assert not [process_name(pid) for pid in pids if alive(pid)]
        print(f"{how}: {len(pids)} processes ended within {time.monotonic() - started:.1f} s")


def listening_addresses(pid: int) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses at which a process listens for TCP."""
    sockets, addresses = set(), set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(descriptor))
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                words = struct.unpack(f"<{len(local) // 8}I", bytes.fromhex(local.partition(":")[0]))
                address = ipaddress.ip_address(b"".join(word.to_bytes(4, "big") for word in words))
                addresses.add(getattr(address, "ipv4_mapped", None) or address)
    return addresses


@pytest.mark.long
def test_a_server_that_is_not_ray_is_an_error_soon(tmp_path: Path):
    """The server accepts connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        done = search("--objective", "toy:Toy", "--engine", "ray", "--address", address, cwd=tmp_path)
    print(f"error after {time.monotonic() - start:.1f} s")
    assert done.returncode == 2
    assert re.fullmatch(rf"Error: --address {address}: .*ray status shows whether it runs\n", done.stderr)
    assert time.monotonic() - start < 40
