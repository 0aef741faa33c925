"""The trials of a study: sampled and pruned on a copy in memory, stored as they start, report and end.

The coordinator is the study's only writer, so the copy is exact. Sampling and pruning read the copy alone. A trial
enters the storage whole, in one transaction, when its training starts; every report and its end follow. Trial numbers
are the order of creation in both, which the storage asserts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.trial import FrozenTrial, TrialState, create_trial

from objectives.base import Params
from search.study import records
from search.study.sampling.history import SamplingCopy
from search.study.sampling.proposals import Proposals
from search.study.space.initial_params import InitialParams, baselines
from search.study.space.limits import Limits
from search.study.space.space import WHOLE_SPACE, Space
from search.study.study import NO_LIMITS, StoredStudy
from search.study.training_result import TrainingResult


@dataclass(frozen=True)
class PreparedTrial:
    """A trial that is ready to train."""

    number: int
    params: Params
    """The objective's parameters, made of the sampled ones."""
    baseline: str | None = None
    last_step: int = 0
    """The last step that the storage has a report of; positive for a trial that is resumed."""
    last_value: float | None = None
    """The value reported there, which is the trial's own if only its end is missing."""


class SamplingStudy:
    """Asks, starts, reports and tells the trials of a stored study. Used by one thread."""

    def __init__(
        self,
        stored: StoredStudy,
        memory: SamplingCopy,
        copy_: optuna.Study,
        proposals: Proposals,
        pruner: BasePruner,
        limits: Limits,
    ) -> None:
        self.stored, self.limits, self.finished = stored, limits, 0
        self.objective = stored.objective
        self._storage = stored.storage
        self._memory, self._copy, self._memory_id = memory, copy_, copy_._study_id
        self._proposals, self._pruner = proposals, pruner
        self._stored_ids: list[int] = []
        self._unfinished: list[FrozenTrial] = []
        self._study_notes: dict[str, Any] = {}
        """System attributes of the study that the storage has."""
        self._notes: dict[int, dict[str, Any]] = {}
        """System attributes of each trial that the storage has."""

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
        memory = SamplingCopy()
        memory.create_new_study(stored.storage.get_study_directions(stored.study_id), stored.name)
        # The sampler sees every trial. Were the pruner set here, Optuna would show it one Hyperband bracket only.
        copy_ = optuna.load_study(study_name=stored.name, storage=memory, pruner=NopPruner())
        if initial is None:
            initial = baselines(stored.objective, space, limits)[0]
        proposals = Proposals(
            stored.objective, memory, copy_, sampler=sampler, seed=seed, space=space, limits=limits, initial=initial
        )
        study = cls(stored, memory, copy_, proposals, pruner, limits)
        study._load()
        return study

    def _load(self) -> None:
        self._study_notes = self._storage.get_study_system_attrs(self.stored.study_id)
        for key, value in self._study_notes.items():
            self._memory.set_study_system_attr(self._memory_id, key, value)
        for trial in self.stored.optuna_study.get_trials(deepcopy=False):
            self._memory.create_new_trial(self._memory_id, self._as_sampler_sees(trial))
            self._stored_ids.append(trial._trial_id)
            self._notes[trial.number] = dict(trial.system_attrs)
            self._proposals.note(trial)
            if trial.state.is_finished():
                self.finished += 1
            else:
                self._unfinished.append(trial)

    def _as_sampler_sees(self, trial: FrozenTrial) -> FrozenTrial:
        """A diverged trial counts as the worst there was, since a sampler learns nothing from a failed one."""
        if trial.user_attrs.get(records.FAILURE) != "diverged" or (worst := self._worst()) is None:
            return trial
        seen = create_trial(
            value=worst,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs=trial.system_attrs,
            intermediate_values=trial.intermediate_values,
        )
        seen.datetime_start, seen.datetime_complete = trial.datetime_start, trial.datetime_complete
        return seen

    def _worst(self) -> float | None:
        """The worst value of any ended trial."""
        ended = self._copy.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        values = [trial.value for trial in ended if trial.value is not None]
        return (min if self.stored.maximize else max)(values, default=None)

    # ---- what to train

    @property
    def unfinished(self) -> int:
        """Trials that `resume` will return."""
        return len(self._unfinished)

    @property
    def exhausted(self) -> str | None:
        """Why no configuration is left to try, once an ask has found none."""
        return self._proposals.exhausted

    def is_exhausted(self) -> bool:
        """Whether no configuration is left to try."""
        return self._proposals.is_exhausted()

    def resume(self) -> list[PreparedTrial]:
        """The trials that a dead coordinator left running, or that a user enqueued, with their sampling finished."""
        unfinished, self._unfinished = self._unfinished, []
        return [self._resumed(trial) for trial in unfinished]

    def _resumed(self, trial: FrozenTrial) -> PreparedTrial:
        memory_trial = self._id(trial.number)
        if trial.state == TrialState.WAITING:
            self._memory.set_trial_state_values(memory_trial, TrialState.RUNNING)
            self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        params = self._proposals.complete(trial.number, memory_trial)
        sampled = self._memory.get_trial(memory_trial)
        for name, distribution in sampled.distributions.items():
            if name not in trial.params:
                internal = distribution.to_internal_repr(sampled.params[name])
                self._storage.set_trial_param(trial._trial_id, name, internal, distribution)
        last_step = max(trial.intermediate_values, default=0)
        last_value = trial.intermediate_values.get(last_step)
        return PreparedTrial(trial.number, params, trial.user_attrs.get(records.BASELINE), last_step, last_value)

    def ask(self) -> PreparedTrial | None:
        """Sample the next trial, on the copy: `start` stores it. None when nothing is left to try."""
        number = len(self._copy.get_trials(deepcopy=False))
        if (proposed := self._proposals.next(number)) is None:
            return None
        params, known = proposed
        return PreparedTrial(number, params, known.name if known and known.origin == records.BASELINE else None)

    # ---- what became of it

    def holds(self, number: int) -> bool:
        """Whether the storage has this trial."""
        return number < len(self._stored_ids)

    def start(self, prepared: PreparedTrial, attrs: Mapping[str, Any]) -> None:
        """Store a sampled trial, whole and running."""
        trial = self._memory.get_trial(self._id(prepared.number))
        trial.datetime_start = datetime.now()
        for key, value in attrs.items():
            self._memory.set_trial_user_attr(self._id(prepared.number), key, value)
        trial = self._memory.get_trial(self._id(prepared.number))
        self._notes[prepared.number] = dict(trial.system_attrs)
        self._stored_ids.append(self._storage.start_trial(self.stored.study_id, trial))
        self._store_study_notes()

    def report(self, number: int, step: int, value: float, *, prunable: bool = True) -> bool:
        """Store a metric. Returns whether the trial ends here: it is `prunable`, and the pruner ends it.

        The pruner's notes are stored with the report or, if the trial ends, with its end. A search that is killed in
        between reports the same step again and decides the same.
        """
        trial = self._memory.get_trial(self._id(number))
        decided = step < max(trial.intermediate_values, default=0)  # before a kill: pruners look at the last step alone
        self._memory.set_trial_intermediate_value(self._id(number), step, value)
        ends = not decided and self._pruner.prune(self._copy, self._memory.get_trial(self._id(number))) and prunable
        self._storage.report_trial(self._stored_ids[number], step, value, {} if ends else self._new_notes(number))
        if not ends:
            self._store_study_notes()
        return ends

    def tell(self, number: int, result: TrainingResult) -> FrozenTrial:
        """End a trial and return it as stored. A pruned trial gets the value of its last report."""
        trial = self._memory.get_trial(self._id(number))
        self._memory.add_constraints(self._id(number), self.limits.excess(dict(result.metrics)))
        self._tell_copy(number, result)
        value = result.value
        if result.state == TrialState.PRUNED and trial.intermediate_values:  # else it was refused before it trained
            value = trial.intermediate_values[max(trial.intermediate_values)]
        stored_id = self._stored_ids[number]
        self._storage.end_trial(stored_id, result.state, value, result.attrs, self._new_notes(number))
        self._store_study_notes()
        self.finished += 1
        ended = copy(self._memory.get_trial(self._id(number)))
        ended.state, ended.values = result.state, None if value is None else [value]  # the sampler may see another end
        ended.user_attrs = {**ended.user_attrs, **result.attrs}
        return ended

    def _tell_copy(self, number: int, result: TrainingResult) -> None:
        worst = self._worst() if result.failure == "diverged" else None
        if worst is None:
            self._copy.tell(number, result.value, result.state)
        else:
            self._copy.tell(number, worst)

    # ---- the copy

    def _id(self, number: int) -> int:
        return self._memory.get_trial_id_from_study_id_trial_number(self._memory_id, number)

    def _new_notes(self, number: int) -> dict[str, Any]:
        """System attributes that sampler and pruner set on the copy of a trial and the storage lacks."""
        known, noted = self._notes[number], self._memory.get_trial(self._id(number)).system_attrs
        new = {key: value for key, value in noted.items() if known.get(key) != value}
        known |= new
        return new

    def _store_study_notes(self) -> None:
        """Store the system attributes that samplers set on the copy of the study."""
        for key, value in self._memory.get_study_system_attrs(self._memory_id).items():
            if self._study_notes.get(key) != value:
                self._storage.set_study_system_attr(self.stored.study_id, key, value)
                self._study_notes[key] = value
