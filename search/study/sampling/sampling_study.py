"""The trials of a study: sampled and pruned on a copy in memory, stored as they start, report and end.

The coordinator is the study's only writer, so the copy is exact. A trial enters the storage whole, in one transaction,
when its training starts. Trials have the same numbers in both, which the storage asserts.

Other programs may add trials all the same, as users do with `study.add_trial` or in Optuna's dashboard. Such a
foreign trial is a failed one on the copy, from which no sampler learns. The search runs a waiting one that lies in its
space, which makes it the search's own.
"""

import math
from collections.abc import Mapping, Sequence, Set
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.trial import FrozenTrial, TrialState, create_trial

from objectives.base import Params
from objectives.functions.objective import FunctionObjective
from search.study import records
from search.study.records import TrainingResult, is_foreign
from search.study.sampling.history import SamplingCopy
from search.study.sampling.proposals import FIXED_PARAMS, Proposals
from search.study.space.initial_params import InitialParams, baselines, portfolio, why_not_enqueued
from search.study.space.limits import Limits
from search.study.space.space import WHOLE_SPACE, Space
from search.study.study import NO_LIMITS, StoredStudy


@dataclass(frozen=True)
class PreparedTrial:
    """A trial that is ready to train."""

    number: int
    params: Params
    baseline: str | None = None
    last_step: int = 0  # the last stored step of a trial that is resumed; 0 for a function, which counts its points
    last_value: float | None = None  # the value at that step
    is_enqueued: bool = False  # by another program; it has no label yet


