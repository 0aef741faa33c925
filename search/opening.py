"""What a search, and what mends one afterwards, open first: the objective, the stores, the way to MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from objectives.base import ImageClassifier, Objective, ObjectiveSpec
from search import records, version
from search.asking import check_answers
from search.config import DEFAULT_OBJECTIVE, Config, is_model_name
from search.errors import UsageError
from search.mlflow_store import Destination
from search.pages import experiment_tags
from search.sqlite import MLFLOW_TABLE, OPTUNA_TABLE, check_sqlite, sqlite_file
from search.tracking import Tracking
from search.workspace import Workspace


def objective_spec(config: Config) -> ObjectiveSpec:
    """How trainers make the objective. A custom objective takes no arguments: it knows its own data."""
    if config.objective != DEFAULT_OBJECTIVE:
        return ObjectiveSpec(config.objective)
    data_dir = str(config.data_dir.absolute()) if config.data_dir else None
    return ObjectiveSpec(config.objective, {"dataset": config.dataset, "data_dir": data_dir})


def load_objective(spec: ObjectiveSpec) -> Objective:
    """Make the objective and see to its data. Raises ObjectiveError."""
    objective = spec.load()
    if isinstance(objective, ImageClassifier):
        objective.prepare()
    check_answers(objective)
    return objective


def registered_name(config: Config, objective: Objective) -> str | None:
    """The name that the winner is to have in the registry; None when it is not to be there.

    Raises UsageError for a name that was given where nothing can be registered.
    """
    if not version.can_be_made(objective):
        if config.register is None or config.no_register:
            return None
        raise UsageError(
            f"--register {config.register}: the winner of objective {objective.name!r} cannot be registered; give it "
            "load_weights(params, weights) and example_input(), or leave the flag out"
        )
    name = None if config.no_register else config.register or objective.name
    if name is not None and not is_model_name(name):
        raise UsageError(
            f"objective {objective.name!r} cannot give its name to a model: MLflow takes letters, digits, dots, dashes "
            "and spaces. Name the model with --register NAME, or give the objective another name"
        )
    return name


def check_stores(config: Config) -> None:
    """Refuse damaged or foreign stores before anything is written. Raises StorageError."""
    for url, table in ((config.storage_url, OPTUNA_TABLE), (config.mlflow_uri, MLFLOW_TABLE)):
        if (path := sqlite_file(url)) is not None and path.exists():
            check_sqlite(path, table)


def open_tracking(config: Config, study: str, attrs: Mapping[str, Any], *, maximize: bool) -> Tracking:
    """The way to MLflow for one study; `attrs` are those of the study."""
    workspace, uid = Workspace(config.workspace), attrs[records.UID]
    tags = experiment_tags(study, attrs[records.METRIC], maximize=maximize)
    destination = Destination(config.mlflow_uri, study, uid, workspace.artifacts(study).absolute(), tags)
    return Tracking(workspace.journal(study, uid), destination)
