"""What of an objective's search space is searched: all of it, or what `--fix` and a file's `[space]` table leave.

A fixed parameter stays a parameter, with one choice: trials are stored, shown and loaded as if nothing were fixed.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import RandomSampler

from objectives.base import Objective, Params, ParamValue, Suggest
from search.asking import asking
from search.errors import UsageError

PROBES = 48
"""Settings sampled to see the search space; two spaces that agree on all of them are taken as the same."""

MORE_PROBES = 500
"""Settings sampled beyond those to see a parameter that a person names, which only rare settings may have."""


@dataclass(frozen=True)
class Space:
    """The part of an objective's space that is searched."""

    narrowed: Mapping[str, BaseDistribution] = field(default_factory=dict)
    """By name, what a parameter may be, where that is less than the objective allows."""

    def suggest(self, objective: Objective, trial: Suggest) -> Params:
        """What the objective makes of `trial`, within this space."""
        return dict(objective.suggest(Narrowed(trial, self.narrowed) if self.narrowed else trial))


class Narrowed:
    """A trial that suggests from less than it is asked for. The same calls, and nothing else."""

    def __init__(self, trial: Suggest, narrowed: Mapping[str, BaseDistribution]) -> None:
        self._trial, self._narrowed = trial, narrowed

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number of the range that is left."""
        low, high = self._range(name, low, high)
        return self._trial.suggest_float(name, low, high, step=step, log=log)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number of the range that is left."""
        low, high = self._range(name, low, high)
        return self._trial.suggest_int(name, low, high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices that are left."""
        if (left := self._narrowed.get(name)) is not None:
            assert isinstance(left, CategoricalDistribution)
            choices = [choice for choice in choices if choice in left.choices]
        return self._trial.suggest_categorical(name, choices)

    def _range(self, name: str, low: Any, high: Any) -> tuple[Any, Any]:
        if (left := self._narrowed.get(name)) is None:
            return low, high
        assert isinstance(left, FloatDistribution | IntDistribution)
        return max(low, left.low), min(high, left.high)


def search_space(
    objective: Objective, space: Space = Space(), named: Set[str] = frozenset()  # noqa: B008  # both are frozen
) -> dict[str, BaseDistribution]:  # fmt: skip
    """Every parameter that the objective was seen to sample, by name; looks longer for those that are `named`.

    Raises ObjectiveError when it cannot be asked: that makes a search impossible, not a trial.
    """
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    found: dict[str, BaseDistribution] = {}
    for probe in range(PROBES + MORE_PROBES):
        if probe >= PROBES and named <= found.keys():
            break
        trial = study.ask()
        with asking("suggest"):
            space.suggest(objective, trial)
        for name, distribution in trial.distributions.items():
            found.setdefault(name, distribution)
    return dict(sorted(found.items()))


def contains(distribution: BaseDistribution, value: ParamValue) -> bool:
    """Whether a parameter may have this value."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def words(distribution: BaseDistribution) -> str:
    """What a parameter may be, for people: `64, 128 or 256`, `0.0005 to 0.02`."""
    if isinstance(distribution, CategoricalDistribution):
        *most, last = map(str, distribution.choices)
        return f"{', '.join(most)} or {last}" if most else last
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return f"{distribution.low:g}"
    step = distribution.step if distribution.step not in (None, 1) else None
    return f"{distribution.low:g} to {distribution.high:g}" + (f" in steps of {step:g}" if step else "")


# ---- from what a person gave


def parse(text: str) -> tuple[str, Any]:
    """`NAME=VALUE` with a value as in TOML, where quotes may be left out. Raises UsageError."""
    name, separator, value = (part.strip() for part in text.partition("="))
    if not separator or not name or not value:
        raise UsageError(f"--fix {text!r} is not NAME=VALUE; type for example --fix batch_size=128")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def narrow(objective: Objective, given: Sequence[str]) -> Space:
    """The space that `NAME=VALUE` settings leave; the last one of a name counts.

    Raises UsageError for a name that the objective does not sample, and for values that it does not allow.
    """
    if not given:
        return Space()
    wanted = dict(map(parse, given))
    known = search_space(objective)
    while missing := wanted.keys() - known.keys():  # one that is fixed may be what another is sampled with
        space = Space({name: _left(name, known[name], wanted[name]) for name in wanted.keys() & known.keys()})
        found = search_space(objective, space, missing)
        if missing.isdisjoint(found):
            name = next(name for name in wanted if name in missing)
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
            raise UsageError(f"--fix or [space]: there is no parameter {name!r}; {hint}")
        known = found | known
    space = Space({name: _left(name, known[name], value) for name, value in wanted.items()})
    unasked = sorted(space.narrowed.keys() - search_space(objective, space, wanted.keys()).keys())
    if unasked:
        fixed = ", ".join(f"{name}={words(left)}" for name, left in space.narrowed.items() if left.single())
        raise UsageError(
            f"--fix or [space]: {', '.join(unasked)} would never be sampled with {fixed}; leave out one or the other"
        )
    return space


def _left(name: str, allowed: BaseDistribution, value: Any) -> BaseDistribution:
    if isinstance(allowed, CategoricalDistribution):
        return _chosen(name, allowed, value)
    assert isinstance(allowed, FloatDistribution | IntDistribution)
    return _ranged(name, allowed, value)


def _chosen(name: str, allowed: CategoricalDistribution, value: Any) -> CategoricalDistribution:
    wanted = value if isinstance(value, list) else [value]
    for item in wanted:
        if not any(_means(item, choice) for choice in allowed.choices):
            raise _impossible(name, item, allowed, f"--fix {name}={allowed.choices[0]}")
    if not wanted:
        raise _impossible(name, value, allowed, f"--fix {name}={allowed.choices[0]}")
    return CategoricalDistribution([c for c in allowed.choices if any(_means(item, c) for item in wanted)])


def _means(given: Any, choice: Any) -> bool:
    """Whether a person who gave that meant this choice. TOML has no word for None, and Python's True is its true."""
    numbers = isinstance(given, int | float) and isinstance(choice, int | float)
    if numbers and not isinstance(given, bool) and not isinstance(choice, bool):
        return bool(given == choice)
    return str(given).lower() == str(choice).lower()


def _ranged(name: str, allowed: FloatDistribution | IntDistribution, value: Any) -> FloatDistribution | IntDistribution:
    hint = f"--fix {name}={allowed.low:g}, or in [space]: {name} = [{allowed.low:g}, {allowed.high:g}]"
    ends = value if isinstance(value, list) else [value, value]
    if len(ends) != 2 or not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
        raise _impossible(name, value, allowed, hint, "one number, or a range of two")
    low, high = ends
    if low > high:
        upright = f"--fix {name}=[{high:g},{low:g}]"
        raise UsageError(f"--fix or [space]: the range {name} = [{low:g}, {high:g}] is upside down; type {upright}")
    for end in ends:
        if not math.isfinite(end) or not allowed.low <= end <= allowed.high:
            raise _impossible(name, value, allowed, hint)
        if not contains(allowed, end):
            raise _impossible(name, value, allowed, hint, f"one of the values from {words(allowed)}")
    if isinstance(allowed, IntDistribution):
        return IntDistribution(int(low), int(high), step=allowed.step, log=allowed.log)
    return FloatDistribution(float(low), float(high), step=allowed.step, log=allowed.log)


def _impossible(name: str, value: Any, allowed: BaseDistribution, hint: str, need: str = "") -> UsageError:
    return UsageError(
        f"--fix or [space]: {name} cannot be {value}; allowed: {need or words(allowed)}. Type for example {hint}"
    )
