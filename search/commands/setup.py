"""The plan of a search: made from its settings once, and checked before anything is written."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from objectives.base import DatasetUnavailableError, ImageClassifier, Objective
from objectives.devices import resolve_device
from objectives.functions.objective import FunctionObjective
from objectives.spec import ObjectiveSpec
from search.commands.session.earlier_studies import AUTO, best_of_all, earlier_study
from search.commands.session.naming import tell_apart
from search.commands.session.scales import narrow_space
from search.common.config import DEFAULT_DATASET, DEFAULT_OBJECTIVE, Config, why_no_model_name
from search.common.direction import Direction
from search.common.errors import StorageError, UsageError
from search.common.sqlite import MLFLOW_TABLE, OPTUNA_TABLE, check_path, check_sqlite, sqlite_file
from search.common.workspace import Workspace, check_study_name, slug
from search.coordinator.progress import Display
from search.study import records
from search.study.selection.ensembles import why_no_ensemble
from search.study.selection.intervals import images_of
from search.study.selection.stopping import stopping_reason
from search.study.selection.target import Target
from search.study.space.initial_params import (
    InitialParams,
    WarmStart,
    as_stored,
    baselines,
    from_stored,
    portfolio,
    warm_start,
)
from search.study.space.limits import Limits, describe
from search.study.space.objective_calls import call, check_answers, explain_errors, folds_of
from search.study.space.space import Space, check_example, require_space
from search.study.storage.retry import RetryPolicy
from search.study.storage.storage import parse_url, quiet_optuna
from search.study.study import StoredStudy
from search.study.summary import Folds
from search.tracking import lengths
from search.tracking.pages import experiment_tags
from search.tracking.registry import version
from search.tracking.store import Destination
from search.tracking.tracker import Tracking

PASSED = ("dataset", "data_dir", "image_size", "metric")
"""Settings that an objective gets as keyword arguments."""

N_SEEDS = 2  # fresh seeds of a candidate, unless the user gives a number
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
    earlier: records.StudyRecord | None  # the one that --warm-start names; its best configurations are tried first
    register_as: str | None  # name of the registered model; None: do not register
    refits: bool  # the winner trains again, on all but the test split
    target: Target | None = None  # the search ends as soon as a confirmation reaches it
    notice: str | None = None  # for the user, before anything starts
    trainings: int = 0  # of each candidate, to confirm it; 0 without a confirmation
    folds: Folds | None = None  # of which each of these leaves out one; None: they have the training split
    command: str | None = None  # what began the search; None for the command line of this process

    @classmethod
    def of(
        cls,
        config: Config,
        ambient: Set[str] = frozenset(),
        say: Callable[[str], None] = lambda text: None,
        given: ObjectiveSpec | None = None,
    ) -> Self:
        """Check the settings, make the objective and prepare its data. `say` tells the user what this waits for.

        `ambient` names settings of the environment, which are meant for any objective. `given` is an objective that a
        Python program gave, which `config` names. Raises UsageError, StorageError, ObjectiveError or DeviceError for
        what the user can correct.
        """
        with explain_errors(config.objective):
            return cls._of(config, ambient, say, given)

    @classmethod
    def _of(cls, config: Config, ambient: Set[str], say: Callable[[str], None], given: ObjectiveSpec | None) -> Self:
        quiet_optuna()
        if config.study is not None:
            check_study_name(config.study, "--study")
        workspace = Workspace(config.workspace)
        workspace.check_writable()
        parse_url(config.storage_url)
        for url, table in ((config.storage_url, OPTUNA_TABLE), (config.mlflow_uri, MLFLOW_TABLE)):
            if (path := sqlite_file(url)) is not None and path.exists():
                patience = RetryPolicy(wait_s=config.storage_wait, say=say, file=path)
                patience.run(functools.partial(check_sqlite, path, table, wait_s=0.0))
        check_engine(config)
        spec = objective_spec(config, ambient, given)
        objective = load_objective(spec)
        _check_flags(config, objective)
        notice = tell_apart(config, objective)
        name, model = config.study or objective.name, registered_name(config, objective)
        check_study_name(name, "objective")
        check_path(workspace.journal(name, "00000000"))
        refits = not config.no_refit and isinstance(objective, ImageClassifier)
        target = None if config.target is None else Target.of(config.target, objective)
        space, limits = narrow_space(config, objective, name), Limits(config.max_parameters, config.max_latency_ms)
        _check_limits(objective, space, limits)
        earlier = earlier_study(config, name)
        plan = cls(config, workspace, name, spec, objective, space, limits, earlier, model, refits, target, notice)
        return plan.confirmed_on(folds_of(objective))

    def confirmed_on(self, folds: Folds | None) -> Self:
        """Return the plan of a study whose candidates are confirmed on these folds; None: on the training split."""
        trainings = (self.config.confirm_seeds or (folds.number if folds else N_SEEDS)) if self.config.confirm else 0
        return replace(self, trainings=trainings, folds=folds, target=self.target and self.target.of_mean(trainings))

    @property
    def goal(self) -> dict[str, Any]:
        """The target, the confirmation, the ensemble and the refit. A search that has reached them is complete."""
        goal = {"confirm": [self.config.confirm, self.trainings], "refit": self.refits}
        goal |= {"target": self.target.value} if self.target else {}
        return goal | ({"ensemble": self.config.ensemble} if self.config.ensemble else {})

    @property
    def is_function(self) -> bool:
        """True for a plain function of an Optuna trial."""
        return isinstance(self.objective, FunctionObjective)

    @property
    def pruner(self) -> str:
        """The pruner. Functions have Optuna's default one: their steps are unknown."""
        return self.config.pruner or ("median" if self.is_function else "hyperband")

    @property
    def dataset(self) -> dict[str, Any] | None:
        """The dataset's name, digest and sizes; None if the objective is not an image classifier."""
        return dict(self.objective.dataset_info()) if isinstance(self.objective, ImageClassifier) else None

    def initial_params(self, study: StoredStudy) -> tuple[list[InitialParams], list[str]]:
        """The baselines, the best of earlier studies, and the objective's portfolio; and notices about the first two.

        The study stores those of earlier studies before its first trial, so it can go on after one was deleted.
        """
        initial, notices = baselines(self.objective, self.space, self.limits)
        stored, wanted = dict(study.attrs().get(records.WARM_STARTS, {})), self.config.warm_start
        if wanted not in stored and (wanted == AUTO or self.earlier is not None):
            known = [*(baseline.params for baseline in initial), *(t.params for t in study.record().trials)]
            start = WarmStart(self.objective, self.space, self.limits, known)
            if self.earlier is not None:
                best, warnings = warm_start(self.earlier, start)
            else:
                best, warnings = best_of_all(self.config, study, self.dataset, start)
            notices += warnings
            stored[wanted] = as_stored(best)
            study.set_attr(records.WARM_STARTS, stored)
        initial += [params for best in stored.values() for params in from_stored(best)]
        return initial + portfolio(self.objective, self.space, self.limits), notices

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


