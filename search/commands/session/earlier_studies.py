"""Where the configurations of `--warm-start` come from: the study that it names, or with `auto` all that fit."""

from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import json_to_distribution

from objectives.data.names import is_same_dataset
from search.commands.studies import read_study, record_of, stored_studies
from search.common.config import Config
from search.common.direction import Direction
from search.common.errors import UsageError
from search.study import records
from search.study.records import StudyRecord
from search.study.space.initial_params import WARM_START_TRIALS, InitialParams, WarmStart, confirmed_first
from search.study.state import State
from search.study.storage.storage import oldest_first
from search.study.study import SPACE, StoredStudy, find_study

AUTO = "auto"
"""The value of `--warm-start` that takes the best of all earlier studies that fit. It never names one study."""

OF_FINISHED = {records.UID, records.FINGERPRINT, records.SUMMARY}
"""Attributes of every study that a search has finished."""

SIZE_RATIO = 2
"""Two images are similar in size if their sides differ by at most this factor."""

NUMBER_RATIO = 4
"""Two datasets are similar in size if their numbers of images differ by at most this factor."""


def earlier_study(config: Config, name: str) -> StudyRecord | None:
    """The study that `--warm-start` names; None if study `name` has stored its configurations and it is gone."""
    if config.warm_start in (None, AUTO):
        return None
    if config.warm_start == name:
        raise UsageError(f"--warm-start {name}: a study cannot start from itself; add --study NAME to begin another")
    try:
        return read_study(config, config.warm_start)
    except UsageError:
        storage = stored_studies(config)
        study = find_study(storage, name)
        if study is None or config.warm_start not in storage.get_study_user_attrs(study).get(records.WARM_STARTS, {}):
            raise
        return None


def best_of_all(
    config: Config, study: StoredStudy, dataset: Mapping[str, Any] | None, start: WarmStart
) -> tuple[list[InitialParams], list[str]]:
    """The best configurations of the finished studies that fit, of each in turn; and notices for the user.

    Studies of the same dataset come first, then those of similar images. Among equals, those of the same objective come
    first, then the newest. `dataset` is what the objective says of its data.
    """
    own, others = study.attrs(), [e for e in reversed(oldest_first(study.storage)) if e.study_name != study.name]
    ended = [earlier for earlier in others if earlier.user_attrs.keys() >= OF_FINISHED]
    same_way = [earlier for earlier in ended if Direction.of_study(earlier.direction) is study.direction]
    fitting = [earlier for earlier in same_way if _is_space_similar(earlier.user_attrs, own)]
    fitting.sort(key=lambda earlier: _distance(earlier.user_attrs, own, dataset))
    turns = [_additions(start, config, study, earlier.study_name) for earlier in fitting]
    while turns and len(start.initial) < WARM_START_TRIALS:
        turns = [turn for turn in turns if len(start.initial) < WARM_START_TRIALS and next(turn, False)]
    names = ", ".join(initial.name for initial in start.initial)
    notices = start.notices(f"configurations of earlier studies, tried {start.place}: {names}")
    if not start.initial:
        notices = ["warm start: no finished study here has a new configuration that fits; the search begins as usual"]
    if AUTO in (earlier.study_name for earlier in others):
        notices.append(f"warm start: {AUTO} means all studies that fit, not only the study of that name")
    return start.initial, notices


def _is_space_similar(attrs: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """True for the same objective, and if more than half of all parameters have the same name and kind in both spaces.

    `attrs` are the attributes of an earlier study, `own` those of the study that begins.
    """
    mine, theirs = own[records.FINGERPRINT], attrs[records.FINGERPRINT]
    if mine["objective"] == theirs.get("objective"):
        return True
    kinds, others = _kinds(mine), _kinds(theirs)
    return 2 * len(kinds.items() & others.items()) > len(kinds.keys() | others.keys())


def _kinds(fingerprint: Mapping[str, Any]) -> dict[str, type]:
    """The kinds of the parameters. A function has none that are known before it runs."""
    return {name: type(json_to_distribution(text)) for name, text in fingerprint.get(SPACE, {}).items()}


def _distance(attrs: Mapping[str, Any], own: Mapping[str, Any], dataset: Mapping[str, Any] | None) -> tuple[int, bool]:
    """How far a study is from the one that begins: by its data, then by its objective."""
    mine, theirs = own[records.FINGERPRINT], attrs[records.FINGERPRINT]
    data, other = dataset or {}, attrs.get(records.PROVENANCE, {}).get("dataset") or {}
    is_same = any(key in mine and mine[key] == theirs.get(key) for key in ("dataset", "--dataset"))
    if is_same or (data and other and is_same_dataset(data["name"], other["name"])):
        place = 0
    else:
        place = 1 if data and other and _are_similar(data, other) else 2
    return place, mine["objective"] != theirs.get("objective")


def _are_similar(data: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True for images of the same channels, of similar size and in similar numbers."""
    (channels, *size), (other_channels, *other_size) = data["shape"], other["shape"]
    if channels != other_channels:
        return False
    pairs = ((max(size), max(other_size), SIZE_RATIO), (data["n_train"], other["n_train"], NUMBER_RATIO))
    return all(max(a, b) <= ratio * min(a, b) for a, b, ratio in pairs)


def _additions(start: WarmStart, config: Config, study: StoredStudy, name: str) -> Iterator[bool]:
    """Take over one configuration of study `name` at a time, if its search is finished. Yields True after each."""
    try:
        earlier = record_of(config, optuna.load_study(study_name=name, storage=study.storage))
    except KeyError:  # it was deleted meanwhile
        return
    if earlier.state is State.FINISHED:
        for trial in confirmed_first(earlier):
            if start.add(name, trial):
                yield True
