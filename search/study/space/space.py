"""The search space: all that an objective offers, or the part left by `--fix` and the `[space]` table of a file.

A fixed parameter stays a parameter, with one choice. Trials are stored, shown and loaded as if nothing were fixed.
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
from search.common.errors import UsageError
from search.study.space.objective_calls import call, explain_errors

PROBES = 48
"""Configurations sampled to see the search space. Two spaces that agree on all of them count as the same."""

MORE_PROBES = 500
"""Configurations sampled beyond those to find a parameter that the user names, which few of them may have."""

ConfigurationKey = tuple[tuple[str, ParamValue], ...]


def configuration_key(params: Mapping[str, ParamValue]) -> ConfigurationKey:
    """Equal for two trials with the same sampled parameters.

    Floats are rounded to 12 digits: samplers compute the values of a stepped range in different ways.
    """
    return tuple(
        (name, float(f"{value:.12g}") if isinstance(value, float) else value) for name, value in sorted(params.items())
    )


@dataclass(frozen=True)
class Space:
    """The part of an objective's space that is searched."""

    narrowed: Mapping[str, BaseDistribution] = field(default_factory=dict)
    """The remaining range or choices of each parameter that is fixed or narrowed."""

    def suggest(self, objective: Objective, trial: Suggest) -> Params:
        """The configuration that the objective makes of `trial`, within this space."""
        return dict(objective.suggest(NarrowedTrial(trial, self.narrowed) if self.narrowed else trial))

    def fixes(self, name: str) -> bool:
        """True if this parameter has one value left."""
        return name in self.narrowed and self.narrowed[name].single()


class NarrowedTrial:
    """A trial that suggests from narrower ranges and fewer choices than the objective asks for."""

    def __init__(self, trial: Suggest, narrowed: Mapping[str, BaseDistribution]) -> None:
        self._trial, self._narrowed = trial, narrowed

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number of the remaining range."""
        low, high = self._range(name, low, high)
        return self._trial.suggest_float(name, low, high, step=step, log=log)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number of the remaining range."""
        low, high = self._range(name, low, high)
        return self._trial.suggest_int(name, low, high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the remaining choices."""
        if (left := self._narrowed.get(name)) is not None:
            assert isinstance(left, CategoricalDistribution)
            choices = [choice for choice in choices if choice in left.choices]
        return self._trial.suggest_categorical(name, choices)

    def _range(self, name: str, low: Any, high: Any) -> tuple[Any, Any]:
        if (left := self._narrowed.get(name)) is None:
            return low, high
        assert isinstance(left, FloatDistribution | IntDistribution)
        return max(low, left.low), min(high, left.high)


WHOLE_SPACE = Space()


def search_space(
    objective: Objective, space: Space = WHOLE_SPACE, named: Set[str] = frozenset()
) -> dict[str, BaseDistribution]:
    """The parameters that the objective samples, by name. Draws more configurations to find those that are `named`.

    Raises ObjectiveError when `suggest` fails.
    """
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    distributions: dict[str, BaseDistribution] = {}
    for probe in range(PROBES + MORE_PROBES):
        if probe >= PROBES and named <= distributions.keys():
            break
        trial = study.ask()
        with explain_errors():
            call("suggest", space.suggest, objective, trial)
        for name, distribution in trial.distributions.items():
            distributions.setdefault(name, distribution)
    return dict(sorted(distributions.items()))


def contains(distribution: BaseDistribution, value: ParamValue) -> bool:
    """True if a parameter with this distribution may have this value."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if not isinstance(value, int | float) or not distribution.low <= value <= distribution.high:
        return False
    steps = (value - distribution.low) / (distribution.step or 1)
    return distribution.step is None or abs(steps - round(steps)) < 1e-8


def words(distribution: BaseDistribution) -> str:
    """The values of a distribution in words: `64, 128 or 256`, `0.0005 to 0.02`."""
    if isinstance(distribution, CategoricalDistribution):
        *most, last = map(str, distribution.choices)
        return f"{', '.join(most)} or {last}" if most else last
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return f"{distribution.low:g}"
    step = distribution.step if distribution.step not in (None, 1) else None
    return f"{distribution.low:g} to {distribution.high:g}" + (f" in steps of {step:g}" if step else "")


# ---- from what the user gave


def parse(text: str) -> tuple[str, Any]:
    """Split `NAME=VALUE`. The value is written as in TOML; quotes may be left out. Raises UsageError."""
    name, separator, value = (part.strip() for part in text.partition("="))
    if not separator or not name or not value:
        raise UsageError(f"--fix {text!r} is not NAME=VALUE; type for example --fix batch_size=128")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def narrow(objective: Objective, given: Sequence[str]) -> Space:
    """The space narrowed by `NAME=VALUE` texts; the last one of a name counts.

    Raises UsageError for a name that the objective does not sample, and for values that it does not allow.
    """
    if not given:
        return Space()
    wanted = dict(map(parse, given))
    known = _with_wanted(objective, wanted)
    space = Space({name: _narrowed(name, known[name], value) for name, value in wanted.items()})
    unsampled = sorted(space.narrowed.keys() - search_space(objective, space, wanted.keys()).keys())
    if unsampled:
        fixed = ", ".join(f"{name}={words(allowed)}" for name, allowed in space.narrowed.items() if allowed.single())
        raise UsageError(
            f"--fix or [space]: {', '.join(unsampled)} would never be sampled with {fixed}; leave out one or the other"
        )
    return space


def _with_wanted(objective: Objective, wanted: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """The search space with every wanted parameter. Raises UsageError for one that is never sampled.

    A parameter may appear only when another one is fixed, so each parameter found is fixed in turn.
    """
    known = search_space(objective)
    while missing := wanted.keys() - known.keys():
        space = Space({name: _narrowed(name, known[name], wanted[name]) for name in wanted.keys() & known.keys()})
        distributions = search_space(objective, space, missing)
        if missing.isdisjoint(distributions):
            name = next(name for name in wanted if name in missing)
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
            raise UsageError(f"--fix or [space]: there is no parameter {name!r}; {hint}")
        known = distributions | known
    return known


def _narrowed(name: str, allowed: BaseDistribution, value: Any) -> BaseDistribution:
    if isinstance(allowed, CategoricalDistribution):
        return _chosen(name, allowed, value)
    assert isinstance(allowed, FloatDistribution | IntDistribution)
    return _ranged(name, allowed, value)


def _chosen(name: str, allowed: CategoricalDistribution, value: Any) -> CategoricalDistribution:
    wanted = value if isinstance(value, list) else [value]
    for item in wanted:
        if not any(_matches(item, choice) for choice in allowed.choices):
            raise _impossible(name, item, allowed, f"--fix {name}={allowed.choices[0]}")
    if not wanted:
        raise _impossible(name, value, allowed, f"--fix {name}={allowed.choices[0]}")
    return CategoricalDistribution([c for c in allowed.choices if any(_matches(item, c) for item in wanted)])


def _matches(given: Any, choice: Any) -> bool:
    """True if the given value means this choice. TOML has no None, and writes True as true."""
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
