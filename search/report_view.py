"""A frozen view of a study, for figures that must agree with each other while the search goes on."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.report_base import excerpt


class View(optuna.Study):
    """A study of which only chosen trials are seen, without their attributes; for reading."""

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        """Show `trials` under the name and directions of `study`."""
        super().__init__(study.study_name, study._storage)
        self.chosen = list(trials)

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """Optuna's signature; what is seen is never copied."""
        return [trial for trial in self.chosen if states is None or trial.state in states]

    @classmethod
    def of(cls, study: optuna.Study) -> View:
        """All trials as they are now."""
        trials = [copy.copy(trial) for trial in study.get_trials(deepcopy=False)]
        for trial in trials:
            trial.user_attrs = {}  # they would be written into every hover text
        return cls(study, trials)

    def only(self, limit: int, states: Container[TrialState] = (TrialState.COMPLETE,)) -> View:
        """At most `limit` trials in these states: the best and a spread of the others, best last."""
        ranked = sorted(self.get_trials(states=states), key=self.rank)
        return View(self, excerpt(ranked, limit)[::-1])

    def by_number(self) -> View:
        """The same trials in the order in which they were made."""
        return View(self, sorted(self.chosen, key=lambda trial: trial.number))

    def rank(self, trial: FrozenTrial) -> tuple[bool, float]:
        """What trials are sorted by, best first."""
        value = trial.value if trial.state == TrialState.COMPLETE else None
        if value is None and trial.intermediate_values:
            value = trial.intermediate_values[max(trial.intermediate_values)]
        sign = -1 if self.direction == optuna.study.StudyDirection.MAXIMIZE else 1
        return value is None, sign * (value or 0.0)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Optuna says about trials without a parameter; the report says it in its place."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