def _check_flags(config: Config, objective: Objective) -> None:
    """Raise UsageError for a flag that this kind of objective cannot take."""
    if isinstance(objective, FunctionObjective):
        for name in ("epochs", "max_parameters", "max_latency_ms"):
            if (value := getattr(config, name)) is not None:
                advice = "a function of a trial sets its own; leave the flag out"
                raise UsageError(f"--{name.replace('_', '-')} {value}: {advice}")
    if config.ensemble is not None and (problem := why_no_ensemble(objective)) is not None:
        raise UsageError(f"--ensemble {config.ensemble}: {problem}; leave the flag out")
    if config.direction not in (None, objective.direction):
        whose = f"the objective {config.objective} says {objective.direction}"
        raise UsageError(f"--direction {config.direction}: {whose}; leave the flag out. It is for plain functions")


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


def objective_spec(
    config: Config, ambient: Set[str] = frozenset(), given: ObjectiveSpec | None = None
) -> ObjectiveSpec:
    """How workers make the objective. An own one gets `dataset` and `data_dir` if they are given and it takes them.

    `given` is an objective that a Python program gave; None for the one that `config` names. Raises UsageError if it
    does not take them, except for those in `ambient`.
    """
    data_dir, target = str(config.data_dir.absolute()) if config.data_dir else None, config.objective
    direction: Any = config.direction
    options = {name: value for name in PASSED if (value := getattr(config, name)) is not None}
    if data_dir is not None:
        options["data_dir"] = data_dir
    if target == DEFAULT_OBJECTIVE:
        return ObjectiveSpec(target, {"dataset": DEFAULT_DATASET, "data_dir": None, **options})
    named = replace(given or ObjectiveSpec(target), direction=direction)
    accepted = named.accepted(options) if options else set()
    for name in sorted(options.keys() - accepted - ambient):
        flag = f"--{name.replace('_', '-')}"
        if given is not None and given.is_made():
            raise UsageError(f"{name}={options[name]!r}: the object is made already; give {name} where you make it")
        advice = f"leave {flag} out, or give its class or factory an argument {name}"
        raise UsageError(f"{flag} {options[name]}: the objective {target} takes no {name}; {advice}")
    return replace(named, options={name: options[name] for name in accepted})


