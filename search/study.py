"""A study: durable in Optuna's storage, sampled on a copy in memory.

The coordinator is the study's only writer, so the copy is exact. Sampling and pruning decisions read the copy alone;
a trial enters the storage whole, in one transaction, when its training starts, and every report and outcome follows.
Trial numbers are the order of creation in both, which the storage asserts.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.pruners import BasePruner, NopPruner
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from objectives.base import Objective, Params
from search import records
from search.errors import StudyMismatchError
from search.history import SamplingCopy
from search.known import InitialParams, baselines
from search.limits import Limits
from search.proposals import Proposals
from search.space import Space, search_space, words
from search.workspace import slug
from search.writer import WriterStorage

WHOLE, NO_LIMITS = Space(), Limits()


@dataclass(frozen=True)
class Sampled:
    """A trial that is ready to train."""

    number: int
    params: Params
    """What the objective made of the sampled parameters."""
    baseline: str | None = None
    last_step: int = 0
    """The last step that the storage has a report of; positive for a trial that is resumed."""
    last_value: float | None = None
    """What was reported there: the trial's value if it was left after its last step."""


def open_study(
    storage: RDBStorage, name: str, objective: Objective, target: str, epochs: int | None,
    space: Space = WHOLE, limits: Limits = NO_LIMITS,
) -> int:  # fmt: skip
    """Find or make a study; returns its id.

    `epochs` None takes the study's own where it exists. Raises StudyMismatchError when the study on disk was made with
    another objective, dataset, search space or budget, because values of the two cannot be compared.
    """
    wanted = fingerprint(objective, target, epochs, space, limits)
    study = find_study(storage, name)
    if study is None:
        direction = StudyDirection.MAXIMIZE if objective.direction == "maximize" else StudyDirection.MINIMIZE
        study_id = storage.create_new_study([direction], name)
        storage.set_study_user_attr(study_id, records.UID, uuid.uuid4().hex[:8])
        storage.set_study_user_attr(study_id, records.METRIC, objective.metric)
        storage.set_study_user_attr(study_id, records.STEPS_PER_EPOCH, objective.steps_per_epoch())
        storage.set_study_user_attr(study_id, records.FINGERPRINT, wanted)
        return study_id
    found = storage.get_study_user_attrs(study).get(records.FINGERPRINT)
    if found is None and not storage.get_n_trials(study):  # made a moment ago by a search that was killed in between
        storage.delete_study(study)
        return open_study(storage, name, objective, target, epochs, space, limits)
    if found is None:
        raise StudyMismatchError(f"study {name!r} was not made by this program; choose another name with --study NAME")
    never_began = found.get("epochs") is None
    if epochs is None or never_began:
        wanted["epochs"] = found.get("epochs")
    differences = list(_differences(found, wanted))
    if differences:
        raise StudyMismatchError(
            f"study {name!r} was made with other settings: {'; '.join(differences)}.\n"
            f"Give what it was made with, or start another study: add --study {slug(name)}-2 to what you typed"
        )
    if never_began and epochs is not None:  # nothing was trained with another number
        storage.set_study_user_attr(study, records.FINGERPRINT, {**found, "epochs": epochs})
    return study


def find_study(storage: RDBStorage, name: str) -> int | None:
    """The id of a study, None when there is none of that name."""
    try:
        return storage.get_study_id_from_name(name)
    except KeyError:
        return None


def fingerprint(objective: Objective, target: str, epochs: int | None, space: Space, limits: Limits) -> dict[str, Any]:
    """What must be equal for two trials' values to be comparable."""
    return {
        "objective": target,
        "metric": f"{objective.direction} {objective.metric}",
        **objective.fingerprint(),
        "epochs": epochs,
        **limits.as_settings(),
        "search space": {name: distribution_to_json(what) for name, what in search_space(objective, space).items()},
    }


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    differences = []
    for key in sorted({*found, *wanted} - {"search space"}):
        if found.get(key) != wanted.get(key) and key == "dataset":
            old, new = (str(where.get(key))[:8] for where in (found, wanted))
            differences.append(f"its pictures were others (digest {old}, now {new})")
        elif found.get(key) != wanted.get(key):
            differences.append(f"{key} was {_given(found.get(key))}, now {_given(wanted.get(key))}")
    old, new = found.get("search space", {}), wanted["search space"]
    changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if changed:
        texts = [f"{name} was {_words(old.get(name))}, now {_words(new.get(name))}" for name in changed[:5]]
        differences.append(f"in its search space {', '.join(texts)}{' ...' if len(changed) > 5 else ''}")
    return differences


