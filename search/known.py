"""Settings that are tried before the sampler is asked: an objective's baselines, and the best of an earlier study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from objectives.base import Objective, ObjectiveError, Params, ParamValue
from search import records
from search.asking import asking
from search.errors import UsageError
from search.limits import Limits, describe
from search.pages import readable
from search.records import StudyRecord
from search.settings import Recorder, key
from search.space import Space, contains, search_space, words

BEST = 5
"""Settings that are taken over from an earlier study."""


@dataclass(frozen=True)
class Known:
    """One setting, all of its parameters or some."""

    name: str
    params: Params
    origin: str = records.BASELINE
    """The attribute of its trial that holds the name."""


def baselines(objective: Objective, space: Space, limits: Limits) -> tuple[list[Known], list[str]]:
    """The objective's baselines within the space and the limits, and what was done to make them so, in words.

    A fixed parameter takes its value in a baseline, too, where that leaves it the same kind of setting; the name says
    so. What is outside of a narrowed range, or above a limit, is left out.
    """
    found, said, whole = [], [], search_space(objective)
    for name, params in objective.baselines().items():
        _check_choices(name, params, whole)
        if strange := sorted(set(params) - set(whole)):
            said.append(f"baseline {name} has {', '.join(strange)}, which suggest does not ask for")
        changed = _changed(params, space)
        if isinstance(changed, str):
            said.append(f"baseline {name} is left out: {changed}")
            continue
        if changed:
            name = f"{name} ({', '.join(f'{key}={value}' for key, value in changed.items())})"
        adapted = {**params, **changed}
        if (lost := unknown(objective, space, adapted) - unknown(objective, Space(), params)) and changed:
            said.append(f"baseline {name} is left out: it does not set {', '.join(sorted(lost))}")
        elif (too_large := _above(objective, space, limits, adapted)) is not None:
            said.append(f"baseline {name} is left out: it has {too_large}, too many")
        else:
            if changed:
                said.append(f"baseline {name} is tried with what is fixed")
            found.append(Known(name, adapted))
    return found, said


def _check_choices(name: str, params: Params, space: Mapping[str, BaseDistribution]) -> None:
    """Raise ObjectiveError for a value that its parameter does not have, which Optuna could not take."""
    for parameter, value in params.items():
        allowed = space.get(parameter)
        if isinstance(allowed, CategoricalDistribution) and not contains(allowed, value):
            raise ObjectiveError(f"baseline {name!r}: {parameter} is {value!r}, and suggest offers {words(allowed)}")


def _changed(params: Mapping[str, ParamValue], space: Space) -> Params | str:
    """The values that `space` fixes otherwise, or why there is no way."""
    changed: Params = {}
    for name, value in params.items():
        left = space.narrowed.get(name)
        if left is None or contains(left, value):
            continue
        if not left.single():
            return f"its {name} is {value}, and what is searched is {words(left)}"
        changed[name] = _only(left)
    return changed


def _only(distribution: BaseDistribution) -> Any:
    """The one value of a distribution that has no other."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low


def unknown(objective: Objective, space: Space, params: Mapping[str, ParamValue]) -> set[str]:
    """Parameters that the objective asks for and a setting does not tell. Raises ObjectiveError when it cannot ask."""
    recorder = Recorder(params)
    with asking("suggest"):
        space.suggest(objective, recorder)
    return {name for name in recorder.unknown if not _is_fixed(space, name)}


def _is_fixed(space: Space, name: str) -> bool:
    return (left := space.narrowed.get(name)) is not None and left.single()


def _above(objective: Objective, space: Space, limits: Limits, params: Params) -> str | None:
    """The figures of a setting that is above a limit, in words. One that is not told in full is counted when it is."""
    if unknown(objective, space, params):
        return None
    figures = limits.known(objective, space.suggest(objective, Recorder(params)))
    return None if limits.allow(figures) else describe(figures)


# ---- an earlier study


def warm_start(
    earlier: StudyRecord, objective: Objective, space: Mapping[str, BaseDistribution], limits: Limits
) -> tuple[list[Known], list[str]]:
    """The best settings of an earlier study as far as they fit `space`, and what does not, in words.

    Raises UsageError when nothing of them fits.
    """
    done = [trial for trial in earlier.ranked() if trial.state == TrialState.COMPLETE and trial.feasible]
    if not done:
        raise UsageError(
            f"--warm-start {earlier.name}: none of its trials was completed, so it has no best to start from"
        )
    found: dict[Any, Known] = {}
    gone: set[str] = set()
    outside: list[str] = []
    said: list[str] = []
    for trial in done:
        fitting = _fitting(trial.params, space)
        if key(fitting) in found or not fitting:
            continue
        if len(found) == BEST:
            break
        gone |= trial.params.keys() - space.keys()
        outside += [
            f"{name} = {readable(value, digits=3)} of trial {trial.number} (here {words(space[name])})"
            for name, value in trial.params.items() if name in space and name not in fitting
        ]  # fmt: skip
        if (too_large := _above(objective, Space(), limits, fitting)) is not None:
            said.append(f"warm start: trial {trial.number} of {earlier.name} is left out: it has {too_large}, too many")
            continue
        found[key(fitting)] = Known(f"{earlier.name} #{trial.number}", fitting, records.WARM_START)
    if not found:
        raise UsageError(
            f"--warm-start {earlier.name}: nothing of its best trials fits the limits and the space of this search, "
            f"whose parameters are {', '.join(space)}; leave the flag out"
        )
    said.append(f"warm start: the best {len(found)} of study {earlier.name} come after the baselines")
    if gone:
        said.append(f"warm start: not a parameter here, and skipped: {', '.join(sorted(gone))}")
    if outside:
        said.append(f"warm start: out of range, and sampled anew: {'; '.join(outside)}")
    return list(found.values()), said


def _fitting(params: Mapping[str, ParamValue], space: Mapping[str, BaseDistribution]) -> Params:
    """What `space` has room for; where it leaves one value only, that one."""
    fitting: Params = {}
    for name, value in params.items():
        if (left := space.get(name)) is None:
            continue
        if contains(left, value):
            fitting[name] = value
        elif left.single():
            fitting[name] = _only(left)
    return fitting


def as_stored(settings: Sequence[Known]) -> list[list[Any]]:
    """Plain values: a search that is resumed starts from the same settings, whatever became of the earlier study."""
    return [[known.name, known.params] for known in settings]


def from_stored(stored: Sequence[Sequence[Any]]) -> list[Known]:
    """The reverse."""
    return [Known(name, params, records.WARM_START) for name, params in stored]
