"""The trials of a study: sampled and pruned on a copy in memory, stored as they start, report and end.

The coordinator is the study's only writer, so the copy is exact. A trial enters the storage whole, in one transaction,
when its training starts. Trials have the same numbers in both, which the storage asserts.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.trial import FrozenTrial, TrialState

from objectives.base import Params
from search.study import records
from search.study.records import TrainingResult
from search.study.sampling.history import SamplingCopy
from search.study.sampling.proposals import Proposals
from search.study.space.initial_params import InitialParams, baselines
from search.study.space.limits import Limits
from search.study.space.space import WHOLE_SPACE, Space
from search.study.study import NO_LIMITS, StoredStudy


@dataclass(frozen=True)
class PreparedTrial:
    """A trial that is ready to train."""

    number: int
    params: Params
    baseline: str | None = None
    last_step: int = 0  # the last stored step of a trial that is resumed
    last_value: float | None = None  # the value at that step


class SamplingStudy:
    """Asks, starts, reports and tells the trials of a stored study. Used by one thread."""

    def __init__(
        self, stored: StoredStudy, memory: SamplingCopy, study: optuna.Study, proposals: Proposals, pruner: BasePruner
    ) -> None:
        self.stored, self.objective, self.limits, self.finished = stored, stored.objective, proposals.limits, 0
        self._storage, self._memory, self._copy = stored.storage, memory, study
        self._memory_id = study._study_id  # private, as in Optuna 5.0.0: a study has no public id
        self.proposals, self._pruner = proposals, pruner
        self._stored_ids: list[int] = []
        self.unfinished: list[FrozenTrial] = []  # trials that `resume` continues
        self._stored_study_attrs: dict[str, Any] = {}  # system attributes of the study that the storage has
        self._stored_attrs: dict[int, dict[str, Any]] = {}  # system attributes of each trial that the storage has

    @classmethod
    def open(
        cls,
        stored: StoredStudy,
        *,
        pruner: BasePruner,
        sampler: str,
        seed: int,
        space: Space = WHOLE_SPACE,
        limits: Limits = NO_LIMITS,
        initial: Sequence[InitialParams] | None = None,
    ) -> Self:
        """Copy a stored study into memory. `initial` parameters are tried first; None: the objective's baselines."""
        memory, objective = SamplingCopy(), stored.objective
        memory.create_new_study(stored.storage.get_study_directions(stored.study_id), stored.name)
        # With another pruner here, Optuna would show the sampler only one Hyperband bracket.
        study = optuna.load_study(study_name=stored.name, storage=memory, pruner=NopPruner())
        if initial is None:
            initial = baselines(objective, space, limits)[0]
        proposals = Proposals(objective, memory, study, sampler, seed, space, limits, initial)
        sampling = cls(stored, memory, study, proposals, pruner)
        sampling._load()
        return sampling

    def _load(self) -> None:
        self._stored_study_attrs = self._storage.get_study_system_attrs(self.stored.study_id)
        for key, value in self._stored_study_attrs.items():
            self._memory.set_study_system_attr(self._memory_id, key, value)
        for trial in self.stored.optuna_study.get_trials(deepcopy=False):
            self._memory.create_new_trial(self._memory_id, self._as_sampler_sees(trial))
            self._stored_ids.append(trial._trial_id)  # private, as in Optuna 5.0.0: a trial has no public id
            self._stored_attrs[trial.number] = dict(trial.system_attrs)
            self.proposals.note(trial)
            if trial.state.is_finished():
                self.finished += 1
            else:
                self.unfinished.append(trial)

    def _as_sampler_sees(self, trial: FrozenTrial) -> FrozenTrial:
        """A diverged trial counts as the worst so far, since a sampler learns nothing from a failed one."""
        if trial.user_attrs.get(records.FAILURE) != "diverged" or (worst := self._worst()) is None:
            return trial
        completed = copy(trial)
        completed.state, completed.value = TrialState.COMPLETE, worst
        return completed

    def _worst(self) -> float | None:
        """The worst value of any ended trial."""
        ended = self._copy.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        values = (trial.value for trial in ended if trial.value is not None)
        return min(values, key=lambda value: self.stored.direction.sign * value, default=None)

    def resume(self) -> list[PreparedTrial]:
        """The trials that a dead coordinator left running, or that a user enqueued, with their sampling finished."""
        unfinished, self.unfinished = self.unfinished, []
        return [self._resumed(trial) for trial in unfinished]

    def _resumed(self, trial: FrozenTrial) -> PreparedTrial:
        number, memory_id, stored_id = trial.number, self._id(trial.number), self._stored_ids[trial.number]
        if trial.state == TrialState.WAITING:
            self._memory.set_trial_state_values(memory_id, TrialState.RUNNING)
            self._storage.set_trial_state_values(stored_id, TrialState.RUNNING)
        params = self.proposals.complete(number, memory_id)
        sampled = self._memory.get_trial(memory_id)
        for name, distribution in sampled.distributions.items():
            if name not in trial.params:
                internal = distribution.to_internal_repr(sampled.params[name])
                self._storage.set_trial_param(stored_id, name, internal, distribution)
        last_step = max(trial.intermediate_values, default=0)
        last_value = trial.intermediate_values.get(last_step)
        return PreparedTrial(number, params, trial.user_attrs.get(records.BASELINE), last_step, last_value)

    def ask(self) -> PreparedTrial | None:
        """Sample the next trial, on the copy: `start` stores it. None when nothing is left to try."""
        number = len(self._copy.get_trials(deepcopy=False))
        if (proposal := self.proposals.next(number)) is None:
            return None
        params, initial = proposal
        return PreparedTrial(number, params, initial.name if initial and initial.origin == records.BASELINE else None)

    def holds(self, number: int) -> bool:
        """True if the storage has this trial."""
        return number < len(self._stored_ids)

    def start(self, prepared: PreparedTrial, attrs: Mapping[str, Any]) -> None:
        """Store a sampled trial, whole and running."""
        trial_id = self._id(prepared.number)
        user_attrs = {**self._memory.get_trial(trial_id).user_attrs, **attrs}
        trial = self._memory.replace(trial_id, datetime_start=datetime.now(), user_attrs=user_attrs)
        self._stored_attrs[prepared.number] = dict(trial.system_attrs)
        self._stored_ids.append(self._storage.start_trial(self.stored.study_id, trial))
        self._store_study_attrs()

    def report(self, number: int, step: int, value: float, *, prunable: bool = True) -> bool:
        """Store a metric. Returns True if the trial ends here: it is `prunable`, and the pruner ends it.

        The pruner's attributes of a trial that ends are stored with its end, so a killed search decides the same again.
        """
        trial_id = self._id(number)
        # Pruners look at the last step alone. Earlier steps were decided before a kill.
        is_last = step >= max(self._memory.get_trial(trial_id).intermediate_values, default=0)
        self._memory.set_trial_intermediate_value(trial_id, step, value)
        ends = is_last and self._pruner.prune(self._copy, self._memory.get_trial(trial_id)) and prunable
        self._storage.report_trial(self._stored_ids[number], step, value, {} if ends else self._new_attrs(number))
        if not ends:
            self._store_study_attrs()
        return ends

    def tell(self, number: int, result: TrainingResult) -> FrozenTrial:
        """End a trial and return it as stored. A pruned trial gets the value of its last report."""
        trial_id, value = self._id(number), result.value
        self._memory.add_constraints(trial_id, self.limits.excess(result.metrics))
        reports = self._memory.get_trial(trial_id).intermediate_values
        if result.state == TrialState.PRUNED and reports:  # without reports, it was refused before it trained
            value = reports[max(reports)]
        worst = self._worst() if result.failure == "diverged" else None
        end = (result.value, result.state) if worst is None else (worst, None)
        self._copy.tell(number, *end)
        attrs = self._new_attrs(number)
        self._storage.end_trial(self._stored_ids[number], result.state, value, result.attrs, attrs)
        self._store_study_attrs()
        self.finished += 1
        ended = copy(self._memory.get_trial(trial_id))
        ended.state, ended.value = result.state, value  # the sampler may see another end
        ended.user_attrs = {**ended.user_attrs, **result.attrs}
        return ended

    def _id(self, number: int) -> int:
        return self._memory.get_trial_id_from_study_id_trial_number(self._memory_id, number)

    def _new_attrs(self, number: int) -> dict[str, Any]:
        """System attributes that sampler and pruner set on the copy of a trial and the storage lacks."""
        stored, attrs = self._stored_attrs[number], self._memory.get_trial(self._id(number)).system_attrs
        new = {key: value for key, value in attrs.items() if stored.get(key) != value}
        stored |= new
        return new

    def _store_study_attrs(self) -> None:
        """Store the system attributes that samplers set on the copy of the study."""
        for key, value in self._memory.get_study_system_attrs(self._memory_id).items():
            if self._stored_study_attrs.get(key) != value:
                self._storage.set_study_system_attr(self.stored.study_id, key, value)
                self._stored_study_attrs[key] = value
