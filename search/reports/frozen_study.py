"""What Optuna's charts are given: copies of a study in memory, and the parameters worth drawing.

Copies are frozen, so all charts of a running search show the same trials.
They have no user attributes: Optuna writes them into every hover text.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.reports.elements import excerpt


def frozen(study: optuna.Study) -> optuna.Study:
    """Copy all trials of a study as they are now."""
    return _study_of(study, [_copied(trial) for trial in study.get_trials(deepcopy=False)])


def thinned(study: optuna.Study, limit: int, states: Collection[TrialState] = (TrialState.COMPLETE,)) -> optuna.Study:
    """Copy at most `limit` trials in the given states: the best, and a spread of the others.

    All others become failed trials without parameters, which no chart of values or parameters shows. Their places
    are kept because a trial's number is its place.
    """
    trials = study.get_trials(deepcopy=False)
    ranked = sorted((trial for trial in trials if trial.state in states), key=lambda trial: _rank(study, trial))
    chosen = {trial.number for trial in excerpt(ranked, limit)}
    return _study_of(
        study, [trial if trial.number in chosen else create_trial(state=TrialState.FAIL) for trial in trials]
    )


def varying_params(study: optuna.Study) -> list[str]:
    """Return the parameters with at least two values among completed trials, most important first."""
    seen: dict[str, set[object]] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        for name, value in trial.params.items():
            seen.setdefault(name, set()).add(value)
    importances = _importances(study)
    several = [name for name, values in seen.items() if len(values) > 1]
    return sorted(several, key=lambda name: (-importances.get(name, 0.0), name))


def _importances(study: optuna.Study) -> dict[str, float]:
    try:
        with quiet():
            return optuna.importance.get_param_importances(study)
    except Exception:  # too few trials, or equal values; the order is then alphabetical
        return {}


def _study_of(study: optuna.Study, trials: list[FrozenTrial]) -> optuna.Study:
    with quiet():
        copy = optuna.create_study(study_name=study.study_name, direction=study.direction)
        copy.add_trials(trials)
    return copy


def _copied(trial: FrozenTrial) -> FrozenTrial:
    copy = create_trial(
        state=trial.state,
        values=trial.values,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
        constraints=trial.constraints,
    )
    # a trial that failed while it waited has no start, which Optuna requires
    copy.datetime_start = trial.datetime_start or trial.datetime_complete
    copy.datetime_complete = trial.datetime_complete
    return copy


def _rank(study: optuna.Study, trial: FrozenTrial) -> tuple[bool, float]:
    """Sort by value or, without one, by the last report; best first."""
    value = trial.value if trial.state == TrialState.COMPLETE else None
    if value is None and trial.intermediate_values:
        value = trial.intermediate_values[max(trial.intermediate_values)]
    sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
    return value is None, sign * (value or 0.0)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's log and warnings; the report has its own notes."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
