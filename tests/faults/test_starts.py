"""Starts that collide, and stores that are damaged before the start."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import BOWL, HERE, Place, say, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STARTS = 16
FORKED_ROUNDS = int(os.environ.get("FAULTS_ROUNDS", "2"))
SEARCH = (*BOWL, "--trials", 2, "--jobs", 1)
FORKED = (*BOWL, "--trials", 2, "--engine", "inline")
HELD = re.compile(r"study 'bowl' is being searched by process (\d+) on \S+ since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def check_round(place: Place, ended: dict[int, tuple[int, str]]) -> None:
    """One ran, the others were told which one."""
    winners = [pid for pid, (status, _) in ended.items() if status == 0]
    assert len(winners) == 1, ended
    for pid, (status, text) in ended.items():
        if pid != winners[0]:
            assert status == 3, text
            assert (found := HELD.search(text)), text
            assert int(found[1]) == winners[0], text
            assert "--study bowl-2" in text
    place.all_gone(5.0)
    place.assert_whole(2)


def test_16_starts_at_once(empty: Place):
    """The command itself, 16 times; the gate lets all of them go on when the last one is there."""
    gate = empty.folder / "gate"
    empty.env = {"BOWL_GATE": str(gate)}
    started = []
    for _ in range(STARTS):
        started.append((empty.begin(*SEARCH), empty.output()))
    wait_until(lambda: len(list(empty.folder.glob("gate.*"))) == STARTS, 120, "the arrival of all starts")
    gate.touch()
    ended = {process.pid: (process.wait(120), output.read_text()) for process, output in started}
    check_round(empty, ended)


@pytest.mark.long
def test_16_starts_at_once_again_and_again(make_place: Callable[..., Place], tmp_path: Path):
    """Processes forked after the imports are done, so that they meet within milliseconds and rounds are cheap."""
    places = [make_place(tmp_path / str(number), mark="forked") for number in range(FORKED_ROUNDS)]
    command = [sys.executable, HERE / "forked.py", STARTS, *(place.folder for place in places), "--", *FORKED]
    output = subprocess.run(
        list(map(str, command)),
        cwd=tmp_path,
        env=places[0].environment(),
        capture_output=True,
        text=True,
        timeout=400,
        check=True,
    ).stdout
    for place, ended in zip(places, json.loads(output), strict=True):
        check_round(place, {int(pid): tuple(end) for pid, end in ended.items()})  # type: ignore[misc]
    say(f"{FORKED_ROUNDS} rounds of {STARTS}")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Both databases after a short search."""
    place = Place(tmp_path_factory.mktemp("stores"))
    place.finish(*SEARCH)
    yield place.folder
    place.clear()


@pytest.mark.parametrize("name", ["optuna.db", "mlflow.db"])
def test_a_truncated_database_is_recognised_and_left_alone(
    make_place: Callable[..., Place], stores: Path, tmp_path: Path, name: str
):
    lengths = random.Random(name).sample(range((stores / name).stat().st_size), 6)
    seconds = []
    for length in sorted(lengths):
        place = make_place(tmp_path / str(length))
        for database in ("optuna.db", "mlflow.db"):
            shutil.copy(stores / database, place.folder)
        damaged = place.folder / name
        os.truncate(damaged, length)
        before = damaged.read_bytes()
        started = time.monotonic()
        status = place.ended(place.begin(*BOWL, "--trials", 3), 30)
        seconds.append(time.monotonic() - started)
        said = place.said()
        assert status == 1, said
        assert f"Error: {damaged} is " in said, said
        assert "Traceback" not in said
        assert damaged.read_bytes() == before
    say(f"{name} cut to {sorted(lengths)} bytes: recognised within {max(seconds):.1f} s")
    assert max(seconds) < 5
