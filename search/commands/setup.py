"""The plan of a search: made from its settings once, and checked before anything is written."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from objectives.base import DatasetUnavailableError, ImageClassifier, Objective, ObjectiveSpec
from objectives.devices import resolve_device
from search.commands.studies import read_study
from search.common.config import DEFAULT_OBJECTIVE, Config, is_model_name
from search.common.direction import Direction
from search.common.errors import StorageError, UsageError
from search.common.sqlite import MLFLOW_TABLE, OPTUNA_TABLE, check_sqlite, sqlite_file
from search.common.workspace import Workspace
from search.coordinator.progress import Display
from search.study import records
from search.study.selection.intervals import images_of
from search.study.selection.stopping import stopping_reason
from search.study.space.initial_params import InitialParams, as_stored, baselines, from_stored, warm_start
from search.study.space.limits import Limits, describe
from search.study.space.objective_calls import check_answers
from search.study.space.space import Space, narrow, search_space
from search.study.storage.storage import open_storage, parse_url, quiet_optuna
from search.study.study import StoredStudy, find_study
from search.tracking.pages import experiment_tags
from search.tracking.registry import version
from search.tracking.store import Destination
from search.tracking.tracker import Tracking

LIMIT_DRAWS = 1_000  # number of random configurations drawn before a limit counts as impossible


@dataclass(frozen=True)
class SearchPlan:
    """Everything that is decided before a search begins."""

    config: Config
    workspace: Workspace
    name: str  # the study's
    spec: ObjectiveSpec
    objective: Objective
    space: Space
    limits: Limits
    earlier: records.StudyRecord | None  # its best configurations are tried first
    register_as: str | None  # name of the registered model; None: do not register
    refits: bool  # the winner trains again, on all but the test split

    @classmethod
    def of(cls, config: Config) -> Self:
        """Check the settings, make the objective and prepare its data.

        Raises UsageError, StorageError, ObjectiveError or DeviceError for what the user can correct.
        """
        quiet_optuna()
        workspace = Workspace(config.workspace)
        workspace.check_writable()
        parse_url(config.storage_url)
        for url, table in ((config.storage_url, OPTUNA_TABLE), (config.mlflow_uri, MLFLOW_TABLE)):
            if (path := sqlite_file(url)) is not None and path.exists():
                check_sqlite(path, table)
        check_engine(config)
        spec = objective_spec(config)
        objective = load_objective(spec)
        name, model = config.study or objective.name, registered_name(config, objective)
        refits = not config.no_refit and isinstance(objective, ImageClassifier)
        space, limits = narrow(objective, config.fix), Limits(config.max_parameters, config.max_latency_ms)
        _check_limits(objective, space, limits)
        return cls(config, workspace, name, spec, objective, space, limits, _earlier_study(config, name), model, refits)

    @property
    def goal(self) -> dict[str, Any]:
        """The confirmation and refit that follow the trials. A search that has reached it is complete."""
        confirm = [self.config.confirm, self.config.confirm_seeds if self.config.confirm else 0]
        return {"confirm": confirm, "refit": self.refits}

    @property
    def dataset(self) -> dict[str, Any] | None:
        """The dataset's name, digest and sizes; None if the objective is not an image classifier."""
        return dict(self.objective.dataset_info()) if isinstance(self.objective, ImageClassifier) else None

    def initial_params(self, study: StoredStudy) -> tuple[list[InitialParams], list[str]]:
        """The baselines, then the best of earlier studies; and notices about them for the user.

        The study stores the latter, so it can resume after the earlier study was deleted.
        """
        initial, notices = baselines(self.objective, self.space, self.limits)
        stored = dict(study.attrs().get(records.WARM_STARTS, {}))
        if self.earlier is not None and self.earlier.name not in stored:
            space = search_space(self.objective, self.space)
            best, warnings = warm_start(self.earlier, self.objective, space, self.limits)
            notices += warnings
            stored[self.earlier.name] = as_stored(best)
            study.set_attr(records.WARM_STARTS, stored)
        return initial + [params for best in stored.values() for params in from_stored(best)], notices

    def stop_reason(self, trials: Sequence[records.TrialRecord]) -> str | None:
        """Why the stopping rule ends the search, in words; None while it goes on."""
        if self.config.patience is None:
            return None
        values = (t.value for t in trials if t.state == TrialState.COMPLETE and t.value is not None)
        n_images, direction = images_of(self.objective, values), Direction(self.objective.direction)
        return stopping_reason(trials, self.config.patience, direction, n_images=n_images)


