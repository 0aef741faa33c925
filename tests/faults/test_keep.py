"""`--keep best:N` while the search is killed, and with a tracking server: only the best trials have weights."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import BOWL, Place, say
from shell import rows
from test_tracking_outage import Server, server  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEEP = (*BOWL, "--trials", 20, "--jobs", 2, "--keep", "best:2")


def best(place: Place, n: int) -> set[int]:
    completed = [(values[0], number) for number, state, _, values, _ in place.story() if state == "COMPLETE"]
    return {number for _, number in sorted(completed)[:n]}


def kept(place: Place, artifacts: Path) -> set[int]:
    """The trials with weights on disk."""
    runs = rows(place.mlflow_db, "SELECT run_uuid, value FROM tags WHERE key = 'optuna.trial.number'")
    return {int(number) for run, number in runs if list(artifacts.rglob(f"{run}/artifacts/weights.pt"))}


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.long)])
def test_killed_again_and_again(place: Place, kills: int):
    place.kill_again_and_again(KEEP, kills, random.Random(kills), early=(0, 5.0), reports=20)
    place.finish(*KEEP)
    place.assert_whole(20)
    found = kept(place, place.folder / "mlruns")
    say(f"weights of trials {sorted(found)}")
    assert found == best(place, 2)
    assert list((place.folder / "mlruns").rglob("weights/*/*")) == []


@pytest.mark.long
def test_with_a_server(make_place: Callable[..., Place], server: Server, folder: Path):  # noqa: F811
    server.start()
    place = make_place(folder, mlflow=server.database)
    place.finish(*KEEP, "--tracking-uri", server.url)
    place.assert_whole(20)
    assert kept(place, server.folder / "artifacts") == best(place, 2)
    said = place.finish("gc", "--keep", "best:1", "--tracking-uri", server.url, "--delete")
    assert "weights of 1 trial (x) can be removed" in said
    assert kept(place, server.folder / "artifacts") == best(place, 1)
