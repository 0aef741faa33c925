"""A study as Optuna's storage has it: its attributes, its trials, and how it is made or found again.

Confirmation, the finish and `promote` need no more than this. The trials sample theirs through
`search.study.sampling.sampling_study`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FixedTrial

from objectives.base import Objective, Params
from search.common.direction import Direction
from search.common.errors import StudyMismatchError
from search.common.workspace import slug
from search.study import records
from search.study.fingerprint import differences, fingerprint
from search.study.space.limits import Limits
from search.study.space.space import Space
from search.study.storage.writer import WriterStorage

WHOLE, NO_LIMITS = Space(), Limits()


class StoredStudy:
    """One study in the storage, and the objective it was made for. Used by one thread."""

    def __init__(self, storage: WriterStorage, study_id: int, objective: Objective) -> None:
        self.storage, self.study_id, self.objective = storage, study_id, objective

    @cached_property
    def name(self) -> str:
        """The study's name."""
        return self.storage.get_study_name_from_id(self.study_id)

    @cached_property
    def uid(self) -> str:
        """Tells this study from an earlier one of the same name."""
        return str(self.attrs()[records.UID])

    @property
    def direction(self) -> Direction:
        return Direction(self.objective.direction)

    @property
    def maximize(self) -> bool:
        """Whether larger values of the metric are better."""
        return self.objective.direction == "maximize"

    @property
    def epochs(self) -> int | None:
        """Epochs of a whole training; None until the first worker's device has decided."""
        epochs: int | None = self.attrs()[records.FINGERPRINT]["epochs"]
        return epochs

    def fix_epochs(self, epochs: int) -> None:
        """Store the epochs of a study that has none yet."""
        self.set_attr(records.FINGERPRINT, {**self.attrs()[records.FINGERPRINT], "epochs": epochs})

    def attrs(self) -> dict[str, Any]:
        """The study's user attributes."""
        return self.storage.get_study_user_attrs(self.study_id)

    def set_attr(self, key: str, value: Any) -> None:
        """Store a user attribute of the study."""
        self.storage.set_study_user_attr(self.study_id, key, value)

    def params_of(self, sampled: Mapping[str, Any]) -> Params:
        """The objective's parameters for a trial's sampled ones."""
        return dict(self.objective.suggest(FixedTrial(dict(sampled))))

    def record(self) -> records.StudyRecord:
        """The study as users see it."""
        return records.StudyRecord.of(self.optuna_study)

    @cached_property
    def optuna_study(self) -> optuna.Study:
        """The study as Optuna shows it. It reads a trial that has ended only once."""
        return optuna.load_study(study_name=self.name, storage=self.storage)

    def delete(self) -> None:
        """Remove the study from the storage."""
        self.storage.delete_study(self.study_id)


def open_study(
    storage: WriterStorage,
    name: str,
    objective: Objective,
    target: str,
    epochs: int | None,
    space: Space = WHOLE,
    limits: Limits = NO_LIMITS,
) -> StoredStudy:
    """Find or make a study.

    `epochs` None takes the study's own where it exists. Raises StudyMismatchError when the stored study was made with
    another objective, dataset, search space or budget, because values of the two cannot be compared.
    """
    wanted = fingerprint(objective, target, epochs, space, limits)
    study_id = find_study(storage, name)
    if study_id is None:
        return _make(storage, name, objective, wanted)
    stored = storage.get_study_user_attrs(study_id).get(records.FINGERPRINT)
    if stored is None and not storage.get_n_trials(study_id):  # a search was killed while it made the study
        storage.delete_study(study_id)
        return _make(storage, name, objective, wanted)
    if stored is None:
        raise StudyMismatchError(f"study {name!r} was not made by this program; choose another name with --study NAME")
    study = StoredStudy(storage, study_id, objective)
    if epochs is None or stored.get("epochs") is None:
        wanted["epochs"] = stored.get("epochs")
    _check_same(name, stored, wanted)
    if stored.get("epochs") is None and epochs is not None:  # nothing was trained with another number
        study.fix_epochs(epochs)
    return study


def find_study(storage: RDBStorage, name: str) -> int | None:
    """The id of a study; None when there is none of that name."""
    try:
        return storage.get_study_id_from_name(name)
    except KeyError:
        return None


def _make(storage: WriterStorage, name: str, objective: Objective, fingerprint_: Mapping[str, Any]) -> StoredStudy:
    direction = StudyDirection.MAXIMIZE if objective.direction == "maximize" else StudyDirection.MINIMIZE
    study = StoredStudy(storage, storage.create_new_study([direction], name), objective)
    study.set_attr(records.UID, uuid.uuid4().hex[:8])
    study.set_attr(records.METRIC, objective.metric)
    study.set_attr(records.STEPS_PER_EPOCH, objective.steps_per_epoch())
    study.set_attr(records.FINGERPRINT, fingerprint_)
    return study


def _check_same(name: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if different := list(differences(stored, wanted)):
        raise StudyMismatchError(
            f"study {name!r} was made with other settings: {'; '.join(different)}.\n"
            f"Give what it was made with, or start another study: add --study {slug(name)}-2 to what you typed"
        )
