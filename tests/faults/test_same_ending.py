"""A search that is interrupted again and again ends as the one that never was."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import BOWL, PLAIN, Place, say

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DIGITS = ("--dataset", "digits", "--epochs", 3, "--trials", 6, "--checkpoint-interval", 0, "--no-register", *PLAIN)


def interrupt(place: Place, search: tuple[object, ...], moments: random.Random, reports: int) -> None:
    signals = [signal.SIGKILL] * 3 + [signal.SIGTERM]
    moments.shuffle(signals)
    done = []
    for number in signals:
        process = place.begin(*search)
        place.random_moment(process, moments, reports)
        assert process.poll() is None, f"it ended before it could be interrupted: {place.said()}"
        process.send_signal(number)
        assert place.ended(process, 20) == (143 if number == signal.SIGTERM else -signal.SIGKILL), place.said()
        done.append((place.finished(), place.reports()))
    say(f"interrupted by {[number.name for number in signals]} at (trials, reports) {done}")
    place.finish(*search)


@pytest.mark.parametrize(
    ("search", "trials", "reports"),
    [
        ((*BOWL, "--trials", 14, "--engine", "inline"), 14, 8),
        ((*DIGITS, "--jobs", 1), 6, 4),
    ],
    ids=["inline", "local"],
)
def test_interrupted_and_not(
    make_place: Callable[..., Place], folder: Path, search: tuple[object, ...], trials: int, reports: int
):
    names = {"study": "digits", "curve": "val/accuracy"} if "digits" in search else {}
    shutil.copytree(folder, folder.with_name("whole"))
    whole, parts = make_place(folder.with_name("whole"), **names), make_place(folder, **names)
    whole.finish(*search)
    interrupt(parts, search, random.Random(3), reports)
    whole.assert_whole(trials)
    parts.assert_whole(trials)
    differing = [(a, b) for a, b in zip(whole.story(), parts.story(), strict=True) if a != b]
    say(f"{len(differing)} of {trials} trials differ in parameters, state, value or curve")
    assert differing == []
