"""Open, list and read stored studies."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from search.common.config import Config
from search.common.errors import UsageError
from search.common.passwords import bare, mask
from search.common.sqlite import sqlite_file
from search.study import records
from search.study.records import StudyRecord
from search.study.storage.storage import open_storage, parse_url, study_holder, study_names


def open_studies(config: Config, names: Sequence[str]) -> list[optuna.Study]:
    """Open the studies with these names, by default the newest. Raises StorageError or UsageError if one is missing."""
    storage = open_storage(config.storage_url, create=False)
    existing = study_names(storage)
    if not existing:
        raise UsageError(f"{mask(config.storage_url)} has no studies yet; run a search first: python -m search")
    for name in names:
        if name not in existing:
            near = difflib.get_close_matches(name, existing, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(existing)}"
            raise UsageError(f"there is no study {name!r}; {hint}")
    return [optuna.load_study(study_name=name, storage=storage) for name in names or existing[-1:]]


def all_studies(config: Config) -> list[StudyRecord]:
    """Read every study, oldest first. Raises StorageError if the database does not exist."""
    storage = open_storage(config.storage_url, create=False)
    return [record_of(config, optuna.load_study(study_name=name, storage=storage)) for name in study_names(storage)]


def read_study(config: Config, name: str | None) -> StudyRecord:
    """Read the study with this name, or the newest one. Raises as `open_studies` does."""
    return record_of(config, open_studies(config, [] if name is None else [name])[0])


def record_of(config: Config, study: optuna.Study) -> StudyRecord:
    """Read an open study, and who searches it."""
    holder = study_holder(config.storage_url, study.study_name)  # first: when it is free, the study is complete
    return StudyRecord.of(study, holder)


def find_study(config: Config, name: str | None) -> optuna.Study | str:
    """Open a study, by default the newest; in words what there is instead if it does not exist yet."""
    path = sqlite_file(parse_url(config.storage_url))
    if path is not None and not path.exists():
        return f"there is no {path} yet"
    storage = open_storage(config.storage_url, create=False)
    existing = study_names(storage)
    if not existing:
        return f"{path or mask(config.storage_url)} has no studies yet"
    if name is not None and name not in existing:
        near = difflib.get_close_matches(name, existing, 1)
        return f"there are {', '.join(existing)}" + (f"; did you mean {near[0]}?" if near else "")
    return optuna.load_study(study_name=name or existing[-1], storage=storage)


def tracked_elsewhere(config: Config, attrs: Mapping[str, Any]) -> str | None:
    """A hint if the study is tracked in another MLflow store than `config` names, else None; `attrs`: the study's."""
    uri = attrs.get(records.TRACKING)
    if uri is None or uri == bare(config.tracking_uri or ""):
        return None
    hint = f"at {uri}; add --tracking-uri {uri}" if uri else "here; leave out --tracking-uri"
    return f"it is tracked {hint}"
