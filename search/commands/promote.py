"""Register the winner of a finished study, or choose the champion by hand."""

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, NoReturn

import optuna
from optuna.storages import RDBStorage

from objectives.base import Objective
from objectives.functions.objective import FunctionObjective
from objectives.spec import ObjectiveSpec, function_name
from search.commands.finish import Finish
from search.commands.session.naming import tell_apart
from search.commands.setup import (
    load_objective,
    open_tracking,
    registered_name,
    stored_objective,
    tracking_destination,
)
from search.commands.studies import find_stored, is_of_function, patience, separate_copy, tracked_elsewhere
from search.common.config import Config, similar_model_name, why_no_model_name
from search.common.errors import UsageError
from search.study import records
from search.study.space.objective_calls import explain_errors
from search.study.storage.storage import hold_study, open_storage, study_names
from search.study.study import StoredStudy, find_study, require_same_images
from search.study.summary import Summary
from search.tracking.journal import PARENT
from search.tracking.locations import settle
from search.tracking.registry.loading import newest_champion
from search.tracking.registry.programs import NEVER_LOGGED
from search.tracking.registry.promotion import CHAMPION, rollback, set_champion
from search.tracking.store import connect_mlflow, mlflow_errors


def register_winner(config: Config, name: str) -> records.StudyRecord:
    """Score and register the winner of a study. If it is registered already, make it the champion.

    Raises UsageError if no study of this name has a winner, SearchError if MLflow still does not answer.
    """
    storage = open_storage(config.storage_url, create=False, retry=patience(config))
    study_id = _find_searched(storage, name)
    with hold_study(config.storage_url, name):  # no search changes the study meanwhile
        attrs = storage.get_study_user_attrs(study_id)
        if records.SUMMARY not in attrs:  # before the search has chosen a winner, the test split must not be read
            raise UsageError(f"study {name!r} has not ended; run the command of its search again")
        if (reason := tracked_elsewhere(config, attrs)) is not None:
            raise UsageError(f"study {name!r}: {reason}")
        separate_copy(config, storage, study_id)
        study = records.StudyRecord.of(optuna.load_study(study_name=name, storage=storage))
        summary, (found,) = Summary.from_dict(attrs[records.SUMMARY]), find_stored(config, [study])
        if (model := summary.model) is not None and found is not None and config.register in (None, model["name"]):
            settle(tracking_destination(config, name, attrs))
            model = model if found == "unknown" else {"name": found.name, "version": found.version, "uri": found.uri}
            _set_champion(config, model["name"], str(model["version"]))
            summary = replace(summary, model={**model, "alias": CHAMPION}, standing=None)
            storage.set_study_user_attr(study_id, records.SUMMARY, summary.as_dict())
        else:
            spec = stored_objective(attrs)
            with explain_errors(spec.target):
                _register(config, StoredStudy(storage, study_id, _objective(spec, attrs)), summary)
        return records.StudyRecord.of(optuna.load_study(study_name=name, storage=storage))


def _objective(spec: ObjectiveSpec, attrs: Mapping[str, Any]) -> Objective:
    """Make a study's objective. A function is not imported: it is not needed, and may be in a notebook that is gone.

    Raises UsageError for one that logged no model.
    """
    if not is_of_function(attrs):
        return load_objective(spec)
    if not attrs.get(records.MODELS):
        raise UsageError(f"no model of the study can be registered: {NEVER_LOGGED}")
    return FunctionObjective(_not_imported, function_name(spec.target), spec.direction or "minimize")


def _not_imported(trial: object) -> NoReturn:
    raise AssertionError("nothing trains here")


def _find_searched(storage: RDBStorage, name: str) -> int:
    """The id of a study that a search has made."""
    study_id = find_study(storage, name)
    if study_id is None or records.OBJECTIVE not in storage.get_study_user_attrs(study_id):
        existing = ", ".join(study_names(storage)) or "none"
        advice = "A version of a model is typed as NAME/VERSION, for instance mnist/3"
        raise UsageError(f"there is no study {name!r} made by a search; there are: {existing}. {advice}")
    return study_id


def _register(config: Config, study: StoredStudy, winner: Summary) -> None:
    """Finish a search whose winner could not be registered."""
    require_same_images(study)
    tell_apart(config, study.objective)
    if (name := registered_name(config, study.objective)) is None:
        raise UsageError(f"study {study.name!r}: its objective makes no network that can be registered")
    with closing(open_tracking(config, study.name, study.attrs(), study.direction)) as tracking:
        tracking.ready()
        goal = tracking.verdict(PARENT) or {}
        Finish(study, tracking, config, register_as=name, device="cpu", goal=goal).run(winner)


def promote_version(config: Config, version: str) -> tuple[str, str] | None:
    """Make `NAME/VERSION` the champion and return both; None for another form. Raises ModelNotFoundError."""
    if (match := re.fullmatch(r"(?:models:/)?([^/:]+)/(\d+)", version)) is None:
        return None
    if (problem := why_no_model_name(match[1])) is not None:
        raise UsageError(f"promote {version}: {problem}")
    _set_champion(config, match[1], match[2])
    return match[1], match[2]


def _set_champion(config: Config, name: str, version: str) -> None:
    client = connect_mlflow(config.mlflow_uri)
    with mlflow_errors(config.mlflow_uri, f"version {version} of {name} did not become champion"):
        set_champion(client, name, version)


def restore_previous_champion(config: Config, name: str | None) -> tuple[str, str, str]:
    """Swap the champion and the previous one of a model, by default the newest champion's.

    Returns the model's name, the old and the new champion's version. Raises ModelNotFoundError without a previous one.
    """
    if name is not None and (problem := why_no_model_name(name)) is not None:
        advice = f"Type for example promote --rollback {similar_model_name(name.partition('/')[0])}"
        raise UsageError(f"--rollback takes the name of a model: {problem}. {advice}")
    client = connect_mlflow(config.mlflow_uri)
    with mlflow_errors(config.mlflow_uri, "the champion stays the same"):
        name = name or newest_champion(client)
        return name, *rollback(client, name)
