"""Open, list and read stored studies."""

import difflib
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import click
import optuna
from optuna.storages import RDBStorage

from search.common.config import Config
from search.common.errors import UsageError
from search.common.passwords import bare, mask
from search.common.sqlite import sqlite_file
from search.common.workspace import Workspace
from search.study import records
from search.study.records import StudyRecord
from search.study.storage.retry import RetryPolicy
from search.study.storage.storage import oldest_first, parse_url, read_storage, study_holder, study_names
from search.study.study import new_uid
from search.tracking.journal import Journal
from search.tracking.registry.presence import FoundVersion, StoredVersion, find_versions
from search.tracking.store import tagged_runs


def patience(config: Config) -> RetryPolicy | None:
    """How a command without a display waits for a locked file: with a line on standard error. None for a server."""
    file = sqlite_file(config.storage_url)
    return RetryPolicy(wait_s=config.storage_wait, say=partial(click.echo, err=True), file=file) if file else None


def stored_studies(config: Config) -> RDBStorage:
    """Open the storage to read it."""
    return read_storage(config.storage_url, retry=patience(config))


def open_studies(config: Config, names: Sequence[str]) -> list[optuna.Study]:
    """Open the studies with these names, by default the newest. Raises StorageError or UsageError if one is missing."""
    storage = stored_studies(config)
    existing = study_names(storage)
    if not existing:
        where = sqlite_file(config.storage_url) or mask(config.storage_url)
        raise UsageError(f"{where} has no studies yet; run a search first: python -m search")
    for name in names:
        if name not in existing:
            near = difflib.get_close_matches(name, existing, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(existing)}"
            raise UsageError(f"there is no study {name!r}; {hint}")
    return [optuna.load_study(study_name=name, storage=storage) for name in names or existing[-1:]]


def all_studies(config: Config) -> list[StudyRecord]:
    """Read every study, oldest first. Raises StorageError if the database does not exist."""
    storage = stored_studies(config)
    return [record_of(config, optuna.load_study(study_name=name, storage=storage)) for name in study_names(storage)]


def read_study(config: Config, name: str | None) -> StudyRecord:
    """Read the study with this name, or the newest one. Raises as `open_studies` does."""
    return record_of(config, open_studies(config, [] if name is None else [name])[0])


def record_of(config: Config, study: optuna.Study) -> StudyRecord:
    """Read an open study, and who searches it."""
    holder = study_holder(config.storage_url, study.study_name)  # first: when it is free, the study is complete
    return StudyRecord.of(study, holder)


def study_if_there(config: Config, name: str | None) -> optuna.Study | str:
    """Open a study, by default the newest; a text that says what there is instead if it does not exist yet."""
    path = sqlite_file(parse_url(config.storage_url))
    if path is not None and not path.exists():
        return f"there is no {path} yet"
    storage = stored_studies(config)
    existing = study_names(storage)
    if not existing:
        return f"{path or mask(config.storage_url)} has no studies yet"
    if name is not None and name not in existing:
        near = difflib.get_close_matches(name, existing, 1)
        return f"there are {', '.join(existing)}" + (f"; did you mean {near[0]}?" if near else "")
    return optuna.load_study(study_name=name or existing[-1], storage=storage)


def separate_copy(config: Config, storage: RDBStorage, study_id: int) -> None:
    """Give a study that `optuna.copy_study` has made a uid and files of its own. Its lock must be held.

    Until then it has the uid of its original. What has ended stays in the original's runs; what follows gets new ones.
    A study whose original is gone was renamed, as optuna-dashboard does it, and keeps everything.
    """
    name, uid = storage.get_study_name_from_id(study_id), storage.get_study_user_attrs(study_id).get(records.UID)
    twins = [study.study_name for study in oldest_first(storage) if study.user_attrs.get(records.UID) == uid]
    if uid is None or name == twins[0]:
        return
    workspace, own = Workspace(config.workspace), f"{uid}-{new_uid()}"
    if (original := workspace.journal(name, uid)).exists():
        with closing(Journal(workspace.journal(name, own))) as journal:
            journal.adopt(original)
    weights, pictures = workspace.training_files(name, uid).weights, workspace.pictures(name, uid)
    if weights.exists():
        shutil.copytree(weights, workspace.training_files(name, own).weights)
    if pictures.exists():
        shutil.copyfile(pictures, workspace.pictures(name, own))
    storage.set_study_user_attr(study_id, records.UID, own)


