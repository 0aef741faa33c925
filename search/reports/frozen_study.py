"""In-memory copies of a study for Optuna's charts, and the parameters worth drawing.

The copies are frozen, so all charts of a running search show the same trials.
They have no user attributes because Optuna writes those into every hover text.
"""

import warnings
from collections.abc import Collection
from copy import copy

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.reports.elements import excerpt
from search.study.records import StudyRecord
from search.study.space.space import contains


def frozen(study: optuna.Study) -> optuna.Study:
    """Copy all trials of a study as they are now. Those of other programs are hidden."""
    trials, foreign = study.get_trials(deepcopy=False), {trial.number for trial in StudyRecord.of(study).foreign}
    return _study_of(study, [_hidden() if t.number in foreign else _without_attrs(t) for t in trials])


def thinned(study: optuna.Study, limit: int, states: Collection[TrialState] = (TrialState.COMPLETE,)) -> optuna.Study:
    """Copy at most `limit` trials in the given states: the best, and a spread of the others.

    All others become failed trials without parameters, which no chart of values or parameters shows. They stay in
    place because a trial's number is its position.
    """
    ranked = [trial for trial in StudyRecord.of(study).ranked() if trial.state in states]
    chosen = {trial.number for trial in excerpt(ranked, limit)}
    hidden = _hidden()
    return _study_of(study, [t if t.number in chosen else hidden for t in study.get_trials(deepcopy=False)])


def _hidden() -> FrozenTrial:
    return create_trial(state=TrialState.FAIL)


def varying_params(study: optuna.Study) -> list[str]:
    """Return the parameters with at least two values among completed trials, most important first."""
    values: dict[str, set[object]] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        for name, value in trial.params.items():
            values.setdefault(name, set()).add(value)
    importances = _importances(study)
    varying = [name for name in values if len(values[name]) > 1]
    return sorted(varying, key=lambda name: (-importances.get(name, 0.0), name))


def _importances(study: optuna.Study) -> dict[str, float]:
    try:
        with warnings.catch_warnings(action="ignore"):
            return optuna.importance.get_param_importances(study)
    except Exception:  # too few trials, or equal values; the order is then alphabetical
        return {}


def _study_of(study: optuna.Study, trials: list[FrozenTrial]) -> optuna.Study:
    copied = optuna.create_study(study_name=study.study_name, direction=study.direction)
    copied.add_trials(trials)
    return copied


def _without_attrs(trial: FrozenTrial) -> FrozenTrial:
    copied = copy(trial)
    copied.user_attrs = {}
    # a user's baseline may lie outside the space, which Optuna refuses in a new study
    inside = {name: space for name, space in trial.distributions.items() if contains(space, trial.params[name])}
    copied.params, copied.distributions = {name: trial.params[name] for name in inside}, inside
    # a trial that failed while it waited has no start, which Optuna requires
    copied.datetime_start = trial.datetime_start or trial.datetime_complete
    return copied
