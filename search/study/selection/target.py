"""The stopping rule behind `--target VALUE`: a search ends when a trial reaches a value and other trainings confirm it.

It depends on what the study stores alone, so a resumed search comes to the same decision.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from objectives.base import Objective
from search.common.direction import Direction
from search.common.errors import UsageError
from search.study import records
from search.study.records import StudyRecord, TrialRecord
from search.study.selection.intervals import possible_values
from search.study.selection.winner import completed
from search.study.summary import Candidate, Summary, counted


@dataclass(frozen=True)
class Target:
    """A value of the metric that ends a search."""

    value: float
    direction: Direction
    seeds: int = 0  # trainings on fresh seeds or folds whose mean must reach it; 0 if one trial's value is enough

    @classmethod
    def of(cls, value: float, objective: Objective) -> Self:
        """Make the target of a search. Raises UsageError for a value that the objective's metric cannot have."""
        low, high = possible_values(objective) or (None, None)
        if (low is None or low <= value) and (high is None or value <= high):
            return cls(value, Direction(objective.direction))
        limits = [f"at {name} {bound:g}" for name, bound in (("least", low), ("most", high)) if bound is not None]
        advice = f"Did you mean --target {value / 100:g}?" if (low, high) == (0, 1) and 10 <= value <= 100 else ""
        raise UsageError(f"--target {value:g}: {objective.metric} is {' and '.join(limits)}. {advice}".rstrip())

    def of_mean(self, seeds: int) -> Self:
        """Return the target for the mean of this many trainings."""
        return replace(self, seeds=seeds)

    def is_reached(self, value: float) -> bool:
        """Return whether a value is as good. A mean that differs by rounding alone counts as equal."""
        return self.direction.gain(value, self.value) >= 0 or math.isclose(value, self.value)

    def reached_by(self, trials: Iterable[TrialRecord]) -> list[TrialRecord]:
        """Return those of the trials that reached it: completed ones within the limits."""
        valued = [(trial, trial.value) for trial in trials if trial.may_win]
        return [trial for trial, value in valued if value is not None and self.is_reached(value)]

    def refuted(self, attrs: Mapping[str, Any]) -> set[int]:
        """Return the numbers of trials whose trainings, as many as now, have missed it. `attrs`: the study's."""
        stored = attrs.get(records.REFUTED) or {}
        is_same = self.seeds > 0 and (stored.get("target"), stored.get("seeds")) == (self.value, self.seeds)
        return set(stored["trials"]) if is_same else set()

    def with_refuted(self, trials: Iterable[int], attrs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the study stores when the means of more trials have missed it. `attrs`: the study's."""
        return {"target": self.value, "seeds": self.seeds, "trials": sorted(self.refuted(attrs) | {*trials})}

    def waiting(self, trials: Iterable[TrialRecord], attrs: Mapping[str, Any]) -> list[TrialRecord]:
        """Return those of the trials that reached it and that no mean has refuted. `attrs`: the study's."""
        refuted = self.refuted(attrs)
        return [trial for trial in self.reached_by(trials) if trial.number not in refuted]

    def is_confirmed_by(self, candidate: Candidate) -> bool:
        """Return whether its mean reaches it, and all of its trainings came to their end."""
        return candidate.mean is not None and not candidate.failed and self.is_reached(candidate.mean)

    def is_confirmed(self, summary: Summary) -> bool:
        """Return whether the winner confirms it. In a search that confirms nothing, its trial is enough."""
        if summary.confirmation is None:
            return self.is_reached(summary.value)
        return summary.confirmed is not None and self.is_confirmed_by(summary.confirmed)

    def describe(self, study: StudyRecord, summary: Summary) -> str:
        """Say whether the search reached it."""
        name, winner = f"--target {self.value:g}", f"trial {summary.number}"
        noun = summary.confirmation.noun if summary.confirmation else "fresh seed"
        if self.is_confirmed(summary) and summary.confirmed is None:
            return f"{name} is reached, but not confirmed: {winner} has {summary.value:.6g}"
        if self.is_confirmed(summary) and summary.confirmed is not None:
            seeds = counted(len(summary.confirmed.values), noun)
            return f"{name} is confirmed: {winner} has a mean of {summary.score:.6g} on {seeds}"
        if not (n_reached := len(self.reached_by(study.trials))):
            return f"{name} was not reached: the best trial has {completed(study)[0].value:.6g}"
        candidates = summary.confirmation.candidates if summary.confirmation else ()
        means = [candidate.mean for candidate in candidates if candidate.mean is not None and not candidate.failed]
        best = max(means, key=lambda mean: self.direction.sign * mean, default=None)
        found = f"{noun}s failed" if best is None else f"the best mean on {noun}s is {best:.6g}"
        return f"{name} was not confirmed: {counted(n_reached, 'trial')} reached it, but {found}"
