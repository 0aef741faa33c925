"""What a measurement is: repeated, alternating, and told with its spread."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from scipy.special import stdtrit

from search.common.system import git_commit, processor, usable_cores, versions

T = TypeVar("T")


class Skipped(Exception):
    """A row, or a part of one, was not measured; the message says why. A row that is a generator may yield it."""


@dataclass(frozen=True)
class Options:
    """How much to measure."""

    repeats: int
    quick: bool
    """Sizes at which every row only shows that it works; its figures mean nothing."""
    ends_at: float = math.inf
    """When no measurement begins any more, in seconds of the monotonic clock."""

    @property
    def left_s(self) -> float:
        """Seconds in which measurements may still begin."""
        return self.ends_at - time.monotonic()

    def size(self, full: int, quick: int) -> int:
        """A size of the full benchmark, or of the smoke test."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Sample:
    """One figure, measured n times."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def error(self) -> float | None:
        """Standard error of the mean; None of a single value."""
        n = len(self.values)
        return statistics.stdev(self.values) / math.sqrt(n) if n > 1 else None

    @property
    def highest_mean(self) -> float | None:
        """Upper end of the mean's 95% interval, by Student's t; None of a single value."""
        if self.error is None:
            return None
        return statistics.mean(self.values) + float(stdtrit(len(self.values) - 1, 0.975)) * self.error

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        low, high = min(self.values), max(self.values)
        return {"n": len(self.values), "median": self.median, "min": low, "max": high, "values": list(self.values)}


@dataclass(frozen=True)
class Target:
    """What the ratio, or our own figure where nothing is compared, must come to.

    Of differences, the upper end of their mean's 95% interval: "at least 0" is "not significantly below".
    """

    value: float
    better: Literal["at least", "at most"]
    of: Literal["ratio", "ours", "mean + 95%"] = "ratio"

    def __str__(self) -> str:
        return f"{self.of} {self.better} {self.value:g}"


@dataclass(frozen=True)
class Line:
    """One line of the table. `ratio` is ours / theirs for rates, theirs / ours for times, so that more is better."""

    row: int
    name: str
    unit: str
    ours: Sample
    theirs: Sample | None = None
    """As many as of ours, each measured right after it."""
    higher_is_better: bool = True
    target: Target | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    """How it was measured and what else was seen, printed under the table."""
    details: dict[str, Any] = field(default_factory=dict)
    """What only the file has."""

    @property
    def ratio(self) -> float | None:
        """The median of the ratios of neighbours: load that drifts is in both."""
        if self.theirs is None:
            return None
        pairs = zip(self.ours.values, self.theirs.values, strict=True)
        ratios = [mine / their if self.higher_is_better else their / mine for mine, their in pairs if mine and their]
        return statistics.median(ratios) if ratios else None

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None where there is none."""
        if self.target is None:
            return None
        found = {"ours": self.ours.median, "ratio": self.ratio, "mean + 95%": self.ours.highest_mean}[self.target.of]
        if found is None:
            return None
        return found >= self.target.value if self.target.better == "at least" else found <= self.target.value

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "row": self.row,
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours.as_dict(),
            "theirs": self.theirs and self.theirs.as_dict(),
            "ratio": self.ratio,
            "target": self.target and {**asdict(self.target), "text": str(self.target)},
            "met": self.met,
            "notes": self.notes,
            "details": self.details,
        }


def alternate(repeats: int, *sides: Callable[[int], T]) -> list[list[T]]:
    """Call the sides in turn, `repeats` times, each with the number of the repeat: load that drifts hits them alike.

    Gives one list per side.
    """
    found: list[list[T]] = [[] for _ in sides]
    for repeat in range(repeats):
        for side, results in zip(sides, found, strict=True):
            results.append(side(repeat))
    return found


def sample(values: Sequence[float]) -> Sample:
    """A sample of measured values."""
    return Sample(tuple(map(float, values)))


def header(options: Options) -> dict[str, Any]:
    """Where and with what everything below was measured."""
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "gpu": _gpu(),
        "load_average": list(os.getloadavg()),
        "versions": versions(),
        "git_commit": git_commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "repeats": options.repeats,
        "quick": options.quick,
    }


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
