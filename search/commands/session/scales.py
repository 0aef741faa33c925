"""The scale of a study's search space: chosen by the device when the study begins, and kept afterwards."""

import contextlib
from collections.abc import Callable

from objectives.base import Objective, Scaled
from objectives.worker.messages import WorkerReady
from search.commands.studies import stored_studies
from search.common.config import Config
from search.common.errors import StorageError, UsageError
from search.common.workspace import slug
from search.study.space.objective_calls import choose_space_scale, set_space_scale
from search.study.space.space import Space, narrow
from search.study.study import StoredStudy, find_study, stored_scale


def narrow_space(config: Config, objective: Objective, study: str) -> Space:
    """The space of a study as the settings narrow it. A new study has the largest one until its scale is chosen.

    Raises UsageError for values that are not in it.
    """
    if not isinstance(objective, Scaled):
        return narrow(objective, config.fix)
    scale, largest = _scale_of_study(config, study), objective.space_scales[-1]
    set_space_scale(objective, largest if scale is None else scale)
    try:
        return narrow(objective, config.fix)
    except UsageError as error:
        if scale in (None, largest):
            raise
        set_space_scale(objective, largest)
        narrow(objective, config.fix)  # raises its own error if no study can have these values
        begun = f"Study {study!r} keeps the space that it began with; a new one can have this: --study {slug(study)}-2"
        raise UsageError(f"{error}. {begun}") from None


def choose_scale(
    study: StoredStudy, config: Config, space: Space, first: WorkerReady, notice: Callable[[str], None]
) -> None:
    """In a new study, let the objective fit its space to the first worker's device. Values of --fix are kept in it."""
    objective = study.objective
    if study.has_scale:
        return
    assert isinstance(objective, Scaled)
    chosen, scales = choose_space_scale(objective, first.device, first.free_bytes), objective.space_scales
    for scale in scales[scales.index(chosen) :]:  # the last one has all values, as `narrow_space` has seen
        set_space_scale(objective, scale)
        with contextlib.suppress(UsageError):
            narrow(objective, config.fix)
            break
    if scale != chosen:
        why = f"--fix or [space] asks for a value that the space {chosen!r} of this device lacks"
        notice(f"all parameters are sampled from the space {scale!r}, because {why}")
    study.fix_scale(space)


def _scale_of_study(config: Config, name: str) -> str | None:
    """The scale of the study that this search continues; None if it is new, or has none yet."""
    with contextlib.suppress(StorageError):  # a new or a broken storage; the search opens it again and reports errors
        storage = stored_studies(config)
        if (study := find_study(storage, name)) is not None:
            return stored_scale(storage.get_study_user_attrs(study))
    return None
