"""The running trials of a function, which suggests its parameters one by one.

Optuna's own trial, on the copy of the study, answers every question. What it decides is stored before the function
gets it. So a function that is called again for the same trial gets the same parameters.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.pruners import NopPruner

from search.common.errors import UsageError
from search.study import records
from search.study.sampling.function_answers import READ_TRIAL, ask, mistakes, own_key, users_attrs
from search.study.sampling.samplers import make_sampler
from search.study.sampling.sampling_study import SamplingStudy
from search.study.space.space import contains, format_distribution


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
        """Forget a trial that has ended."""
        del self._trials[number]

    def answer(
        self, number: int, method: str, arguments: Sequence[Any], keywords: Mapping[str, Any], reported: set[int]
    ) -> Any:
        """Answer one question. `reported` holds the steps that this call of the function has reported.

        Raises FunctionMistake for what Optuna refuses, UsageError for a fixed value that the function does not allow.
        """
        trial = self._trials[number]
        match method:
            case "report":
                return self._report(trial, reported, *arguments)
            case "should_prune":
                return self._sampling.should_prune(number, reported)
            case "set_user_attr":
                key, value = arguments
                return self._sampling.describe(number, {own_key(key, records.TRIAL_ATTRS): value})
            case "user_attrs":
                stored = self._sampling.proposals.memory.get_trial(self._sampling.trial_id(number))
                return users_attrs(stored.user_attrs, records.TRIAL_ATTRS)  # Optuna's trial has those of its start
            case "set_system_attr":
                return self._sampling.set_system_attr(number, *arguments)
            case "set_constraint":
                with mistakes():
                    trial.set_constraint(*arguments)
                return self._sampling.store_notes(number)
        if method in READ_TRIAL:
            return getattr(trial, method)
        return self._suggest(trial, method, arguments, keywords)

    def _suggest(self, trial: optuna.Trial, method: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        proposals, known = self._sampling.proposals, trial.params.keys()
        # private, as in Optuna 5.0.0: a study has no public id
        with mistakes(), proposals.memory.as_shown_to(trial.study.sampler, trial.study._study_id):
            value = ask(trial, method, arguments, keywords)
        for name in (new := trial.params.keys() - known) & proposals.space.fixed.keys():
            if not contains(distribution := trial.distributions[name], trial.params[name]):
                allowed = format_distribution(distribution)
                raise UsageError(f"--fix {name}={trial.params[name]}: the function allows {allowed}")
        if new:
            label = self._sampling.objective.describe(trial.params)
            self._sampling.store_params(trial.number, new, {records.LABEL: label})
        return value

    def _report(self, trial: optuna.Trial, reported: set[int], value: float, step: int) -> bool:
        """Store a value once, whichever call of the function reports it first. True if it is new in this call."""
        before = self._sampling.reports(trial.number).keys()
        with warnings.catch_warnings(record=True) as caught, mistakes():
            warnings.simplefilter("always")
            trial.report(value, step)
        if is_repeated := step in reported:  # else an earlier call has reported it, before a kill
            for warning in caught:
                warnings.warn(str(warning.message), warning.category, stacklevel=2)
        reported.add(step)
        if step not in before:
            self._sampling.store_report(trial.number, step)
        return not is_repeated
