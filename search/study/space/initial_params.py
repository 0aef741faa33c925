"""Initial parameters, tried before the sampler's: baselines of the objective, and the best of earlier studies."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from optuna.trial import FrozenTrial

from objectives.base import Experienced, Objective, ObjectiveError, Params, ParamValue
from objectives.functions.objective import FunctionObjective
from search.common.errors import UsageError
from search.common.passwords import first_line
from search.common.text import readable
from search.study import records
from search.study.records import StudyRecord, TrialRecord
from search.study.selection.winner import completed
from search.study.space.asked_trial import PartialTrial, of_this_version
from search.study.space.limits import Limits, describe
from search.study.space.objective_calls import require_baselines, require_portfolio
from search.study.space.plain_values import is_number
from search.study.space.space import WHOLE_SPACE, Space, configuration_key, contains, format_distribution, search_space

WARM_START_TRIALS = 5
"""Number of configurations taken over from one earlier study, or from several together."""
LARGEST_UNSET = 0.2
"""Share of a configuration's parameters that may be unset because a choice is gone, as an optimizer's are, but not
those of a family of networks."""


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


def portfolio(objective: Objective, space: Space, limits: Limits) -> list[InitialParams]:
    """The configurations of an objective's portfolio that fit the space and the limits.

    One is left out if its other parameters depend on a value that the space does not have.
    """
    if not isinstance(objective, Experienced):
        return []
    distributions, fitting = search_space(objective, space), []
    for rank, params in enumerate(require_portfolio(objective), start=1):
        _, taken = _fit(params, distributions, beyond=True)
        unset = missing(objective, space, taken) - missing(objective, WHOLE_SPACE, params)
        if not unset and not _above(objective, space, limits, taken):
            fitting.append(InitialParams(f"portfolio {rank}", taken, records.WARM_START))
    return fitting


def _fit(
    params: Mapping[str, ParamValue], space: Mapping[str, BaseDistribution], *, beyond: bool = False
) -> tuple[Params, Params]:
    """The parameters that a space has, at their nearest choices; and of those, with fixed values, what is in it.

    `beyond`: whether a number that is not between two choices moves to the first or last, too.
    """
    near = {name: _nearest(space[name], value, beyond=beyond) for name, value in params.items() if name in space}
    adapted = near | _fixed(near, space)
    return near, {name: value for name, value in adapted.items() if contains(space[name], value)}


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
            return _conflict(name, value, space)
    if adapted != params and missing(objective, space, adapted) - missing(objective, WHOLE_SPACE, params):
        changed = [name for name, value in adapted.items() if value != params[name]]
        return "; ".join(_conflict(name, params[name], space) for name in changed)
    return _above(objective, space, limits, adapted)


def _conflict(name: str, value: ParamValue, space: Space) -> str:
    return f"its {name} is {value}, and the search allows {format_distribution(space.narrowed[name])}"


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


@dataclass
class WarmStart:
    """Collects configurations of earlier studies as far as they fit a search, and what does not fit of them."""

    objective: Objective
    space: Space
    limits: Limits
    known: Sequence[Mapping[str, ParamValue]] = ()  # configurations that are tried anyway
    initial: list[InitialParams] = field(default_factory=list)
    repeats: bool = False  # whether one was not taken because it is tried anyway
    left_out: list[str] = field(default_factory=list)
    _removed: set[str] = field(default_factory=set)
    _rounded: list[str] = field(default_factory=list)
    _outside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.distributions = search_space(self.objective, self.space)  # of a function none: it takes what it is given

    def add(self, earlier: str, trial: TrialRecord) -> bool:
        """Take over a trial of the study `earlier`. Return False if nothing of it fits, or nothing of it is new."""
        what = f"trial {trial.number} of {earlier}"
        if "augmentation" in trial.params and "rotation_zoom" in self.distributions:
            params = {name: value for name, value in of_this_version(trial.params).items() if name != "augmentation"}
            trial = replace(trial, params=params)
        if is_function := isinstance(self.objective, FunctionObjective):  # nobody knows its space
            near = fitting = dict(trial.params)
            asked, reason = fitting, None
        else:
            near, fitting = _fit(trial.params, self.distributions)
            partial = PartialTrial(fitting)
            self.space.suggest(self.objective, partial)
            asked = {name: value for name, value in fitting.items() if name in partial.params}
            reason = self._why_unfit(trial.params, fitting, partial)
        if not fitting:
            return False
        others = (*self.known, *(initial.params for initial in self.initial))
        # Compared, not hashed: a choice of a function may be a list.
        if configuration_key(asked) in map(configuration_key, others):
            self.repeats = True
            return False
        if reason is not None:
            self.left_out.append(f"{what}: {reason}")
            return False
        self.initial.append(InitialParams(f"{earlier} #{trial.number}", fitting, records.WARM_START))
        if not is_function:
            self._report(trial, what, near, fitting)
        return True

    def _why_unfit(self, params: Mapping[str, ParamValue], fitting: Params, partial: PartialTrial) -> str | None:
        """Why `fitting`, which is left of an earlier trial's `params`, is not tried, in words. None if it is.

        `partial` has been asked for a configuration.
        """
        gone = [
            f"{name}={value}"
            for name, value in params.items()
            if isinstance(value, str) and name in self.distributions and not contains(self.distributions[name], value)
        ]
        unset = partial.missing - params.keys()
        if gone and len(unset) > LARGEST_UNSET * len(partial.params):
            return f"without {', '.join(gone)} it does not set {', '.join(sorted(unset))}"
        return _above(self.objective, WHOLE_SPACE, self.limits, fitting)

    def _report(self, trial: TrialRecord, what: str, near: Params, fitting: Params) -> None:
        """Note what of a trial is not taken over as it is. `near` has the nearest choices, `fitting` what is taken."""
        self._removed |= trial.params.keys() - self.distributions.keys()
        self._rounded += [
            f"{name} = {trial.params[name]} of {what} (here {value})"
            for name, value in near.items()
            if value != trial.params[name]
        ]
        self._outside += [
            f"{name} = {readable(value, digits=3)} of {what} (here {format_distribution(self.distributions[name])})"
            for name, value in trial.params.items()
            if name in self.distributions and name not in fitting
        ]

    @property
    def place(self) -> str:
        """When the configurations are tried, in words. A function has no baselines."""
        return "first" if isinstance(self.objective, FunctionObjective) else "after the baselines"

    def notices(self, taken: str) -> list[str]:
        """Describe for the user what was taken over and what was not. `taken`: the former in words."""
        notices = [f"warm start: {taken}"]
        if self.left_out:
            more = " ..." if len(self.left_out) > WARM_START_TRIALS else ""
            notices.append(f"warm start: left out: {'; '.join(self.left_out[:WARM_START_TRIALS])}{more}")
        if self._removed:
            notices.append(f"warm start: not a parameter here, and skipped: {', '.join(sorted(self._removed))}")
        if self._rounded:
            notices.append(f"warm start: no choice here, and replaced by the nearest one: {'; '.join(self._rounded)}")
        if self._outside:
            notices.append(f"warm start: out of range, and resampled: {'; '.join(self._outside)}")
        return notices


def warm_start(earlier: StudyRecord, start: WarmStart) -> tuple[list[InitialParams], list[str]]:
    """The best configurations of an earlier study as far as they fit, and notices about what does not.

    Raises UsageError when nothing fits.
    """
    flag = f"--warm-start {earlier.name}"
    trials = completed(earlier)
    if not trials:
        raise UsageError(f"{flag}: none of its trials was completed, so it has no best to start from")
    for trial in trials:
        if len(start.initial) < WARM_START_TRIALS:
            start.add(earlier.name, trial)
    if not start.initial and start.repeats:
        return [], start.notices(f"what fits of study {earlier.name} is tried anyway")
    if not start.initial:
        those = f", whose parameters are {', '.join(start.distributions)}" if start.distributions else ""
        allowed = f"the limits and the space of this search{those}"
        reasons = "".join(f" ({reason})" for reason in start.left_out[:1])
        raise UsageError(f"{flag}: none of its best trials fits {allowed}{reasons}; leave the flag out")
    return start.initial, start.notices(f"the best {len(start.initial)} of study {earlier.name} come {start.place}")


def confirmed_first(study: StudyRecord) -> list[TrialRecord]:
    """Sort the completed trials: the winner, the confirmed ones by their mean, the others by their value."""
    summary, sign = study.summary, study.direction.sign
    candidates = summary.confirmation.candidates if summary and summary.confirmation else ()
    means = {candidate.number: candidate.mean for candidate in candidates if candidate.mean is not None}
    winner = summary.number if summary else None
    return sorted(
        completed(study), key=lambda t: (t.number != winner, t.number not in means, -sign * means.get(t.number, 0.0))
    )


def _nearest(distribution: BaseDistribution, value: ParamValue, *, beyond: bool) -> ParamValue:
    """The nearest value of a stepped range; or the choice whose ratio to `value` is nearest to 1.

    Choices must be numbers above 0, on both sides of `value` unless `beyond`. Anything else stays as it is.
    """
    if isinstance(distribution, FloatDistribution) and distribution.step and is_number(value):
        low, step, given = distribution.low, distribution.step, float(value or 0)
        return low + round((given - low) / step) * step if low <= given <= distribution.high else value
    if not isinstance(distribution, CategoricalDistribution):
        return value
    choices: Any = distribution.choices
    number: Any = value
    if not all(map(is_number, (*choices, number))) or min(*choices, number) <= 0:
        return value
    if not beyond and not min(choices) < number < max(choices):
        return value
    nearest: ParamValue = min(choices, key=lambda choice: abs(math.log(choice / number)))
    return nearest


def as_stored(initial: Sequence[InitialParams]) -> list[list[Any]]:
    """Plain values to store with a study, which resumes from them even without the earlier study."""
    return [[params.name, params.params] for params in initial]


def from_stored(stored: Sequence[Sequence[Any]]) -> list[InitialParams]:
    """Initial parameters from the values that `as_stored` gave."""
    return [InitialParams(name, params, records.WARM_START) for name, params in stored]
