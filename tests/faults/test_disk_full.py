"""A disk that fills up under the search, on a tmpfs of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import BOWL, Place, say

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SEARCH = (*BOWL, "--trials", 30, "--jobs", 2)
FULL = "Error: the disk is full. Nothing that was stored is lost: make room and type the same command again"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Place]:
    """A folder on a file system of 1 MB; `grow` makes it larger."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    place = Place(folder)
    yield place
    place.clear()
    subprocess.run(["umount", "--lazy", folder], check=True)


def grow(place: Place, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", place.folder], check=True)


def fill(place: Place) -> None:
    """Take the last byte that is left."""
    with (place.folder / "filler").open("wb", buffering=0) as filler:
        size = 1 << 20
        while size:
            try:
                filler.write(b"\0" * size)
            except OSError:
                size //= 2
        os.fsync(filler.fileno())


def last_line(place: Place) -> str:
    return place.said().strip().splitlines()[-1]


@pytest.mark.long
def test_full_before_the_first_trial(small: Place):
    assert small.ended(small.begin(*SEARCH)) == 1, small.said()
    say(f"with 1 MB: {last_line(small)}")
    assert last_line(small) == FULL
    assert "Traceback" not in small.said()
    grow(small, "64m")
    small.finish(*SEARCH)
    small.assert_whole(30)


def test_full_in_the_middle(small: Place):
    grow(small, "64m")
    process = small.begin(*SEARCH)
    small.until_training(process)
    fill(small)
    status = small.ended(process)
    say(f"filled while it trained: status {status}, {last_line(small)}")
    assert status == 1
    assert last_line(small) == FULL
    assert "Traceback" not in small.said()
    assert small.ended(small.begin(*SEARCH)) == 1
    say(f"started again without room: {last_line(small)}")
    assert last_line(small) == FULL
    assert small.ended(small.begin("show", "bowl")) in (0, 1)
    (small.folder / "filler").unlink()
    small.assert_integrity()
    done = small.finished()
    small.finish(*SEARCH)
    say(f"{done} trials were finished before there was room again")
    small.assert_whole(30)
