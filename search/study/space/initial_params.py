"""Initial parameters, tried before the sampler's: baselines of the objective, and the best of an earlier study."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from objectives.base import Objective, ObjectiveError, Params, ParamValue
from objectives.functions.objective import FunctionObjective
from search.common.errors import UsageError
from search.common.passwords import first_line
from search.common.text import readable
from search.study import records
from search.study.records import StudyRecord, TrialRecord
from search.study.space.asked_trial import PartialTrial
from search.study.space.limits import Limits, describe
from search.study.space.objective_calls import require_baselines
from search.study.space.plain_values import is_number
from search.study.space.space import WHOLE_SPACE, Space, configuration_key, contains, format_distribution, search_space

WARM_START_TRIALS = 5
"""Number of configurations taken over from an earlier study."""


@dataclass(frozen=True)
class InitialParams:
    """A configuration to try first. Parameters that it leaves out are sampled."""

    name: str
    params: Params
    origin: str = records.BASELINE  # the trial attribute under which the name is stored


def example_configurations(objective: Objective, space: Space, limits: Limits) -> list[Params]:
    """The first and the last baseline in the space, which differ most in our own; others are random configurations."""
    known, study = baselines(objective, space, limits)[0], optuna.create_study(sampler=RandomSampler(seed=0))
    for initial in known[:1] + known[1:][-1:]:
        study.enqueue_trial(initial.params)  # what a baseline leaves out is sampled
    return [space.suggest(objective, study.ask()) for _ in range(2)]


def baselines(objective: Objective, space: Space, limits: Limits) -> tuple[list[InitialParams], list[str]]:
    """The baselines that fit the space and the limits, and notices about those that were changed or left out.

    A fixed parameter replaces the baseline's value. Raises ObjectiveError for an impossible choice.
    """
    fitting, notices, whole = [], [], search_space(objective)
    for name, params in require_baselines(objective).items():
        _check_choices(name, params, whole)
        if unknown := sorted(params.keys() - whole.keys()):
            notices.append(f"baseline {name} has {', '.join(unknown)}, which suggest does not ask for")
        adapted = {**params, **_fixed(params, space.narrowed)}
        if reason := _why_unfit(objective, params, adapted, space, limits):
            notices.append(f"baseline {name} is left out: {reason}")
            continue
        if changed := [f"{key}={value}" for key, value in adapted.items() if value != params[key]]:
            name = f"{name} ({', '.join(changed)})"
            notices.append(f"baseline {name} is tried with the fixed values")
        fitting.append(InitialParams(name, adapted))
    return fitting, notices


def _check_choices(name: str, params: Params, space: Mapping[str, BaseDistribution]) -> None:
    """Raise ObjectiveError for a value that the parameter cannot have, which Optuna would reject."""
    for parameter, value in params.items():
        allowed = space.get(parameter)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_possible = contains(allowed, value) if isinstance(allowed, CategoricalDistribution) else is_number
        if allowed is not None and not is_possible:
            choices = format_distribution(allowed)
            raise ObjectiveError(f"baseline {name!r}: {parameter} is {value!r}, and suggest offers {choices}")


def _why_unfit(objective: Objective, params: Params, adapted: Params, space: Space, limits: Limits) -> str | None:
    """Why a baseline, adapted to the fixed parameters, cannot be tried. None if it can."""
    for name, value in adapted.items():
        if name in space.narrowed and not contains(space.narrowed[name], value):
            return f"its {name} is {value}, and the search allows {format_distribution(space.narrowed[name])}"
    if adapted != params and (unset := missing(objective, space, adapted) - missing(objective, WHOLE_SPACE, params)):
        return f"it does not set {', '.join(sorted(unset))}"
    return _above(objective, space, limits, adapted)


def _fixed(params: Mapping[str, ParamValue], space: Mapping[str, BaseDistribution]) -> Params:
    """The only values of those parameters that `space` fixes to another value."""
    fixed: Params = {}
    for name, value in params.items():
        distribution = space.get(name)
        if distribution is None or not distribution.single() or contains(distribution, value):
            continue
        if isinstance(distribution, CategoricalDistribution):
            fixed[name] = distribution.choices[0]
        elif isinstance(distribution, FloatDistribution | IntDistribution):
            fixed[name] = distribution.low
    return fixed


def missing(objective: Objective, space: Space, params: Mapping[str, ParamValue]) -> set[str]:
    """The parameters that `params` leaves out, and that are not fixed. Raises ContractError when `suggest` fails."""
    trial = PartialTrial(params)
    space.suggest(objective, trial)
    return {name for name in trial.missing if name not in space.narrowed or not space.narrowed[name].single()}


def _above(objective: Objective, space: Space, limits: Limits, params: Params) -> str | None:
    """The limit that a configuration exceeds, in words. None if there is none, or if parameters are left out."""
    if missing(objective, space, params):
        return None
    figures = limits.figures(objective, space.suggest(objective, PartialTrial(params)))
    return None if limits.allow(figures) else f"it has {describe(figures)}, too many"


def why_not_enqueued(trial: FrozenTrial, objective: Objective, space: Space) -> str | None:
    """Why a trial that another program has enqueued cannot be run, in words. None if it lies in the space."""
    if isinstance(objective, FunctionObjective):
        return None
    fixed = trial.system_attrs.get("fixed_params")  # private, as in Optuna 5.0.0: what `enqueue_trial` stores
    given = {**(fixed if isinstance(fixed, dict) else {}), **trial.params}
    known = search_space(objective, space, given.keys())
    for name, value in given.items():
        if name not in known:
            return f"this search has no parameter {name!r}"
        if not contains(known[name], value):
            return f"its {name} is {value!r}, and the search allows {format_distribution(known[name])}"
    try:
        for name, distribution in trial.distributions.items():
            check_distribution_compatibility(distribution, known[name])
        space.suggest(objective, PartialTrial(given))
    except Exception as error:  # of any kind: the objective has never seen this combination
        return f"{type(error).__name__}: {first_line(error)}"
    return None


def warm_start(
    earlier: StudyRecord, objective: Objective, space: Mapping[str, BaseDistribution], limits: Limits
) -> tuple[list[InitialParams], list[str]]:
    """The best configurations of an earlier study as far as they fit `space`, and notices about what does not.

    Raises UsageError when nothing fits.
    """
    flag = f"--warm-start {earlier.name}"
    trials = [trial for trial in earlier.ranked() if trial.state == TrialState.COMPLETE and trial.feasible]
    if not trials:
        raise UsageError(f"{flag}: none of its trials was completed, so it has no best to start from")
    initial: dict[object, InitialParams] = {}
    removed: set[str] = set()
    notices, outside, rounded = [], [], list[str]()
    if isinstance(objective, FunctionObjective):  # nobody knows its space
        return _best_as_they_are(earlier, trials)
    for trial in trials:
        near = {name: _nearest(space[name], value) for name, value in trial.params.items() if name in space}
        fitting = {name: value for name, value in (near | _fixed(near, space)).items() if contains(space[name], value)}
        key = configuration_key(fitting)
        if key in initial or not fitting:
            continue
        if len(initial) == WARM_START_TRIALS:
            break
        removed |= trial.params.keys() - space.keys()
        outside += _out_of_range(trial, fitting, space)
        rounded += [
            f"{name} = {trial.params[name]} of trial {trial.number} (here {value})"
            for name, value in near.items()
            if value != trial.params[name]
        ]
        if reason := _above(objective, WHOLE_SPACE, limits, fitting):
            notices.append(f"warm start: trial {trial.number} of {earlier.name} is left out: {reason}")
        else:
            initial[key] = InitialParams(f"{earlier.name} #{trial.number}", fitting, records.WARM_START)
    if not initial:
        allowed = f"the limits and the space of this search, whose parameters are {', '.join(space)}"
        raise UsageError(f"{flag}: none of its best trials fits {allowed}; leave the flag out")
    notices.append(f"warm start: the best {len(initial)} of study {earlier.name} come after the baselines")
    if removed:
        notices.append(f"warm start: not a parameter here, and skipped: {', '.join(sorted(removed))}")
    if rounded:
        notices.append(f"warm start: no choice here, and replaced by the nearest one: {'; '.join(rounded)}")
    if outside:
        notices.append(f"warm start: out of range, and resampled: {'; '.join(outside)}")
    return list(initial.values()), notices


def _nearest(distribution: BaseDistribution, value: ParamValue) -> ParamValue:
    """The choice whose ratio to `value` is nearest to 1, if all choices are numbers and it lies between two of them."""
    if not isinstance(distribution, CategoricalDistribution):
        return value
    choices: Any = distribution.choices
    number: Any = value
    if not all(map(is_number, (*choices, number))) or not 0 < min(choices) < number < max(choices):
        return value
    nearest: ParamValue = min(choices, key=lambda choice: abs(math.log(choice / number)))
    return nearest


def _best_as_they_are(earlier: StudyRecord, trials: Sequence[TrialRecord]) -> tuple[list[InitialParams], list[str]]:
    initial = [
        InitialParams(f"{earlier.name} #{trial.number}", dict(trial.params), records.WARM_START)
        for trial in trials[:WARM_START_TRIALS]
    ]
    return initial, [f"warm start: the best {len(initial)} of study {earlier.name} come first"]


def _out_of_range(trial: TrialRecord, fitting: Params, space: Mapping[str, BaseDistribution]) -> list[str]:
    return [
        f"{name} = {readable(value, digits=3)} of trial {trial.number} (here {format_distribution(space[name])})"
        for name, value in trial.params.items()
        if name in space and name not in fitting
    ]


def as_stored(initial: Sequence[InitialParams]) -> list[list[Any]]:
    """Plain values to store with a study, which resumes from them even without the earlier study."""
    return [[params.name, params.params] for params in initial]


def from_stored(stored: Sequence[Sequence[Any]]) -> list[InitialParams]:
    """Initial parameters from the values that `as_stored` gave."""
    return [InitialParams(name, params, records.WARM_START) for name, params in stored]
