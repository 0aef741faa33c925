"""Answers to a function: suggested values, facts about its study, attributes under the user's names."""

import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from copy import copy
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FixedTrial, FrozenTrial

from objectives.base import Params
from search.study import records
from search.study.study import StoredStudy

USERS_PREFIX = "user:"
"""Before an attribute of the user whose name is one of the search's own."""

READ_TRIAL = {"number", "params", "distributions", "datetime_start", "relative_params", "constraints", "user_attrs"}
CALLED = {"report", "should_prune", "set_user_attr", "set_system_attr", "set_constraint"}
READ_STUDY = {"direction", "directions", "study_name", "metric_names", "trials", "get_trials"} | {
    f"best_{what}" for what in ("value", "values", "params", "trial", "trials")
}


class FunctionMistake(Exception):
    """Optuna refuses what a function asked. The function gets Optuna's own error."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error.with_traceback(None)


@contextmanager
def mistakes(kinds: tuple[type[Exception], ...] = (Exception,)) -> Iterator[None]:
    """Raise FunctionMistake for errors of these kinds that Optuna raises in the block."""
    try:
        yield
    except kinds as error:
        raise FunctionMistake(error) from error


class FixedTrials:
    """Trials whose parameters are known, as when a configuration is trained again.

    Optuna's FixedTrial answers. No report is stored.
    """

    def __init__(self) -> None:
        self._trials: dict[str, FixedTrial] = {}

    def answer(
        self,
        run: str,
        number: int,
        params: Params,
        method: str,
        arguments: Sequence[Any],
        keywords: Mapping[str, Any],
        reported: set[int],
    ) -> Any:
        """Answer a question of the training `run`. `reported` holds the steps that it has reported."""
        trial = self._trials.setdefault(run, FixedTrial(dict(params), number))
        with mistakes():
            answer = ask(trial, method, arguments, keywords)
        if method != "report":
            return answer
        is_new = arguments[1] not in reported
        reported.add(arguments[1])
        return is_new


def ask(trial: optuna.Trial | FixedTrial, method: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """Call a method of Optuna's trial, or read one of its properties. A part that a FixedTrial lacks gives None."""
    if not method.startswith("suggest_") and method not in READ_TRIAL | CALLED:
        raise AttributeError(f"a trial has no {method!r}")
    answer = getattr(trial, method, None)
    return answer(*arguments, **keywords) if callable(answer) else answer


def choice_index(choices: Sequence[Any], value: Any) -> int:
    """Return the position of a suggested value among the choices."""
    with warnings.catch_warnings(action="ignore"):
        return int(CategoricalDistribution(choices).to_internal_repr(value))


def answer_about_study(stored: StoredStudy, name: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """Answer what a function asks its study, from the stored one."""
    if name == "user_attrs":
        return users_attrs(stored.attrs(), records.STUDY_ATTRS)
    if name == "set_user_attr":
        key, value = arguments
        return stored.set_attr(own_key(key, records.STUDY_ATTRS), value)
    with mistakes((AttributeError, KeyError, RuntimeError, TypeError, ValueError)):  # others are of the database
        if name not in READ_STUDY:
            raise AttributeError(f"a study has no {name!r} while a search runs it")
        answer = getattr(stored.optuna_study, name)
        return _as_users(answer(*arguments, **keywords) if callable(answer) else answer)


def _as_users(answer: Any) -> Any:
    """Trials with the attributes that the user has set, which others may share; anything else as it is."""
    if isinstance(answer, list):
        return [_as_users(entry) for entry in answer]
    if not isinstance(answer, FrozenTrial):
        return answer
    trial = copy(answer)
    trial.user_attrs = users_attrs(answer.user_attrs, records.TRIAL_ATTRS)
    return trial


def own_key(key: str, ours: Set[str]) -> str:
    """Return the key under which an attribute of the user is stored."""
    return f"{USERS_PREFIX}{key}" if key in ours else key


def users_attrs(attrs: Mapping[str, Any], ours: Set[str]) -> dict[str, Any]:
    """Return the attributes that the user has set, under the user's names."""
    return {key.removeprefix(USERS_PREFIX): value for key, value in attrs.items() if key not in ours}