def _given(value: object) -> str:
    return "not given" if value is None else str(value)


def _words(stored: str | None) -> str:
    return "absent" if stored is None else words(json_to_distribution(stored))


class Study:
    """The coordinator's hold on one study. Used by one thread."""

    def __init__(
        self, storage: WriterStorage, study_id: int, objective: Objective, *, pruner: BasePruner, sampler: str,
        seed: int, space: Space = WHOLE, limits: Limits = NO_LIMITS, known: Sequence[InitialParams] | None = None,
    ) -> None:  # fmt: skip
        """`known` settings are tried first; None: the objective's baselines."""
        self.storage, self.study_id, self.objective = storage, study_id, objective
        self.pruner, self.limits = pruner, limits
        self.name = storage.get_study_name_from_id(study_id)
        self.maximize = objective.direction == "maximize"
        self.finished = 0
        self._memory = SamplingCopy()
        self._memory_id = self._memory.create_new_study(storage.get_study_directions(study_id), self.name)
        self._study_notes = storage.get_study_system_attrs(study_id)
        for key, value in self._study_notes.items():
            self._memory.set_study_system_attr(self._memory_id, key, value)
        # The sampler is to see every trial. Were the pruner set here, Optuna would show it one Hyperband bracket only.
        self._copy = optuna.load_study(study_name=self.name, storage=self._memory, pruner=NopPruner())
        self.proposals = Proposals(
            objective, self._memory, self._copy, sampler=sampler, seed=seed, space=space, limits=limits,
            initial=baselines(objective, space, limits)[0] if known is None else known,
        )  # fmt: skip
        self._stored_ids: list[int] = []
        self._notes: dict[int, dict[str, Any]] = {}
        self._view = optuna.load_study(study_name=self.name, storage=storage)
        loaded = [self._load(trial) for trial in self._view.get_trials(deepcopy=False)]
        self._left = [trial for trial in loaded if not trial.state.is_finished()]

    def _load(self, trial: FrozenTrial) -> FrozenTrial:
        self._memory.create_new_trial(self._memory_id, self._as_sampler_sees(trial))
        self._stored_ids.append(trial._trial_id)
        self._notes[trial.number] = dict(trial.system_attrs)
        self.proposals.note(trial)
        self.finished += trial.state.is_finished()
        return trial

    def _as_sampler_sees(self, trial: FrozenTrial) -> FrozenTrial:
        """A diverged trial counts as the worst there was, since a sampler learns nothing from a failed one."""
        if trial.user_attrs.get(records.FAILURE) != "diverged" or (worst := self._worst()) is None:
            return trial
        seen = create_trial(
            value=worst, params=trial.params, distributions=trial.distributions,
            system_attrs=trial.system_attrs, intermediate_values=trial.intermediate_values,
        )  # fmt: skip
        seen.datetime_start, seen.datetime_complete = trial.datetime_start, trial.datetime_complete
        return seen

    def _worst(self) -> float | None:
        """The worst value that any ended trial came to."""
        ended = self._copy.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        values = [trial.value for trial in ended if trial.value is not None]
        return (min if self.maximize else max)(values, default=None)

    @property
    def unfinished(self) -> int:
        """Trials that `resume` will give."""
        return len(self._left)

    def resume(self) -> list[Sampled]:
        """The trials that a dead coordinator left running, or that somebody enqueued, with their sampling finished."""
        left, self._left = self._left, []
        return [self._adopt(trial) for trial in left]

    def _adopt(self, trial: FrozenTrial) -> Sampled:
        memory_trial = self._id(trial.number)
        if trial.state == TrialState.WAITING:
            self._memory.set_trial_state_values(memory_trial, TrialState.RUNNING)
            self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        params = self.proposals.complete(trial.number, memory_trial)
        sampled = self._memory.get_trial(memory_trial)
        for name, distribution in sampled.distributions.items():
            if name not in trial.params:
                internal = distribution.to_internal_repr(sampled.params[name])
                self.storage.set_trial_param(trial._trial_id, name, internal, distribution)
        last_step = max(trial.intermediate_values, default=0)
        last_value = trial.intermediate_values.get(last_step)
        return Sampled(trial.number, params, trial.user_attrs.get(records.BASELINE), last_step, last_value)

    def ask(self) -> Sampled | None:
        """Sample the next trial, on the copy: it is stored by `start`. None when nothing is left to try."""
        number = len(self._copy.get_trials(deepcopy=False))
        if (found := self.proposals.next(number)) is None:
            return None
        params, known = found
        return Sampled(number, params, known.name if known and known.origin == records.BASELINE else None)

    def start(self, sampled: Sampled, attrs: Mapping[str, Any]) -> None:
        """Put a sampled trial into the storage, whole and running."""
        template = self._memory.get_trial(self._id(sampled.number))
        template.datetime_start = datetime.now()
        template.user_attrs |= attrs
        self._notes[sampled.number] = dict(template.system_attrs)
        self._stored_ids.append(self.storage.start_trial(self.study_id, template))
        self._store_study_notes()

    def report(self, number: int, step: int, value: float, *, spared: bool = False) -> bool:
        """Store a metric; returns whether the trial ends here: the pruner says so, and it is not `spared`.

        What the pruner notes is stored with it, but of a trial that ends not before its end: a search that is killed
        in between reports the same step again and comes to the same decision.
        """
        trial = self._memory.get_trial(self._id(number))
        decided = step < max(trial.intermediate_values, default=0)  # before a kill: pruners look at the last step alone
        self._memory.set_trial_intermediate_value(self._id(number), step, value)
        ends = not decided and self.pruner.prune(self._copy, self._memory.get_trial(self._id(number))) and not spared
        self.storage.report_trial(self._stored_ids[number], step, value, {} if ends else self._new_notes(number))
        if not ends:
            self._store_study_notes()
        return ends

    def tell(self, number: int, state: TrialState, value: float | None, attrs: Mapping[str, Any]) -> FrozenTrial:
        """End a trial and give it as stored. `value` is for a completed one; a pruned one has its last report's."""
        trial = self._memory.get_trial(self._id(number))
        self._memory.add_constraints(self._id(number), self.limits.excess(attrs.get(records.METRICS, {})))
        worst = self._worst() if attrs.get(records.FAILURE) == "diverged" else None
        if worst is None:
            self._copy.tell(number, value if state == TrialState.COMPLETE else None, state)
        else:
            self._copy.tell(number, worst)
        if state == TrialState.PRUNED:  # without a report, it was refused before it was trained
            value = trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None
        self.storage.end_trial(self._stored_ids[number], state, value, attrs, self._new_notes(number))
        self._store_study_notes()
        self.finished += 1
        ended = copy(self._memory.get_trial(self._id(number)))
        ended.state, ended.values = state, None if value is None else [value]  # the sampler may be shown another end
        ended.user_attrs = {**ended.user_attrs, **attrs}
        return ended

    def holds(self, number: int) -> bool:
        """Whether a trial is in the storage."""
        return number < len(self._stored_ids)

    def set_attr(self, key: str, value: Any) -> None:
        """Keep something about the study."""
        self.storage.set_study_user_attr(self.study_id, key, value)

    def attrs(self) -> dict[str, Any]:
        """What is kept about the study."""
        return self.storage.get_study_user_attrs(self.study_id)

    def params_of(self, sampled: Mapping[str, Any]) -> Params:
        """What the objective makes of a trial's sampled parameters."""
        return dict(self.objective.suggest(FixedTrial(dict(sampled))))

    def record(self) -> records.StudyRecord:
        """The stored study as people are shown it."""
        return records.StudyRecord.of(self.view())

    def view(self) -> optuna.Study:
        """The stored study as Optuna shows it, which reads a trial that has ended once."""
        return self._view

    def _id(self, number: int) -> int:
        return self._memory.get_trial_id_from_study_id_trial_number(self._memory_id, number)

    def _new_notes(self, number: int) -> dict[str, Any]:
        """What sampler and pruner noted on the copy of a trial and is still to be stored: a resumed search needs it."""
        known, noted = self._notes[number], self._memory.get_trial(self._id(number)).system_attrs
        new = {key: value for key, value in noted.items() if known.get(key) != value}
        known |= new
        return new

    def _store_study_notes(self) -> None:
        """The same of the study."""
        for key, value in self._memory.get_study_system_attrs(self._memory_id).items():
            if self._study_notes.get(key) != value:
                self.storage.set_study_system_attr(self.study_id, key, value)
                self._study_notes[key] = value
