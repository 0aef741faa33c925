"""How much memory this process can still get."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class _Version(NamedTuple):
    """Where a version of Linux's control groups keeps the memory of a group."""

    mount: str
    controller: str
    limit: str
    usage: str
    file_cache: tuple[str, str]
    """Entries of `memory.stat`: memory that counts as used, and is given up before the limit is enforced."""


_VERSIONS = (
    _Version("sys/fs/cgroup", "", "memory.max", "memory.current", ("active_file", "inactive_file")),
    _Version(
        "sys/fs/cgroup/memory",
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_active_file", "total_inactive_file"),
    ),
)


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory in bytes that this process can still get. None where it is not known.

    It is the least of what the machine has left, what `ulimit -v` allows and what the control groups allow, by which
    containers, Slurm and systemd limit memory. `root` holds `proc` and `sys`.
    """
    limits = [*_of_machine(root), *_of_process(), *_of_control_groups(root)]
    return min(limits, default=None)


def _of_machine(root: Path) -> Iterator[int]:
    with contextlib.suppress(OSError):  # macOS has no such file
        if available := re.search(r"MemAvailable:\s+(\d+) kB", _read(root / "proc/meminfo")):
            yield int(available[1]) * 1024


def _of_process() -> Iterator[int]:
    with contextlib.suppress(ImportError, OSError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            n_pages = int(_read(Path("/proc/self/statm")).split()[0])
            yield max(0, limit - n_pages * resource.getpagesize())


def _of_control_groups(root: Path) -> Iterator[int]:
    """Of each group that holds this process. A container often sees only its own, as the outermost."""
    with contextlib.suppress(OSError):
        for line in _read(root / "proc/self/cgroup").splitlines():
            _, controllers, group = line.split(":", 2)
            for version in (version for version in _VERSIONS if version.controller in controllers.split(",")):
                inner = root / version.mount / group.lstrip("/")
                for folder in (inner, *inner.parents):
                    yield from _of_control_group(folder, version)


def _of_control_group(folder: Path, version: _Version) -> Iterator[int]:
    with contextlib.suppress(OSError):  # the outermost group of version 2 has no limit
        limit = _read(folder / version.limit).strip()
        if limit != "max":
            entries = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
            cached = sum(int(entries.get(name, 0)) for name in version.file_cache)
            yield max(0, int(limit) - int(_read(folder / version.usage)) + cached)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape")
