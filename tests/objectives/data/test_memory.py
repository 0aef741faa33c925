"""How much memory is free: of the machine, and where a container or a batch system limits it."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from objectives.data.files.memory import available_bytes

MB = 1_000_000
MEMINFO = "MemTotal: 16000000 kB\nMemFree: 100 kB\nMemAvailable: 8000000 kB\n"
CHILD = "from objectives.data.files.memory import available_bytes; print(available_bytes())"


def machine(root: Path, **files: str | int) -> Path:
    """A folder that looks like the root of a Linux machine. A name's double underscores stand for slashes."""
    for name, text in {"proc__meminfo": MEMINFO, **files}.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(text))
    return root


def group(folder: str, limit: str | int, usage: int, active: int, inactive: int) -> dict[str, str | int]:
    """Files of a control group of version 2."""
    stat = f"anon 7\nactive_file {active}\ninactive_file {inactive}\n"
    at = f"sys__fs__cgroup{folder}__memory."
    return {f"{at}max": limit, f"{at}current": usage, f"{at}stat": stat}


def old_group(folder: str, limit: int, usage: int, cached: int) -> dict[str, str | int]:
    """Files of a control group of version 1."""
    stat = f"cache 9\nactive_file 5\ntotal_active_file {cached}\ntotal_inactive_file 0\n"
    at = f"sys__fs__cgroup__memory{folder}__memory."
    return {f"{at}limit_in_bytes": limit, f"{at}usage_in_bytes": usage, f"{at}stat": stat}


@pytest.fixture(autouse=True)
def no_limit_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.parametrize(
    ("of_process", "groups", "free"),
    [
        ("", {}, 8192 * MB),
        ("0::/", group("", 2000 * MB, 500 * MB, 100 * MB, 200 * MB), 1800 * MB),
        ("0::/", group("", "max", 500 * MB, 0, 0), 8192 * MB),
        ("0::/", group("", 20_000 * MB, 500 * MB, 0, 0), 8192 * MB),
        ("0::/", group("", 500 * MB, 501 * MB, 0, 0), 0),
        ("0::/job/step", {**group("__job", 900 * MB, 0, 0, 0), **group("__job__step", "max", 0, 0, 0)}, 900 * MB),
        ("0::/job/step", {**group("__job", 900 * MB, 0, 0, 0), **group("__job__step", 700 * MB, 0, 0, 0)}, 700 * MB),
        ("0::/seen/only/by/the/host", group("", 600 * MB, 0, 0, 0), 600 * MB),
        ("0::/../../other", group("", 600 * MB, 0, 0, 0), 600 * MB),
        ("4:memory:/job", old_group("__job", 900 * MB, 500 * MB, 100 * MB), 500 * MB),
        ("4:cpu,memory:/docker/1f", old_group("", 900 * MB, 500 * MB, 0), 400 * MB),
        ("4:memory:/job\n1:cpu:/\n0::/", old_group("__job", 9_223_372_036_854_771_712, 500 * MB, 0), 8192 * MB),
        ("4:memory:/job:with:colons", old_group("__job:with:colons", 900 * MB, 0, 0), 900 * MB),
    ],
)
def test_the_least_that_is_left_counts(tmp_path: Path, of_process: str, groups: dict[str, str | int], free: int):
    assert available_bytes(machine(tmp_path, proc__self__cgroup=of_process, **groups)) == free


def test_nothing_is_known_where_nothing_can_be_read(tmp_path: Path):
    assert available_bytes(tmp_path) is None


@pytest.fixture
def limited() -> Iterator[Path]:
    """A real control group of 400 MB."""
    folder = Path("/sys/fs/cgroup/memory/search-test")
    try:
        folder.mkdir()
        folder.joinpath("memory.limit_in_bytes").write_text(str(400 * MB))
    except OSError as error:
        pytest.skip(f"no control groups of version 1 can be made here: {error}")
    yield folder
    folder.rmdir()


def test_the_limit_of_a_real_control_group_is_seen(limited: Path):
    program = f"open({str(limited / 'cgroup.procs')!r}, 'w').write('0')\n{CHILD}"
    free = int(subprocess.check_output([sys.executable, "-c", program], text=True))
    assert 300 * MB < free <= 400 * MB
