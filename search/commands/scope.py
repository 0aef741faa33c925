"""The scope of a search: its space and limits, its initial parameters, and its stopping rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from objectives.base import Objective
from search.commands.studies import read_study
from search.common.config import Config
from search.common.direction import Direction
from search.common.errors import UsageError
from search.study import records
from search.study.records import StudyRecord, TrialRecord
from search.study.selection.intervals import images_of
from search.study.selection.stopping import stopping_reason
from search.study.space.initial_params import InitialParams, as_stored, baselines, from_stored, warm_start
from search.study.space.limits import Limits, describe
from search.study.space.space import Space, narrow, search_space
from search.study.storage.storage import open_storage
from search.study.study import StoredStudy, find_study

LIMIT_DRAWS = 1_000
"""Random configurations drawn before a limit is called impossible."""


@dataclass(frozen=True)
class Scope:
    """Space, limits and initial configurations of a search, checked before anything is written."""

    space: Space
    limits: Limits
    earlier: StudyRecord | None = None
    """The study whose best configurations are tried first."""
    patience: int | None = None
    """Trials without an improvement that end the search."""

    @classmethod
    def of(cls, config: Config, objective: Objective, name: str) -> Scope:
        """The scope of a search for study `name`. Raises UsageError for impossible limits, spaces or studies."""
        limits = Limits(config.max_parameters, config.max_latency_ms)
        limits.check(objective)
        space = narrow(objective, config.fix)
        if limits.parameters is not None:
            _check_that_something_fits(objective, space, limits)
        return cls(space, limits, _earlier_study(config, name), config.patience)

    def initial_params(self, study: StoredStudy) -> tuple[list[InitialParams], list[str]]:
        """The baselines, then the best of earlier studies; and notices about them for the user.

        Those of an earlier study are stored with this one, so it resumes from the same whatever happens to that study.
        """
        first, notices = baselines(study.objective, self.space, self.limits)
        stored = dict(study.attrs().get(records.WARM_STARTS, {}))
        if self.earlier is not None and self.earlier.name not in stored:
            space = search_space(study.objective, self.space)
            taken, more = warm_start(self.earlier, study.objective, space, self.limits)
            notices += more
            stored[self.earlier.name] = as_stored(taken)
            study.set_attr(records.WARM_STARTS, stored)
        return first + [params for taken in stored.values() for params in from_stored(taken)], notices

    def stop_reason(self, objective: Objective, ended: Sequence[TrialRecord]) -> str | None:
        """Why the stopping rule ends the search, in words; None while it goes on."""
        if self.patience is None:
            return None
        values = (t.value for t in ended if t.state == TrialState.COMPLETE and t.value is not None)
        n_images = images_of(objective, values)
        return stopping_reason(ended, self.patience, Direction(objective.direction), n_images=n_images)


def _earlier_study(config: Config, name: str) -> StudyRecord | None:
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
        return None  # this study stores what it took from that one


def _check_that_something_fits(objective: Objective, space: Space, limits: Limits) -> None:
    """Raise UsageError when random draws find no configuration within the limits."""
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    smallest = math.inf
    for _ in range(LIMIT_DRAWS):
        figures = limits.figures(objective, space.suggest(objective, study.ask()))
        if limits.allow(figures):
            return
        smallest = min(smallest, *figures.values())
    raise UsageError(
        f"--max-parameters {limits.parameters}: none of {LIMIT_DRAWS:,} random configurations is that small; "
        f"the smallest has {describe({'parameters': smallest})}. Type for example --max-parameters {2 * smallest:.0f}"
    )