class SamplingStudy:
    """Asks, starts, reports and tells the trials of a stored study. Used by one thread."""

    def __init__(
        self, stored: StoredStudy, memory: SamplingCopy, study: optuna.Study, proposals: Proposals, pruner: BasePruner
    ) -> None:
        self.stored, self.objective, self.limits, self.finished = stored, stored.objective, proposals.limits, 0
        self._storage, self._memory, self._copy = stored.storage, memory, study
        self._memory_id = study._study_id  # private, as in Optuna 5.0.0: a study has no public id
        self.proposals, self._pruner = proposals, pruner
        self.is_function = isinstance(self.objective, FunctionObjective)
        self._stored_ids: list[int] = []
        self.notices: list[str] = []  # about foreign trials, for the user
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
        """Copy a stored study into memory. `initial` parameters are tried first; None: the objective's own."""
        memory, objective = SamplingCopy(), stored.objective
        memory.create_new_study(stored.storage.get_study_directions(stored.study_id), stored.name)
        # With another pruner here, Optuna would show the sampler only one Hyperband bracket.
        study = optuna.load_study(study_name=stored.name, storage=memory, pruner=NopPruner())
        if initial is None:
            initial = baselines(objective, space, limits)[0] + portfolio(objective, space, limits)
        proposals = Proposals(objective, memory, study, sampler, seed, space, limits, initial)
        sampling = cls(stored, memory, study, proposals, pruner)
        sampling._load()
        return sampling

    def _load(self) -> None:
        self._stored_study_attrs = self._storage.get_study_system_attrs(self.stored.study_id)
        for key, value in self._stored_study_attrs.items():
            self._memory.set_study_system_attr(self._memory_id, key, value)
        self._add(self.stored.optuna_study.get_trials(deepcopy=False))
        if self.is_function:
            self._memory.keep_distributions(self._memory_id)

    def _add(self, trials: Sequence[FrozenTrial]) -> None:
        """Copy trials that the storage has, after those that are copied already."""
        foreign = []
        for trial in trials:
            self._stored_ids.append(trial._trial_id)  # private, as in Optuna 5.0.0: a trial has no public id
            self._stored_attrs[trial.number] = dict(trial.system_attrs)
            if is_foreign(trial, self.stored.uid) and not self._may_run(trial):
                if trial.state != TrialState.WAITING:  # another notice says why it waits
                    foreign.append(trial.number)
                self._memory.create_new_trial(self._memory_id, create_trial(state=TrialState.FAIL))
                continue
            self._memory.create_new_trial(self._memory_id, self._as_sampler_sees(trial))
            if trial.state.is_finished():
                self.finished += 1
            else:
                self.unfinished.append(trial)
            if trial.state != TrialState.WAITING:
                self.proposals.note(trial)
        if foreign:
            self.notices.append(_foreign_notice(foreign))

    def _may_run(self, trial: FrozenTrial) -> bool:
        """Whether a foreign trial waits to be run, and lies in the space."""
        if trial.state != TrialState.WAITING:
            return False
        if (why := why_not_enqueued(trial, self.objective, self.proposals.space)) is not None:
            self.notices.append(f"trial {trial.number}, which another program has enqueued, stays waiting: {why}")
        return why is None

    def catch_up(self, sampled: PreparedTrial | None) -> PreparedTrial | None:
        """Copy the trials that other programs have added meanwhile. `sampled` moves behind them, and is returned.

        At most that one trial is sampled and not stored.
        """
        known = len(self._stored_ids)
        if self._storage.count_trials(self.stored.study_id) <= known:
            return sampled
        added = self.stored.optuna_study.get_trials(deepcopy=False)[known:]
        if sampled is None:
            self._add(added)
            return None
        trial_id = self.trial_id(sampled.number)
        moved = self._memory.get_trial(trial_id)
        self._memory.remove_last(self._memory_id)
        self._add(added)
        self._memory.create_new_trial(self._memory_id, moved)
        return replace(sampled, number=len(self._stored_ids))

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
        number, memory_id, stored_id = trial.number, self.trial_id(trial.number), self._stored_ids[trial.number]
        is_enqueued = trial.state == TrialState.WAITING
        if is_enqueued:
            origin = self._origin(number)
            self._storage.set_trial_user_attr(stored_id, records.ORIGIN, origin)  # first: now it is the search's own
            self._memory.set_trial_user_attr(memory_id, records.ORIGIN, origin)
            self._memory.set_trial_state_values(memory_id, TrialState.RUNNING)
            self._storage.set_trial_state_values(stored_id, TrialState.RUNNING)
        if self.is_function:
            self._fix(memory_id)
        params = dict(trial.params) if self.is_function else self.proposals.complete(number, memory_id)
        sampled = self._memory.get_trial(memory_id)
        if sampled.params.keys() != trial.params.keys():
            self._storage.add_params(stored_id, sampled, sampled.params.keys() - trial.params.keys(), {})
        last_step = max(trial.intermediate_values, default=0)
        last_value = trial.intermediate_values.get(last_step)
        baseline = None if is_enqueued else trial.user_attrs.get(records.BASELINE)
        return PreparedTrial(number, params, baseline, 0 if self.is_function else last_step, last_value, is_enqueued)

    def _fix(self, memory_id: int) -> None:
        """Give the fixed values to a function's trial that another program has enqueued."""
        if fixed := self.proposals.space.fixed:
            given = self._memory.get_trial(memory_id).system_attrs.get(FIXED_PARAMS, {})
            self._memory.set_trial_system_attr(memory_id, FIXED_PARAMS, {**given, **fixed})

    def ask(self) -> PreparedTrial | None:
        """Sample the next trial, on the copy: `start` stores it. None when nothing is left to try."""
        number = len(self._copy.get_trials(deepcopy=False))
        if self.is_function:
            self._memory.create_new_trial(self._memory_id, self.proposals.unsampled())
            return PreparedTrial(number, {})
        if (proposal := self.proposals.next(number)) is None:
            return None
        params, initial = proposal
        return PreparedTrial(number, params, initial.name if initial and initial.origin == records.BASELINE else None)

    def holds(self, number: int) -> bool:
        """True if the storage has this trial."""
        return number < len(self._stored_ids)

    def start(self, prepared: PreparedTrial, attrs: Mapping[str, Any]) -> None:
        """Store a sampled trial, whole and running."""
        trial_id = self.trial_id(prepared.number)
        origin = {records.ORIGIN: self._origin(prepared.number)}
        user_attrs = {**self._memory.get_trial(trial_id).user_attrs, **attrs, **origin}
        trial = self._memory.replace(trial_id, datetime_start=datetime.now(), user_attrs=user_attrs)
        self._stored_attrs[prepared.number] = dict(trial.system_attrs)
        self._stored_ids.append(self._storage.start_trial(self.stored.study_id, trial))
        self._store_study_attrs()

    def _origin(self, number: int) -> str:
        return f"{self.stored.uid}/{number}"

    def describe(self, number: int, attrs: Mapping[str, Any]) -> None:
        """Add attributes to a trial that was enqueued."""
        for key, value in attrs.items():
            self._storage.set_trial_user_attr(self._stored_ids[number], key, value)
            self._memory.set_trial_user_attr(self.trial_id(number), key, value)

    def store_params(self, number: int, names: Set[str], attrs: Mapping[str, Any]) -> None:
        """Store parameters of these names, which were suggested on the copy, and add attributes."""
        trial = self._memory.get_trial(self.trial_id(number))
        self._storage.add_params(self._stored_ids[number], trial, names, attrs)
        for key, value in attrs.items():
            self._memory.set_trial_user_attr(self.trial_id(number), key, value)
        self.store_notes(number)

    def reports(self, number: int) -> dict[int, float]:
        """The values that a trial has reported, by step."""
        return dict(self._memory.get_trial(self.trial_id(number)).intermediate_values)

    def store_report(self, number: int, step: int) -> None:
        """Store a value that was reported on the copy."""
        self._storage.report_trial(self._stored_ids[number], step, self.reports(number)[step], {})

    def should_prune(self, number: int, reported: Set[int]) -> bool:
        """Ask the pruner about the last step that this call of a function has `reported`.

        It goes on at steps before the last stored one: an earlier call has passed them.
        """
        if not reported or max(reported) < max(self.reports(number)):
            return False
        ends = self._pruner.prune(self._copy, self._memory.get_trial(self.trial_id(number)))
        if not ends:
            self.store_notes(number)
        return ends

    def set_system_attr(self, number: int, key: str, value: Any) -> None:
        """Keep what a part of Optuna notes on a running trial."""
        self._memory.set_trial_system_attr(self.trial_id(number), key, value)
        self.store_notes(number)

    def store_notes(self, number: int) -> None:
        """Store what sampler and pruner have noted on the copy of a trial and of the study."""
        if attrs := self._new_attrs(number):
            self._storage.note_trial(self._stored_ids[number], attrs)
        self._store_study_attrs()

    def report(self, number: int, step: int, value: float, *, prunable: bool = True) -> bool:
        """Store a metric. Returns True if the trial ends here: it is `prunable`, and the pruner ends it.

        The pruner's attributes of a trial that ends are stored with its end, so a killed search decides the same again.
        """
        trial_id = self.trial_id(number)
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
        trial_id, value = self.trial_id(number), result.value
        self._memory.add_constraints(trial_id, self.limits.excess(result.metrics))
        reports = self._memory.get_trial(trial_id).intermediate_values
        if result.state == TrialState.PRUNED and reports:  # without reports, it was refused before it trained
            value = None if math.isnan(reports[max(reports)]) else reports[max(reports)]  # SQLite has no NaN
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

    def trial_id(self, number: int) -> int:
        """The id of a trial on the copy."""
        return self._memory.get_trial_id_from_study_id_trial_number(self._memory_id, number)

    def _new_attrs(self, number: int) -> dict[str, Any]:
        """System attributes that sampler and pruner set on the copy of a trial and the storage lacks."""
        stored, attrs = self._stored_attrs[number], self._memory.get_trial(self.trial_id(number)).system_attrs
        new = {key: value for key, value in attrs.items() if stored.get(key) != value}
        stored |= new
        return new

    def _store_study_attrs(self) -> None:
        """Store the system attributes that samplers set on the copy of the study."""
        for key, value in self._memory.get_study_system_attrs(self._memory_id).items():
            if self._stored_study_attrs.get(key) != value:
                self._storage.set_study_system_attr(self.stored.study_id, key, value)
                self._stored_study_attrs[key] = value


def _foreign_notice(numbers: Sequence[int]) -> str:
    """Say that the search leaves trials of other programs alone."""
    named = ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
    trials, they = ("trials", "they are") if len(numbers) > 1 else ("trial", "it is")
    return f"another program has added {trials} {named} to this study: {they} shown, but neither counted nor chosen"
