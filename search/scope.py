"""What of an objective a search looks at: the space and limits that a person left it, where it begins, when it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from objectives.base import Objective
from search import records
from search.config import Config
from search.errors import UsageError
from search.intervals import images_of
from search.known import Known, as_stored, baselines, from_stored, warm_start
from search.limits import Limits, describe
from search.patience import run_out
from search.records import StudyRecord, TrialRecord
from search.space import Space, narrow, search_space
from search.storage import open_storage
from search.studies import read_study
from search.study import find_study

DRAWS = 1_000
"""Settings that are looked at before a limit is called impossible."""


@dataclass(frozen=True)
class Scope:
    """What is searched, checked before anything is written."""

    space: Space
    limits: Limits
    earlier: StudyRecord | None
    """The study whose best settings are tried first."""
    patience: int | None = None
    """Trials without an improvement that end the search."""

    @classmethod
    def of(cls, config: Config, objective: Objective, name: str) -> Scope:
        """That of a search for study `name`. Raises UsageError for what is not possible."""
        limits = Limits(config.max_parameters, config.max_latency_ms)
        limits.check(objective)
        space = narrow(objective, config.fix)
        if limits.parameters is not None:
            _check_that_something_fits(objective, space, limits)
        return cls(space, limits, _earlier(config, name), config.patience)

    def known(self, objective: Objective, storage: RDBStorage, study_id: int) -> tuple[list[Known], list[str]]:
        """Settings to try first: the baselines, then those of earlier studies; and what is to be said of them.

        What is taken from an earlier study is kept with this one, which is resumed with the same settings whatever
        becomes of that.
        """
        first, said = baselines(objective, self.space, self.limits)
        stored = dict(storage.get_study_user_attrs(study_id).get(records.WARM_STARTS, {}))
        if self.earlier is not None and self.earlier.name not in stored:
            space = search_space(objective, self.space)
            taken, more = warm_start(self.earlier, objective, space, self.limits)
            said += more
            stored[self.earlier.name] = as_stored(taken)
            storage.set_study_user_attr(study_id, records.WARM_STARTS, stored)
        return first + [known for settings in stored.values() for known in from_stored(settings)], said

    def run_out(self, objective: Objective, ended: Sequence[TrialRecord]) -> str | None:
        """Why the trials that ended are enough, in words; None while they are not."""
        if self.patience is None:
            return None
        done = (t.value for t in ended if t.state == TrialState.COMPLETE and t.value is not None)
        n_images = images_of(objective, done)
        return run_out(ended, self.patience, maximize=objective.direction == "maximize", n_images=n_images)


def _earlier(config: Config, name: str) -> StudyRecord | None:
    if config.warm_start is None:
        return None
    if config.warm_start == name:
        raise UsageError(f"--warm-start {name}: a study cannot start from itself; add --study NAME to begin another")
    try:
        return read_study(config, config.warm_start)
    except UsageError:
        storage = open_storage(config.storage_url, create=False)
        study = find_study(storage, name)
        if study is None or config.warm_start not in storage.get_study_user_attrs(study).get(records.WARM_STARTS, {}):
            raise
        return None  # its settings are kept with this one, whatever became of it


def _check_that_something_fits(objective: Objective, space: Space, limits: Limits) -> None:
    """Raise UsageError when chance finds no setting within the limits."""
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    smallest = math.inf
    for _ in range(DRAWS):
        figures = limits.known(objective, space.suggest(objective, study.ask()))
        if limits.allow(figures):
            return
        smallest = min(smallest, *figures.values())
    raise UsageError(
        f"--max-parameters {limits.parameters}: none of {DRAWS:,} settings drawn is that small; the smallest has "
        f"{describe({'parameters': smallest})}. Type for example --max-parameters {2 * smallest:.0f}"
    )
