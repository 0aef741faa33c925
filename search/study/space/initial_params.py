"""Initial parameters, tried before the sampler's: baselines of the objective, and the best of an earlier study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from objectives.base import Objective, ObjectiveError, Params, ParamValue
from search.common.errors import UsageError
from search.common.text import readable
from search.study import records
from search.study.records import StudyRecord, TrialRecord
from search.study.space.limits import Limits, describe
from search.study.space.objective_calls import call, explain_errors
from search.study.space.space import ConfigurationKey, Space, configuration_key, contains, search_space, words

WARM_START_TRIALS = 5
"""How many configurations are taken over from an earlier study."""


@dataclass(frozen=True)
class InitialParams:
    """A configuration to try first. Parameters that it leaves out are sampled."""

    name: str
    params: Params
    origin: str = records.BASELINE
    """The trial attribute under which the name is stored."""


class PartialTrial:
    """A trial that suggests given values, and the lowest value or first choice where none is given."""

    def __init__(self, given: Mapping[str, ParamValue]) -> None:
        self._given = given
        self.params: dict[str, ParamValue] = {}
        self.missing: set[str] = set()
        """Parameters that were asked for and not given."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """The given number, or the lowest."""
        return float(self._take(name, low))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """The given number, or the lowest."""
        return int(self._take(name, low))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The given choice, or the first."""
        return self._take(name, choices[0])

    def _take(self, name: str, default: Any) -> Any:
        if name not in self._given:
            self.missing.add(name)
        self.params[name] = self._given.get(name, default)
        return self.params[name]


def example_configuration(objective: Objective) -> Params:
    """The first baseline; a random configuration if there is none."""
    for params in objective.baselines().values():
        return dict(params)
    return objective.suggest(optuna.create_study(sampler=RandomSampler(seed=0)).ask())


# ---- baselines


def baselines(objective: Objective, space: Space, limits: Limits) -> tuple[list[InitialParams], list[str]]:
    """The baselines that fit the space and the limits, and notices about those that were changed or left out.

    A fixed parameter replaces the baseline's value if the baseline then still sets every parameter; the name says so.
    A baseline outside a narrowed range or above a limit is left out. Raises ObjectiveError for an impossible choice.
    """
    kept, notices, whole = [], [], search_space(objective)
    for name, params in objective.baselines().items():
        _check_choices(name, params, whole)
        if strange := sorted(set(params) - set(whole)):
            notices.append(f"baseline {name} has {', '.join(strange)}, which suggest does not ask for")
        fixed = _fixed_otherwise(params, space)
        if isinstance(fixed, str):
            notices.append(f"baseline {name} is left out: {fixed}")
            continue
        if fixed:
            name = f"{name} ({', '.join(f'{parameter}={value}' for parameter, value in fixed.items())})"
        adapted = {**params, **fixed}
        if fixed and (lost := missing(objective, space, adapted) - missing(objective, Space(), params)):
            notices.append(f"baseline {name} is left out: it does not set {', '.join(sorted(lost))}")
        elif (too_large := _above(objective, space, limits, adapted)) is not None:
            notices.append(f"baseline {name} is left out: it has {too_large}, too many")
        else:
            if fixed:
                notices.append(f"baseline {name} is tried with what is fixed")
            kept.append(InitialParams(name, adapted))
    return kept, notices


def _check_choices(name: str, params: Params, space: Mapping[str, BaseDistribution]) -> None:
    """Raise ObjectiveError for a choice that the parameter does not offer, which Optuna would reject."""
    for parameter, value in params.items():
        allowed = space.get(parameter)
        if isinstance(allowed, CategoricalDistribution) and not contains(allowed, value):
            raise ObjectiveError(f"baseline {name!r}: {parameter} is {value!r}, and suggest offers {words(allowed)}")


def _fixed_otherwise(params: Mapping[str, ParamValue], space: Space) -> Params | str:
    """The parameters that `space` fixes to another value, or why the baseline cannot be tried."""
    fixed: Params = {}
    for name, value in params.items():
        allowed = space.narrowed.get(name)
        if allowed is None or contains(allowed, value):
            continue
        if not allowed.single():
            return f"its {name} is {value}, and what is searched is {words(allowed)}"
        fixed[name] = _only_value(allowed)
    return fixed


