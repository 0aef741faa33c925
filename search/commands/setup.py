"""The plan of a search: made of its settings once, and checked before anything is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from objectives.base import ImageClassifier, Objective, ObjectiveSpec
from objectives.devices import resolve_device
from search.commands.scope import Scope
from search.common.config import DEFAULT_OBJECTIVE, Config, is_model_name
from search.common.errors import StorageError, UsageError
from search.common.sqlite import MLFLOW_TABLE, OPTUNA_TABLE, check_sqlite, sqlite_file
from search.common.workspace import Workspace
from search.study import records
from search.study.space.objective_calls import check_answers
from search.study.storage.storage import quiet_optuna
from search.tracking.pages import experiment_tags
from search.tracking.registry import version
from search.tracking.store import Destination
from search.tracking.tracker import Tracking


@dataclass(frozen=True)
class SearchPlan:
    """Everything that is decided before a search begins."""

    config: Config
    name: str
    """The study's."""
    spec: ObjectiveSpec
    objective: Objective
    scope: Scope
    workspace: Workspace
    register_as: str | None
    """Name of the registered model; None: do not register."""
    refits: bool
    """The winner trains again, on all but the test split."""

    @classmethod
    def of(cls, config: Config) -> SearchPlan:
        """Make the objective, see to its data, and check what was asked for.

        Raises UsageError, StorageError, ObjectiveError or DeviceError for what the user can correct.
        """
        quiet_optuna()
        workspace = Workspace(config.workspace)
        workspace.check_writable()
        check_stores(config)
        check_engine(config)
        spec = objective_spec(config)
        objective = load_objective(spec)
        name = config.study or objective.name
        return cls(
            config=config,
            name=name,
            spec=spec,
            objective=objective,
            register_as=registered_name(config, objective),
            scope=Scope.of(config, objective, name),
            workspace=workspace,
            refits=not config.no_refit and isinstance(objective, ImageClassifier),
        )

    @property
    def goal(self) -> dict[str, Any]:
        """The confirmation and refit that follow the trials. A search that has reached it is complete."""
        confirm = [self.config.confirm, self.config.confirm_seeds if self.config.confirm else 0]
        return {"confirm": confirm, "refit": self.refits}

    @property
    def dataset(self) -> dict[str, Any] | None:
        """The dataset's name, digest and sizes; None if the objective is not an image classifier."""
        return dict(self.objective.dataset_info()) if isinstance(self.objective, ImageClassifier) else None


# ---- the objective


def objective_spec(config: Config) -> ObjectiveSpec:
    """How workers make the objective. A custom objective takes no arguments: it knows its own data."""
    if config.objective != DEFAULT_OBJECTIVE:
        return ObjectiveSpec(config.objective)
    data_dir = str(config.data_dir.absolute()) if config.data_dir else None
    return ObjectiveSpec(config.objective, {"dataset": config.dataset, "data_dir": data_dir})


def stored_objective(attrs: Mapping[str, Any]) -> ObjectiveSpec:
    """How to make a study's objective again. Raises StorageError for what no search has stored.

    Anyone who can write to the storage could otherwise choose what is called here, and with which arguments.
    Objectives other than this project's take none.
    """
    spec = ObjectiveSpec(**attrs[records.OBJECTIVE])
    if spec.options and spec.target != DEFAULT_OBJECTIVE:
        raise StorageError(
            f"the study names an objective with arguments, {spec.target}, which no search does; not made"
        )
    return spec


def load_objective(spec: ObjectiveSpec) -> Objective:
    """Make the objective and see to its data. Raises ObjectiveError."""
    objective = spec.load()
    if isinstance(objective, ImageClassifier):
        objective.prepare()
    check_answers(objective)
    return objective


def registered_name(config: Config, objective: Objective) -> str | None:
    """The name of the winner's registered model; None when it is not registered.

    Raises UsageError for a name that was given where nothing can be registered.
    """
    if not version.can_be_registered(objective):
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


# ---- stores and workers


def check_stores(config: Config) -> None:
    """Raise StorageError for a store that is damaged or not ours, before anything is written."""
    for url, table in ((config.storage_url, OPTUNA_TABLE), (config.mlflow_uri, MLFLOW_TABLE)):
        if (path := sqlite_file(url)) is not None and path.exists():
            check_sqlite(path, table)


def check_engine(config: Config) -> None:
    """Raise UsageError for flags that do not go together, DeviceError for a device that is not there."""
    if config.engine != "ray":
        for name in ("address", "cpus_per_trial", "gpus_per_trial"):
            if getattr(config, name) != getattr(Config, name):
                raise UsageError(f"--{name.replace('_', '-')} is for Ray: add --engine ray, or leave it out")
        if config.device not in ("auto", "cpu"):
            resolve_device(config.device, 0)
        return
    if ":" in config.device:
        raise UsageError(f"--device {config.device}: Ray chooses the GPU of each trainer; type --device cuda")
    if not math.isfinite(config.cpus_per_trial):
        raise UsageError(f"--cpus-per-trial {config.cpus_per_trial} is not a number of CPUs; leave it out for 1")
    gpus = config.gpus_per_trial or 0.0
    if gpus > 1 and not gpus.is_integer():
        raise UsageError(f"--gpus-per-trial {gpus}: a trainer has a part of one GPU or whole ones; type 0.5 or 2")
    if config.device == "cuda" and config.gpus_per_trial == 0:
        raise UsageError("--device cuda with --gpus-per-trial 0 asks for a GPU and for none; leave one of them out")


def open_tracking(config: Config, study: str, attrs: Mapping[str, Any], *, maximize: bool) -> Tracking:
    """Open the tracking of one study; `attrs` are those of the study."""
    workspace, uid = Workspace(config.workspace), attrs[records.UID]
    tags = experiment_tags(study, attrs[records.METRIC], maximize=maximize)
    destination = Destination(config.mlflow_uri, study, uid, workspace.artifacts(study).absolute(), tags)
    return Tracking(workspace.journal(study, uid), destination)