def shared_trials(storage: RDBStorage, name: str) -> frozenset[int]:
    """The trials of a study whose runs in MLflow belong to another study too: one of them is a copy of the other."""
    uids = {study.study_name: study.user_attrs.get(records.UID, "") for study in storage.get_all_studies()}
    copies = {other for other, uid in uids.items() if other != name and f"{uid}-".startswith(f"{uids[name]}-")}
    if "-" in uids[name]:  # it is a copy itself
        copies.add(name)
    shared = set()
    for copy in copies:
        made = uids[copy] if copy == name or uids[copy] != uids[name] else None  # None: no search has continued it yet
        trials = storage.get_all_trials(storage.get_study_id_from_name(copy), deepcopy=False)
        shared |= {trial.number for trial in trials if trial.user_attrs.get(records.ORIGIN) != f"{made}/{trial.number}"}
    return frozenset(shared)


def is_of_function(attrs: Mapping[str, Any]) -> bool:
    """Return whether a study has a function of a trial as objective; `attrs`: the study's."""
    return records.OBJECTIVE in attrs and attrs[records.OBJECTIVE].get("direction") is not None  # others have their own


def tracked_elsewhere(config: Config, attrs: Mapping[str, Any]) -> str | None:
    """A hint if the study is tracked in another MLflow store than `config` names, else None; `attrs`: the study's."""
    uri = attrs.get(records.TRACKING)
    if uri is None or uri == bare(config.tracking_uri or ""):
        return None
    hint = f"at {uri}; add --tracking-uri {uri}" if uri else "here; leave out --tracking-uri"
    return f"it is tracked {hint}"


def compared(config: Config, studies: Sequence[StudyRecord]) -> list[StudyRecord]:
    """Replace what the studies have stored about the registry by what it has now; a study's winner may be gone there.

    A store that does not answer within seconds is not waited for; a note of the study then names it.
    """
    found = find_stored(config, studies)
    return [_as_found(config, study, version) for study, version in zip(studies, found, strict=True)]


def find_stored(config: Config, studies: Sequence[StudyRecord]) -> list[FoundVersion | None | Literal["unknown"]]:
    """The version that each study has stored, as its registry has it; None if it is gone, or if none is stored."""
    found: list[FoundVersion | None | Literal["unknown"]] = [None] * len(studies)
    by_store: dict[str, dict[int, StoredVersion]] = {}
    for position, study in enumerate(studies):
        if (summary := study.summary) is not None and (model := summary.model) is not None:
            runs = tagged_runs(study.attrs.get(records.UID, ""), summary.run)
            stored = StoredVersion(model["name"], str(model["version"]), runs)
            by_store.setdefault(store_of(config, study.attrs), {})[position] = stored
    for uri, wanted in by_store.items():
        answers = find_versions(uri, list(wanted.values()))
        for n, position in enumerate(wanted):
            found[position] = "unknown" if answers is None else answers[n]
    return found


def store_of(config: Config, attrs: Mapping[str, Any]) -> str:
    """The address of the MLflow store in which a study is tracked; `attrs`: the study's."""
    if tracked_elsewhere(config, attrs) is None:
        return config.mlflow_uri
    return str(attrs[records.TRACKING]) or replace(config, tracking_uri=None).mlflow_uri


def _as_found(config: Config, study: StudyRecord, found: FoundVersion | None | Literal["unknown"]) -> StudyRecord:
    """Return a study with its version as the registry has it."""
    if (summary := study.summary) is None or (model := summary.model) is None:
        return study
    if found == "unknown":
        uri = store_of(config, study.attrs)
        what = "does not answer" if uri.startswith("http") else "cannot be read"
        summary = summary.noted(f"MLflow at {bare(uri)} {what}, so {model['uri']} may be gone")
    elif found is None:
        command = f"python -m search promote {shlex.quote(study.name)}{config.where}"
        gone = f"version {model['version']} of {model['name']} is no longer in MLflow"
        summary = replace(summary, model=None, standing=f"{gone}; to register the winner again, type: {command}")
    elif (found.name, found.version, found.alias) != (model["name"], str(model["version"]), model["alias"]):
        now = {"name": found.name, "version": found.version, "alias": found.alias, "uri": found.uri}
        summary = replace(summary, model=now, standing=None)
    return replace(study, summary=summary)
