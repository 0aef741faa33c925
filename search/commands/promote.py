"""Commands for after a search: deliver what an outage held up, register a winner, choose the champion by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection

from search.commands.finish import Finish
from search.commands.setup import load_objective, open_tracking, registered_name, stored_objective
from search.commands.studies import elsewhere
from search.common.config import Config, is_model_name
from search.common.errors import StudyHeldError, UsageError
from search.common.workspace import Workspace
from search.study import records
from search.study.records import StudyRecord
from search.study.storage.storage import hold_study, open_storage, quiet_optuna
from search.study.study import StoredStudy, find_study
from search.study.summary import Summary
from search.tracking.journal import PARENT, Journal
from search.tracking.registry.loading import newest_champion
from search.tracking.registry.promotion import CHAMPION, rollback, set_champion
from search.tracking.store import connect_mlflow, mlflow_errors

WAIT_S = 600.0


def sync(config: Config) -> Iterator[tuple[str, int, int, str | None]]:
    """Deliver every study's journal; gives its name, how many writes arrived, how many are left, and why."""
    quiet_optuna()
    storage = open_storage(config.storage_url, create=False)
    for study in storage.get_all_studies():
        uid = study.user_attrs.get(records.UID)
        if uid is None or not Workspace(config.workspace).journal(study.study_name, uid).exists():
            continue
        try:
            with hold_study(config.storage_url, study.study_name):
                maximize = study.direction == StudyDirection.MAXIMIZE
                yield study.study_name, *_deliver(config, study.study_name, study.user_attrs, maximize=maximize)
        except StudyHeldError:
            yield study.study_name, 0, 0, "it is being searched now, which delivers too"


def _deliver(config: Config, study: str, attrs: Mapping[str, Any], *, maximize: bool) -> tuple[int, int, str | None]:
    journal = Journal(Workspace(config.workspace).journal(study, attrs[records.UID]))
    before = journal.n_pending()
    journal.close()
    if not before:
        return 0, 0, None
    if (reason := elsewhere(config, attrs)) is not None:
        return 0, before, reason
    tracking = open_tracking(config, study, attrs, maximize=maximize)
    try:
        tracking.ready()
        left = tracking.flush(WAIT_S)
        return before - left, left, tracking.last_error
    finally:
        tracking.close(1.0)


def register_winner(config: Config, name: str) -> StudyRecord:
    """Score and register the winner of a study whose search could not; make it champion when it is registered already.

    Raises UsageError when there is no such study, SearchError when MLflow still does not answer.
    """
    quiet_optuna()
    storage = open_storage(config.storage_url, create=False)
    study_id = _find_searched(storage, name)
    with hold_study(config.storage_url, name):  # no search changes the study meanwhile
        attrs = storage.get_study_user_attrs(study_id)
        summary = _stored_summary(config, name, attrs)
        if summary.model is not None and config.register in (None, summary.model["name"]):
            _set_champion(config, summary.model["name"], str(summary.model["version"]))
            champion = replace(summary, model={**summary.model, "alias": CHAMPION}, standing=None)
            storage.set_study_user_attr(study_id, records.SUMMARY, champion.as_dict())
            return StudyRecord.of(optuna.load_study(study_name=name, storage=storage))
        study = StoredStudy(storage, study_id, load_objective(stored_objective(attrs)))
        _register(config, study, summary)
        return study.record()


def _find_searched(storage: RDBStorage, name: str) -> int:
    """The id of a study that a search has made."""
    study_id = find_study(storage, name)
    if study_id is None or records.OBJECTIVE not in storage.get_study_user_attrs(study_id):
        known = ", ".join(study.study_name for study in storage.get_all_studies()) or "none"
        raise UsageError(
            f"there is no study {name!r} made by a search; there are: {known}. A version of a model is typed "
            "as NAME/VERSION, for instance mnist/3"
        )
    return study_id


def _stored_summary(config: Config, name: str, attrs: Mapping[str, Any]) -> Summary:
    """The outcome of a study that has one and is tracked where `config` says."""
    if (stored := attrs.get(records.SUMMARY)) is None:  # before that, the test split must not be read
        raise UsageError(f"study {name!r} has not come to its end; type the command again that searches it")
    if (reason := elsewhere(config, attrs)) is not None:
        raise UsageError(f"study {name!r}: {reason}")
    return Summary.from_dict(stored)


def _register(config: Config, study: StoredStudy, winner: Summary) -> None:
    """Finish a search whose winner could not be registered."""
    if (name := registered_name(config, study.objective)) is None:
        raise UsageError(f"study {study.name!r}: its objective makes no network that can be registered")
    tracking = open_tracking(config, study.name, study.attrs(), maximize=study.maximize)
    try:
        tracking.ready()
        workspace, goal = Workspace(config.workspace), tracking.verdict(PARENT) or {}
        Finish(study, tracking, workspace, config, register_as=name, device="cpu", goal=goal).run(winner)
    finally:
        tracking.close()


def promote_version(config: Config, version: str) -> tuple[str, str] | None:
    """Make `NAME/VERSION` the champion and return both; None when `version` has another form.

    Raises ModelNotFoundError when there is no such version.
    """
    if (found := re.fullmatch(r"(?:models:/)?([^/:]+)/(\d+)", version)) is None:
        return None
    _set_champion(config, found[1], found[2])
    return found[1], found[2]


def _set_champion(config: Config, name: str, version: str) -> None:
    client = connect_mlflow(config.mlflow_uri)
    with mlflow_errors(config.mlflow_uri, f"version {version} of {name} did not become champion"):
        set_champion(client, name, version)


def restore_previous_champion(config: Config, name: str | None) -> tuple[str, str, str]:
    """Make the previous champion of a model, or of the newest champion's model, the champion again.

    Returns the model's name, the version that was champion and the one that is now. Raises ModelNotFoundError when
    there is no previous champion.
    """
    client = connect_mlflow(config.mlflow_uri)
    if name is not None and not is_model_name(name):
        raise UsageError(f"--rollback takes the name of a model; type promote --rollback {name.partition('/')[0]}")
    with mlflow_errors(config.mlflow_uri, "the champion stays the same"):
        name = name or newest_champion(client)
        return name, *rollback(client, name)