def _only_value(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low


def missing(objective: Objective, space: Space, params: Mapping[str, ParamValue]) -> set[str]:
    """Parameters that the objective asks for, that are not fixed, and that `params` leaves out.

    Raises ObjectiveError when `suggest` fails.
    """
    trial = PartialTrial(params)
    with explain_errors():
        call("suggest", space.suggest, objective, trial)
    return {name for name in trial.missing if not space.fixes(name)}


def _above(objective: Objective, space: Space, limits: Limits, params: Params) -> str | None:
    """The figures of a configuration above a limit, in words. None if it is within them or leaves parameters out."""
    if missing(objective, space, params):
        return None
    figures = limits.figures(objective, space.suggest(objective, PartialTrial(params)))
    return None if limits.allow(figures) else describe(figures)


# ---- an earlier study


def warm_start(
    earlier: StudyRecord, objective: Objective, space: Mapping[str, BaseDistribution], limits: Limits
) -> tuple[list[InitialParams], list[str]]:
    """The best configurations of an earlier study as far as they fit `space`, and notices about what does not.

    Raises UsageError when nothing fits.
    """
    done = [trial for trial in earlier.ranked() if trial.state == TrialState.COMPLETE and trial.feasible]
    if not done:
        raise UsageError(
            f"--warm-start {earlier.name}: none of its trials was completed, so it has no best to start from"
        )
    taken: dict[ConfigurationKey, InitialParams] = {}
    removed: set[str] = set()
    outside: list[str] = []
    notices: list[str] = []
    for trial in done:
        fitting = _fitting(trial.params, space)
        key = configuration_key(fitting)
        if key in taken or not fitting:
            continue
        if len(taken) == WARM_START_TRIALS:
            break
        removed |= trial.params.keys() - space.keys()
        outside += _out_of_range(trial, fitting, space)
        if (too_large := _above(objective, Space(), limits, fitting)) is not None:
            notices.append(
                f"warm start: trial {trial.number} of {earlier.name} is left out: it has {too_large}, too many"
            )
            continue
        taken[key] = InitialParams(f"{earlier.name} #{trial.number}", fitting, records.WARM_START)
    if not taken:
        raise UsageError(
            f"--warm-start {earlier.name}: nothing of its best trials fits the limits and the space of this search, "
            f"whose parameters are {', '.join(space)}; leave the flag out"
        )
    notices.append(f"warm start: the best {len(taken)} of study {earlier.name} come after the baselines")
    if removed:
        notices.append(f"warm start: not a parameter here, and skipped: {', '.join(sorted(removed))}")
    if outside:
        notices.append(f"warm start: out of range, and resampled: {'; '.join(outside)}")
    return list(taken.values()), notices


def _fitting(params: Mapping[str, ParamValue], space: Mapping[str, BaseDistribution]) -> Params:
    """The parameters that `space` allows. A fixed parameter takes its only value."""
    fitting: Params = {}
    for name, value in params.items():
        if (allowed := space.get(name)) is None:
            continue
        if contains(allowed, value):
            fitting[name] = value
        elif allowed.single():
            fitting[name] = _only_value(allowed)
    return fitting


def _out_of_range(trial: TrialRecord, fitting: Params, space: Mapping[str, BaseDistribution]) -> list[str]:
    return [
        f"{name} = {readable(value, digits=3)} of trial {trial.number} (here {words(space[name])})"
        for name, value in trial.params.items()
        if name in space and name not in fitting
    ]


def as_stored(initial: Sequence[InitialParams]) -> list[list[Any]]:
    """Plain values to store with a study: it resumes from them, whatever happens to the earlier study."""
    return [[params.name, params.params] for params in initial]


def from_stored(stored: Sequence[Sequence[Any]]) -> list[InitialParams]:
    """Initial parameters from the values that `as_stored` gave."""
    return [InitialParams(name, params, records.WARM_START) for name, params in stored]
