"""The outcome of a search: its winner, how that was confirmed, and how far it is ahead."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Gain:
    """How far the winner is ahead of one baseline, on the validation split."""

    baseline: str
    number: int
    value: float
    gain: float
    """Positive when the winner is better, whatever the direction."""
    half: float | None = None
    """Half of the gain's 95% interval; None where the winner was not confirmed or nothing is known of the noise."""
    seeds: int = 0
    """Fresh seeds whose mean `value` is; 0 where it is the search's one training."""

    @property
    def known_from(self) -> str:
        """What `value` rests on, for people."""
        return f"mean of {counted(self.seeds, 'fresh seed')}" if self.seeds else "one training, not confirmed"

    @property
    def doubt(self) -> str:
        """What else is to be said of the gain: its interval may hold zero."""
        return "may be chance" if self.half is not None and abs(self.gain) <= self.half else ""


@dataclass(frozen=True)
class Candidate:
    """One of the best trials, and what fresh seeds made of its setting."""

    number: int
    label: str
    searched: float
    """The value that the search saw, which is too good on average: it was chosen for it."""
    parameters: float | None
    """Size of the network."""
    values: tuple[float, ...]
    """One for each fresh seed."""
    failed: int = 0
    """Fresh seeds that came to nothing."""
    half: float | None = None
    """Half of the mean's 95% interval, wide enough for the one that is chosen; None when no setting has two seeds."""
    behind: bool = False
    """Whether chance alone does not make it so much worse than the best."""

    @property
    def spread(self) -> float | None:
        """Standard deviation of its values; None when there are not two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def mean(self) -> float | None:
        """The confirmed value."""
        return sum(self.values) / len(self.values) if self.values else None


@dataclass(frozen=True)
class Confirmation:
    """What fresh seeds said of the best trials."""

    candidates: tuple[Candidate, ...]
    """Best of the search first."""
    seeds: int
    """How many each was to have."""
    noise: float | None
    """Standard deviation of one value around its setting's mean, pooled; None when no setting has two values."""
    n_images: int | None = None
    """How many validation images the values are shares of; None where they are something else."""

    def trust(self, trials: int) -> str:
        """What the intervals of a winner out of so many trials stand for, in words."""
        if all(each.half is None for each in self.candidates):
            return "no intervals: no setting has two seeds whose values differ"
        if self.n_images is None:
            return "95% intervals of the seeds alone"
        return f"95% intervals, allowing for the best of {counted(trials, 'trial')}"

    def interval(self, candidate: Candidate) -> tuple[float, float] | None:
        """The 95% interval of a candidate's mean, from low to high; a share of images ends at 0 and 1."""
        if candidate.mean is None or candidate.half is None:
            return None
        low, high = candidate.mean - candidate.half, candidate.mean + candidate.half
        return (low, high) if self.n_images is None else (max(low, 0.0), min(high, 1.0))


@dataclass(frozen=True)
class Summary:
    """The outcome of a finished search."""

    number: int
    """The winning trial."""
    label: str
    value: float
    """Its metric on the validation split, as the search saw it."""
    params: Mapping[str, Any]
    run: str
    """The journal's name for the run whose network is scored and published."""
    gains: tuple[Gain, ...] = ()
    test: Mapping[str, float] | None = None
    """`accuracy`, `low`, `high` (95% Wilson interval), `loss`, `n`; None when the objective has no test split."""
    confusion: Sequence[Sequence[int]] | None = None
    """Test images by true class (rows) and predicted class (columns); None for very many classes."""
    model: Mapping[str, Any] | None = None
    """`name`, `version`, `alias`, `uri`; None when nothing was registered."""
    confirmation: Confirmation | None = None
    """None when the search was told not to confirm."""
    refit: Mapping[str, Any] | None = None
    """`epochs`, `seconds`, `images` of the training that made the published network; None for a confirmed one."""
    note: str | None = None
    """What went another way than it was meant to, a refit that failed for instance."""
    standing: str | None = None
    """Why the model is not the champion, or not registered; None when it is or was not to be."""

    def noted(self, text: str) -> Summary:
        """With something more to say."""
        return replace(self, note=f"{self.note}; {text}" if self.note else text)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Summary:
        """The reverse of `as_dict`."""
        values = dict(stored)
        values["gains"] = tuple(Gain(**gain) for gain in values.get("gains", ()))
        if confirmed := values.get("confirmation"):
            tried = tuple(Candidate(**{**each, "values": tuple(each["values"])}) for each in confirmed["candidates"])
            values["confirmation"] = Confirmation(**{**confirmed, "candidates": tried})
        return cls(**values)

    @property
    def confirmed(self) -> Candidate | None:
        """The winner's figures on fresh seeds; None when none of them came to its end."""
        candidates = self.confirmation.candidates if self.confirmation else ()
        return next((each for each in candidates if each.number == self.number and each.values), None)

    @property
    def score(self) -> float:
        """The best figure there is of the winner on the validation split: confirmed, where that was done."""
        confirmed = self.confirmed
        return self.value if confirmed is None or confirmed.mean is None else confirmed.mean

    @property
    def gains_rest_on(self) -> str:
        """What all gains have in common, for people: an interval each, or why there is none."""
        if any(gain.half is not None for gain in self.gains):
            return "each with its own 95% interval"
        if self.confirmation is None:
            return "not confirmed on fresh seeds, so without intervals: any of it may be chance"
        if all(len(each.values) < 2 for each in self.confirmation.candidates):
            return "no setting has two fresh seeds, so without intervals: any of it may be chance"
        return ""  # the seeds' values are all the same

    @property
    def network(self) -> str:
        """Which training made the published network: the `trial`'s own, one to `confirm` it, or the `refit`."""
        return self.run.partition("-")[0]

    def figures(self, metric: str) -> dict[str, float]:
        """The figures of the winning setting by name; `test_accuracy` is the published network's own."""
        found = {f"best_{metric}": self.value}
        if self.confirmed is not None and self.confirmed.mean is not None:
            found[f"confirmed_{metric}"] = self.confirmed.mean
        return found | ({"test_accuracy": self.test["accuracy"]} if self.test else {})


def plus_minus(half: float | None) -> str:
    """Half of an interval as a suffix; nothing when it is not known."""
    return "" if half is None else f" ± {half:.4f}"


def span(interval: tuple[float, float] | None) -> str:
    """An interval in words; nothing when it is not known."""
    return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def counted(n: int, thing: str) -> str:
    """For instance `1 fresh seed`, `2 fresh seeds`."""
    return f"{n} {thing}{'' if n == 1 else 's'}"