def stored_objective(attrs: Mapping[str, Any]) -> ObjectiveSpec:
    """How to make a study's objective again.

    Raises StorageError for arguments that no search stores. Anyone who can write to the storage could otherwise choose
    which function is called here, and with which arguments. Raises ObjectiveError if the objective cannot be imported,
    UsageError if it has no name to import.
    """
    stored = attrs[records.OBJECTIVE]  # anything else in it, such as a pickled object, does not count
    spec = ObjectiveSpec(stored["target"], stored["options"], stored.get("direction"))
    if not spec.is_here:
        name = spec.target.rpartition(":")[2]
        where = "exists only in the notebook or program that gave it to search.run"
        advice = "Run the same call there again: it does what is missing. Commands can use an objective of a file"
        raise UsageError(f"the study's objective {name} {where}. {advice}")
    place = spec.target.rpartition(":")[0]
    if place.endswith(".py") and not Path(place).resolve().is_relative_to(Path.cwd()):
        advice = "Type the command in the folder of the file, or above it"
        raise UsageError(f"the study's objective is in {place}, outside of this folder. {advice}")
    known = spec.options.keys() <= set(PASSED) and all(isinstance(v, str | int | None) for v in spec.options.values())
    if not known or (spec.options and not spec.options.keys() <= spec.accepted(PASSED)):
        arguments = ", ".join(map(str, spec.options))
        raise StorageError(f"the study's objective, {spec.target}, does not take its arguments: {arguments}; not made")
    return spec


def load_objective(spec: ObjectiveSpec) -> Objective:
    """Make the objective, prepare its data, and check its answers. Raises ObjectiveError."""
    objective = spec.load()
    if isinstance(objective, ImageClassifier):
        call("prepare", objective.prepare)
    check_answers(objective)
    require_space(objective)
    check_example(objective)
    return objective


def registered_name(config: Config, objective: Objective) -> str | None:
    """The name of the winner's registered model; None if it is not registered.

    An objective's name that MLflow does not accept is changed as in names of files. Raises UsageError for `--register`
    if nothing can be registered.
    """
    if config.no_register or (config.register is None and not version.can_be_registered(objective)):
        return None
    if not version.can_be_registered(objective):
        advice = "give it load_weights(params, weights) and example_input(), or leave the flag out"
        winner = f"the winner of objective {objective.name!r}"
        raise UsageError(f"--register {config.register}: {winner} cannot be registered; {advice}")
    name = config.register or objective.name
    return name if why_no_model_name(name) is None else slug(name)


def open_tracking(
    config: Config,
    study: str,
    attrs: Mapping[str, Any],
    direction: Direction,
    *,
    say: Callable[[str], object] = lambda notice: None,
    retry: RetryPolicy | None = None,
) -> Tracking:
    """Open the tracking of one study; `attrs` are the study's.

    `say` shows the user a notice. With `retry`, the journal waits while it is locked.
    """
    tags = experiment_tags(study, attrs[records.METRIC], maximize=direction is Direction.MAXIMIZE)
    destination = replace(tracking_destination(config, study, attrs), tags=tags)
    return Tracking(Workspace(config.workspace).journal(study, destination.scope), destination, say=say, retry=retry)


def tracking_destination(config: Config, study: str, attrs: Mapping[str, Any]) -> Destination:
    """Where the runs of a study go; `attrs` are the study's."""
    artifacts = Workspace(config.workspace).artifacts(study).absolute()
    experiment = lengths.cut_distinct(study, lengths.EXPERIMENT_NAME)
    return Destination(config.mlflow_uri, experiment, attrs[records.UID], artifacts)


def plan_search(
    config: Config, display: Display, *, ambient: Set[str] = frozenset(), given: ObjectiveSpec | None = None
) -> SearchPlan:
    """Plan a search. Falls back to the built-in digits when the default dataset is unavailable. Raises as `of` does."""
    try:
        with display.busy("reading the dataset"):
            plan = SearchPlan.of(config, ambient, display.notice, given)
    except DatasetUnavailableError as error:
        if config.dataset is not None or config.objective != DEFAULT_OBJECTIVE:
            raise
        display.notice(f"MNIST is neither here nor downloadable, so this searches the built-in digits.\n{error}")
        return SearchPlan.of(replace(config, dataset="digits"), ambient, display.notice)
    if config.dataset is not None and "dataset" not in plan.spec.options:
        display.notice(f"SEARCH_DATASET={config.dataset} is ignored: the objective {config.objective} takes no dataset")
    return plan