def check_engine(config: Config) -> None:
    """Raise UsageError for flags that contradict each other, DeviceError for a missing device."""
    if config.engine != "ray":
        for name in ("address", "cpus_per_trial", "gpus_per_trial"):
            if getattr(config, name) != getattr(Config, name):
                raise UsageError(f"--{name.replace('_', '-')} is for Ray: add --engine ray, or leave it out")
        if config.device not in ("auto", "cpu"):
            resolve_device(config.device, 0)
        return
    if ":" in config.device:
        raise UsageError(f"--device {config.device}: Ray chooses the GPU of each worker; type --device cuda")
    if not math.isfinite(config.cpus_per_trial):
        raise UsageError(f"--cpus-per-trial {config.cpus_per_trial} is not a number of CPUs; leave it out for 1")
    gpus = config.gpus_per_trial or 0.0
    if gpus > 1 and not gpus.is_integer():
        raise UsageError(f"--gpus-per-trial {gpus}: a worker has a part of one GPU or whole ones; type 0.5 or 2")
    if config.device == "cuda" and config.gpus_per_trial == 0:
        raise UsageError("--device cuda with --gpus-per-trial 0 asks for a GPU and for none; leave one of them out")


def _check_limits(objective: Objective, space: Space, limits: Limits) -> None:
    """Raise UsageError if the objective lacks a figure, or if random draws give no configuration within the limits."""
    limits.check(objective)
    if limits.parameters is None:
        return
    study, smallest = optuna.create_study(sampler=RandomSampler(seed=0)), math.inf
    for _ in range(LIMIT_DRAWS):
        figures = limits.figures(objective, space.suggest(objective, study.ask()))
        if limits.allow(figures):
            return
        smallest = min(smallest, *figures.values())
    draws, size = f"none of {LIMIT_DRAWS:,} random configurations is that small", describe({"parameters": smallest})
    advice = f"the smallest has {size}. Type for example --max-parameters {2 * smallest:.0f}"
    raise UsageError(f"--max-parameters {limits.parameters}: {draws}; {advice}")


def _earlier_study(config: Config, name: str) -> records.StudyRecord | None:
    """The study of `--warm-start`; None if study `name` has stored its configurations and it is gone."""
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
        return None


def objective_spec(config: Config) -> ObjectiveSpec:
    """How workers make the objective. A custom objective takes no arguments: it knows its own data."""
    data_dir = str(config.data_dir.absolute()) if config.data_dir else None
    options = {"dataset": config.dataset, "data_dir": data_dir} if config.objective == DEFAULT_OBJECTIVE else {}
    return ObjectiveSpec(config.objective, options)


def stored_objective(attrs: Mapping[str, Any]) -> ObjectiveSpec:
    """How to make a study's objective again.

    Raises StorageError for a custom objective with arguments, which no search stores. Anyone who can write to the
    storage could otherwise choose which function is called here, and with which arguments.
    """
    spec = ObjectiveSpec(**attrs[records.OBJECTIVE])
    if spec.options and (target := spec.target) != DEFAULT_OBJECTIVE:
        raise StorageError(f"the study names an objective with arguments, {target}, which no search does; not made")
    return spec


def load_objective(spec: ObjectiveSpec) -> Objective:
    """Make the objective and prepare its data. Raises ObjectiveError."""
    objective = spec.load()
    if isinstance(objective, ImageClassifier):
        objective.prepare()
    check_answers(objective)
    return objective


def registered_name(config: Config, objective: Objective) -> str | None:
    """The name of the winner's registered model; None if it is not registered.

    Raises UsageError for a name that MLflow does not accept, and for `--register` if nothing can be registered.
    """
    if config.no_register or (config.register is None and not version.can_be_registered(objective)):
        return None
    if not version.can_be_registered(objective):
        advice = "give it load_weights(params, weights) and example_input(), or leave the flag out"
        winner = f"the winner of objective {objective.name!r}"
        raise UsageError(f"--register {config.register}: {winner} cannot be registered; {advice}")
    name = config.register or objective.name
    if not is_model_name(name):
        accepted = "MLflow takes letters, digits, dots, dashes and spaces"
        advice = "Name the model with --register NAME, or give the objective another name"
        raise UsageError(f"objective {objective.name!r} cannot give its name to a model: {accepted}. {advice}")
    return name


def open_tracking(config: Config, study: str, attrs: Mapping[str, Any], direction: Direction) -> Tracking:
    """Open the tracking of one study; `attrs` are the study's."""
    workspace, uid = Workspace(config.workspace), attrs[records.UID]
    tags = experiment_tags(study, attrs[records.METRIC], maximize=direction is Direction.MAXIMIZE)
    destination = Destination(config.mlflow_uri, study, uid, workspace.artifacts(study).absolute(), tags)
    return Tracking(workspace.journal(study, uid), destination)


def plan_search(config: Config, display: Display, *, dataset_is_given: bool) -> SearchPlan:
    """Plan a search. Falls back to the built-in digits when the default dataset is unavailable. Raises as `of` does."""
    try:
        with display.busy("reading the dataset"):
            return SearchPlan.of(config)
    except DatasetUnavailableError as error:
        if dataset_is_given or config.objective != DEFAULT_OBJECTIVE:
            raise
        display.notice(f"MNIST is neither here nor downloadable, so this searches the built-in digits.\n({error})")
    return SearchPlan.of(replace(config, dataset="digits"))
