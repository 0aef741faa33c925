"""Places to hurt a search in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Place, say


@pytest.fixture(autouse=True)
def timed() -> Iterator[None]:
    """Every test here says what it took."""
    started = time.monotonic()
    yield
    say(f"took {time.monotonic() - started:.0f} s")


@pytest.fixture
def make_place() -> Iterator[Callable[..., Place]]:
    """Places of which no process outlives the test."""
    made: list[Place] = []

    def make(*arguments: Any, **named: Any) -> Place:
        made.append(Place(*arguments, **named))
        return made[-1]

    yield make
    for place in made:
        place.clear()


@pytest.fixture
def empty(make_place: Callable[..., Place], tmp_path: Path) -> Place:
    """A folder in which nothing was ever searched."""
    return make_place(tmp_path / "empty")


@pytest.fixture
def place(make_place: Callable[..., Place], folder: Path) -> Place:
    """A folder whose databases are made already, which saves seconds where their making is not the question."""
    return make_place(folder)
