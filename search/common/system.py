"""The system under a search: command, code, versions and hardware behind a result, and environment variables."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from objectives.devices import processor
from search.common.passwords import mask

MODULES = str(Path(__file__).parents[2])  # the folder of the packages `search` and `objectives`
RUN_MODULE = """
import os, runpy, sys
_, modules, name = sys.argv[:3]
del sys.argv[1:3]
sys.path[:0] = [modules] if modules not in sys.path else []
try:
    sys.path.append(os.getcwd())
except OSError:
    pass  # the folder was removed
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""
WAITING = {"GOMP_SPINCOUNT": "10000", "OMP_WAIT_POLICY": "passive"}
"""How OpenMP's threads wait for each other: 10,000 turns, about half a millisecond, then they let go of their core.

A step of a CNN on MNIST with two threads took 33 ms with both and 47 with `passive` alone, as long as with one thread.
With 100,000 turns it took 31 ms. While another program used one of the two cores, a step of a narrower CNN took 209 ms
with 100,000 turns and 80 ms with 10,000 (Xeon 2.5 GHz, torch 2.15). GCC's runtime, which torch has on Linux, reads the
first name, others read the second.
"""
MAIN_PACKAGES = ("torch", "torchvision", "optuna", "mlflow", "sqlalchemy", "plotly", "numpy")


def provenance(seed: int, dataset: dict[str, Any] | None, workers: str, command: str | None = None) -> dict[str, Any]:
    """Return the provenance of a study as plain values, for its storage, report and runs. `workers`: in words.

    command: what began the search; None for the command line of this process.
    """
    machine = {"processor": processor(), "cores": usable_cores(), "system": platform.platform(), "workers": workers}
    return {
        "command": command_line(command),
        "seed": seed,
        "git_commit": git_commit(),
        "versions": versions(),
        "hardware": machine,
        "dataset": dataset,
    }


def command_line(command: str | None = None) -> str:
    """Return what began a search, without passwords. None: the command line of this process."""
    return mask(command or shlex.join(["python", "-m", "search", *sys.argv[1:]]))


def versions() -> dict[str, str]:
    """Return the versions of Python and of the main packages."""
    installed = {"python": platform.python_version()}
    for package in MAIN_PACKAGES:
        with suppress(PackageNotFoundError):  # torch built from source may have no metadata
            installed[package] = version(package)
    return installed


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_waiting() -> dict[str, str]:
    """Return the variables of `WAITING`, which workers inherit. None of them if the user has set one.

    A process reads them when it loads torch.
    """
    return {} if WAITING.keys() & os.environ.keys() else dict(WAITING)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside the block, and restore them afterwards."""
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of this program, whatever modules the current folder has.

    With `python -m`, a file `objectives.py` or `random.py` in that folder would hide the module of that name.
    """
    return [sys.executable, "-P", "-c", RUN_MODULE, MODULES, module, *arguments]


def git_commit() -> str | None:
    """Return the commit of the current folder, with `+` for uncommitted changes; None outside a repository."""
    try:
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=5
    ).stdout.strip()
