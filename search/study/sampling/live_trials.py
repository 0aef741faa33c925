"""The running trials of a function, which suggests its parameters one by one.

Optuna's own trial, on the copy of the study, answers every question. What it decides is stored before the function
gets it. So a function that is called again for the same trial gets the same parameters.
"""

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from copy import copy
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.pruners import NopPruner
from optuna.trial import FixedTrial, FrozenTrial

from objectives.base import Params
from search.study import records
from search.study.sampling.samplers import make_sampler
from search.study.sampling.sampling_study import SamplingStudy
from search.study.study import StoredStudy

USERS_PREFIX = "user:"
"""Before an attribute of the user whose name is one of the search's own."""

READ_STUDY = {"direction", "directions", "study_name", "user_attrs", "metric_names", "trials", "get_trials"} | {
    f"best_{what}" for what in ("value", "values", "params", "trial", "trials")
}
READ_TRIAL = {"params", "distributions", "datetime_start", "relative_params", "constraints"}


class LiveTrials:
    """The trials that are running. Optuna's errors and warnings are passed on."""

    def __init__(self, sampling: SamplingStudy) -> None:
        self._sampling = sampling
        self._trials: dict[int, optuna.Trial] = {}

    def begin(self, number: int) -> None:
        """Make a trial that is stored as running ready for questions."""
        study, proposals = self._sampling.stored, self._sampling.proposals
        sampler = make_sampler(proposals.sampler, proposals.seed, number)
        own = optuna.load_study(
            study_name=study.name, storage=proposals.memory, sampler=sampler, pruner=NopPruner()
        )  # of its own, because a study has one sampler
        proposals.study.sampler = sampler  # which also takes note of the trial's end
        self._trials[number] = optuna.Trial(own, self._sampling.trial_id(number))

    def end(self, number: int) -> None:
        del self._trials[number]

    def answer(
        self, number: int, method: str, arguments: Sequence[Any], keywords: Mapping[str, Any], reported: set[int]
    ) -> Any:
        """Answer one question. `reported` holds the steps that this call of the function has reported."""
        trial = self._trials[number]
        match method:
            case "number":
                return number
            case "report":
                return self._report(trial, reported, *arguments, **keywords)
            case "should_prune":
                return self._sampling.should_prune(number, reported)
            case "set_user_attr":
                return self._set_user_attr(number, *arguments, **keywords)
            case "user_attrs":
                stored = self._sampling.proposals.memory.get_trial(self._sampling.trial_id(number))
                return users_attrs(stored.user_attrs, records.TRIAL_ATTRS)  # Optuna's trial has those of its start
            case "set_system_attr":
                return self._sampling.set_system_attr(number, *arguments)
            case "set_constraint":
                trial.set_constraint(*arguments, **keywords)
                return self._sampling.store_notes(number)
        if method in READ_TRIAL:
            return getattr(trial, method)
        return self._suggest(trial, method, arguments, keywords)

    def _suggest(self, trial: optuna.Trial, method: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        memory, known = self._sampling.proposals.memory, trial.params.keys()
        # private, as in Optuna 5.0.0: a study has no public id
        with memory.as_shown_to(trial.study.sampler, trial.study._study_id):
            value = call_suggest(trial, method, arguments, keywords)
        if new := trial.params.keys() - known:
            label = self._sampling.objective.describe(trial.params)
            self._sampling.store_params(trial.number, new, {records.LABEL: label})
        return value

    def _report(self, trial: optuna.Trial, reported: set[int], value: Any, step: Any) -> bool:
        """Store a value once, whichever call of the function reports it first. True if it is new in this call."""
        before = self._sampling.reports(trial.number).keys()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trial.report(value, step)
        if is_repeated := int(step) in reported:
            _repeat(caught)
        reported.add(int(step))
        if int(step) not in before:
            self._sampling.store_report(trial.number, int(step))
        return not is_repeated

    def _set_user_attr(self, number: int, key: str, value: Any) -> None:
        json.dumps(value)  # raises the TypeError that Optuna raises with a database
        self._sampling.describe(number, {own_key(key, records.TRIAL_ATTRS): value})


def answer_fixed(
    number: int,
    params: Params,
    method: str,
    arguments: Sequence[Any],
    keywords: Mapping[str, Any],
    reported: set[int],
) -> Any:
    """Answer a question about a trial whose parameters are known, as Optuna's FixedTrial does.

    It is for a configuration that is trained again. Its reports and attributes are stored nowhere.
    """
    trial = FixedTrial(dict(params), number)
    match method:
        case "report":
            trial.report(*arguments, **keywords)
            step = int(keywords["step"] if "step" in keywords else arguments[1])
            is_repeated = step in reported
            reported.add(step)
            return not is_repeated
        case "number":
            return number
        case "params":
            return dict(params)
        case "should_prune":
            return trial.should_prune()
        case "set_user_attr" | "set_system_attr" | "set_constraint":
            return None
    if method in READ_TRIAL or method == "user_attrs":
        return getattr(trial, method, {})
    return call_suggest(trial, method, arguments, keywords)


def call_suggest(
    trial: optuna.Trial | FixedTrial, method: str, arguments: Sequence[Any], keywords: Mapping[str, Any]
) -> Any:
    """Call a `suggest_` method."""
    if not method.startswith("suggest_") or not hasattr(trial, method):
        raise AttributeError(f"a trial has no {method!r}")
    return getattr(trial, method)(*arguments, **keywords)


def _repeat(caught: Iterable[warnings.WarningMessage]) -> None:
    for warning in caught:
        warnings.warn(str(warning.message), warning.category, stacklevel=3)


def choice_index(choices: Sequence[Any], value: Any) -> int:
    """The position of a suggested value among the choices."""
    with warnings.catch_warnings(action="ignore"):
        return int(CategoricalDistribution(choices).to_internal_repr(value))


def answer_about_study(stored: StoredStudy, name: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """Answer what a function asks its study, from the stored one."""
    if name == "user_attrs":
        return users_attrs(stored.attrs(), records.STUDY_ATTRS)
    if name == "set_user_attr":
        key, value = _key_and_value(*arguments, **keywords)
        return stored.set_attr(own_key(key, records.STUDY_ATTRS), value)
    if name not in READ_STUDY:
        raise AttributeError(f"a study has no {name!r} while a search runs it")
    found = getattr(stored.optuna_study, name)
    return _as_users(found(*arguments, **keywords) if callable(found) else found)


def _as_users(found: Any) -> Any:
    """Trials with the attributes that the user has set, which others may share; anything else as it is."""
    if isinstance(found, list):
        return [_as_users(entry) for entry in found]
    if not isinstance(found, FrozenTrial):
        return found
    trial = copy(found)
    trial.user_attrs = users_attrs(found.user_attrs, records.TRIAL_ATTRS)
    return trial


def _key_and_value(key: str, value: Any) -> tuple[str, Any]:
    return key, value


def own_key(key: str, ours: Set[str]) -> str:
    """The key under which an attribute of the user is stored."""
    return f"{USERS_PREFIX}{key}" if key in ours else key


def users_attrs(attrs: Mapping[str, Any], ours: Set[str]) -> dict[str, Any]:
    """The attributes that the user has set, under the user's names."""
    return {key.removeprefix(USERS_PREFIX): value for key, value in attrs.items() if key not in ours}
