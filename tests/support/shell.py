"""The command as a person types it, and what it left behind."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from search.cli.main import cli

TESTS = Path(__file__).parents[1]
CHECKOUT = str(TESTS.parent)
"""What is tested, also where another checkout is the one that is installed."""
IMPORTABLE = os.pathsep.join((str(TESTS / "support"), str(TESTS / "testing"), CHECKOUT))
FOREIGN = (
    "SEARCH_",
    "MLFLOW_",
    "TOY_",
    "PYTHONPATH",
    "PYTHONWARNINGS",
    "COLUMNS",
    "FORCE_COLOR",
    "CI",
    "OMP_",
    "GOMP_",
)


RUNS = """
    SELECT r.run_uuid, r.status, r.lifecycle_stage FROM runs r JOIN experiments e USING (experiment_id)
    WHERE e.lifecycle_stage = 'active'
"""  # not the hidden ones that hold files of registered models
TOY = ("--objective", "toy:Toy", "--jobs", 1, "--confirm", 0)
"""A search of the tiny objective, without its ending."""


def mnist_folder() -> Path | None:
    """Where the real MNIST files are; None where they are not."""
    for place in (os.environ.get("SEARCH_DATA_DIR"), TESTS.parent.parent / "shared" / "data"):
        if place and (Path(place) / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
            return Path(place)
    return None


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without anything that would change a search; `toy` can be imported."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    offline = {
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "no_proxy": "127.0.0.1,localhost",
    }
    return {**clean, **offline, "PYTHONPATH": IMPORTABLE, **(extra or {})}


def begin(*words: object, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start `python -m search` and go on."""
    return subprocess.Popen(
        [sys.executable, "-m", "search", *map(str, words)],
        cwd=cwd,
        env=environment(env),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str], timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """Wait for it."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    """Read the output of a process until a line has these words."""
    assert process.stdout is not None
    while line := process.stdout.readline():
        if words in line:
            return
    pytest.fail(f"it ended before it printed {words!r}")


def search(*words: object, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m search` to its end."""
    return end(begin(*words, cwd=cwd, env=env))


def store(path: Path, result: subprocess.CompletedProcess[str]) -> None:
    """Keep what a command said for other processes."""
    path.write_text(json.dumps([result.args, result.returncode, result.stdout, result.stderr]))


def stored(path: Path) -> subprocess.CompletedProcess[str]:
    """What `store` kept."""
    return subprocess.CompletedProcess(*json.loads(path.read_text()))


def in_process(*words: object) -> Result:
    """Run `python -m search` in this process, where all that it imports is there already."""
    return CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)


@dataclass(frozen=True)
class Finished:
    """A finished search in a folder that no test may change."""

    folder: Path
    result: subprocess.CompletedProcess[str]


def rows(database: Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """What SQL says, read-only."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute(query, values).fetchall()


def one_file(path: Path, copy: Path) -> None:
    """A copy of a SQLite database that has no files beside it, whoever may be writing to it."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")


@contextmanager
def write_protected(folder: Path) -> Iterator[list[str]]:
    """Take the right to write from a folder. Yields the words before a command that make it count for root as well."""
    words: list[str] = []
    if os.geteuid() == 0:
        rights = "-dac_override,-dac_read_search"
        words = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]
    entries = [folder, *folder.rglob("*")]
    before = {entry: entry.stat().st_mode for entry in entries}
    try:
        for entry in entries:
            entry.chmod(before[entry] & ~0o222)
        try:
            tried = subprocess.run([*words, "touch", folder / "touched"], capture_output=True)
        except FileNotFoundError:
            pytest.skip("root can write anywhere here: there is no setpriv")
        if tried.returncode == 0:
            (folder / "touched").unlink()
            pytest.skip("no right to write can be taken away here")
        yield words
    finally:
        for entry, mode in before.items():
            entry.chmod(mode)


def runs_by_kind(folder: Path) -> dict[str, list[str]]:
    """MLflow's runs, by what they are for."""
    found = rows(folder / "mlflow.db", "SELECT value, run_uuid FROM tags WHERE key = 'kind' ORDER BY 1, 2")
    return {kind: [run for other, run in found if other == kind] for kind, _ in found}


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with a digest of it; of a database, what it holds.

    Without what a reader may leave: SQLite's side files, who held a lock last, and the note that MLflow's loader makes.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not name.endswith(("-wal", "-shm", ".lock", "/registered_model_meta")):
            found[name] = hashlib.sha256(_held(path)).hexdigest()
    return found


def _held(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(b"SQLite format 3\0"):
        return content
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return "\n".join(connection.iterdump()).encode()
    except sqlite3.Error:
        return content


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str) -> float:
    """Poll; returns the seconds that it took. Fails by naming what did not happen."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.02)
    return time.monotonic() - started


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def own_address() -> str:
    """Of this machine as others see it: Ray takes that even where it is asked for loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:  # it is alone
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def process_name(pid: int) -> str:
    """What a process calls itself; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
    except OSError:
        return ""


def is_ray_agent(pid: int) -> bool:
    """Whether it is one of Ray's helpers, which wait a minute for their head when that was killed."""
    return process_name(pid).endswith("Agent")


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def variables_of(pid: int) -> dict[str, str]:
    """Environment that a process was started with."""
    file = Path(f"/proc/{pid}/environ")
    wait_until(file.read_text, 10, f"the start of process {pid}")  # empty for a moment, also after Popen returned
    return dict(entry.split("=", 1) for entry in file.read_text().rstrip("\0").split("\0"))


def children(pid: int) -> set[int]:
    """Live processes below `pid`."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            except OSError:
                continue
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found, level = set(), {pid}
    while level := {child for child, parent in parents.items() if parent in level}:
        found |= level
    return found
