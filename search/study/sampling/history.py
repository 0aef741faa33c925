"""The copy of a study on which trials are sampled: in memory, and TPE sees only a part of a long one."""

import copy
import heapq
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.common.direction import Direction

GOOD_TRIALS, RECENT_TRIALS = 25, 275
"""Numbers of ended trials of a long study that TPE sees: the best ones, and the latest of the others."""


class SamplingCopy(InMemoryStorage):
    """One study in memory, of which TPE sees a part.

    TPE slows down with the trials it sees. It models at most 25 good trials and gives little weight to the older ones
    of the others. Source: `gamma` and `weights` of optuna.samplers.TPESampler, with their defaults.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hides = False
        self._shown: list[int] = []
        """Numbers of the visible trials, of those before `_checked`. A hidden trial never becomes visible again."""
        self._checked = 0

    def replace(self, trial_id: int, **fields: Any) -> FrozenTrial:
        """Replace a trial by a copy with some other fields, and return it."""
        trial = copy.copy(self.get_trial(trial_id))
        for name, value in fields.items():
            setattr(trial, name, value)
        self._set_trial(trial_id, trial)  # private, as in Optuna 5.0.0: public methods only add to a trial
        return trial

    def restore(self, trial_id: int, earlier: FrozenTrial) -> None:
        """Make a trial what a deep copy of it says that it was."""
        self._set_trial(trial_id, copy.deepcopy(earlier))

    def remove_last(self, study_id: int) -> None:
        """Remove the trial with the highest number, which must not have ended."""
        self._studies[study_id].trials.pop()  # private, as in Optuna 5.0.0: storages keep every trial

    def keep_distributions(self, study_id: int) -> None:
        """Refuse other choices, or another kind, for a parameter that a copied trial has. Optuna's databases do."""
        known = self._studies[study_id].param_distribution  # private, as in Optuna 5.0.0: copied trials are not in it
        for trial in super().get_all_trials(study_id, deepcopy=False):
            known.update(trial.distributions)

    def add_constraints(self, trial_id: int, excess: Mapping[str, float]) -> None:
        """Set those constraints of a trial that it does not have yet."""
        trial = self.get_trial(trial_id)
        missing = {name: value for name, value in excess.items() if name not in trial.constraints}
        for key, value in create_trial(value=0.0, constraints=missing).system_attrs.items():
            self.set_trial_system_attr(trial_id, key, value)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The visible trials in order of their numbers."""
        if not self._hides:
            return super().get_all_trials(study_id, deepcopy, states)
        shown = [trial for trial in self._candidates(study_id) if states is None or trial.state in states]
        return copy.deepcopy(shown) if deepcopy else shown

    @contextmanager
    def as_shown_to(self, sampler: BaseSampler, study_id: int) -> Iterator[None]:
        """Hide the trials that this sampler need not see, until the block ends."""
        if isinstance(sampler, TPESampler):
            self._hides = True
            self._choose(study_id)
        try:
            yield
        finally:
            self._hides = False

    def _candidates(self, study_id: int) -> list[FrozenTrial]:
        trials = super().get_all_trials(study_id, deepcopy=False)
        return [trials[number] for number in self._shown] + trials[self._checked :]

    def _choose(self, study_id: int) -> None:
        """Keep visible: the good and recent trials that TPE learns from, and all that have not ended."""
        direction = Direction.of_study(self.get_study_directions(study_id)[0])
        candidates = self._candidates(study_id)
        useful = [trial for trial in candidates if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        hidden: set[int] = set()
        if len(useful) > RECENT_TRIALS:
            good = heapq.nsmallest(GOOD_TRIALS, useful, key=lambda trial: _rank(trial, direction))
            ended = {trial.number for trial in candidates if trial.state.is_finished()}
            hidden = ended - {trial.number for trial in (*good, *useful[-RECENT_TRIALS:])}
        self._shown = [trial.number for trial in candidates if trial.number not in hidden]
        self._checked = candidates[-1].number + 1 if candidates else 0


def _rank(trial: FrozenTrial, direction: Direction) -> tuple[float, ...]:
    """The order of TPE: completed trials by value, then pruned ones by their last step; infeasible ones last."""
    infeasible = sum(excess for excess in trial.constraints.values() if excess > 0)
    if trial.state == TrialState.COMPLETE:
        return infeasible, 0, 0, -direction.sign * (trial.value or 0.0)
    step, value = max(trial.intermediate_values.items(), default=(-1, 0.0))
    return infeasible, 1, -step, -direction.sign * value
