"""All settings of a search, with their defaults, types and help texts."""

import math
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from objectives.base import MAX_IMAGE_SIZE, METRICS, MIN_IMAGE_SIZE
from search.common.errors import UsageError
from search.common.passwords import mask

SAMPLERS = ("tpe", "random", "gp", "cmaes", "qmc")
DIRECTIONS = ("maximize", "minimize")
PRUNERS = ("hyperband", "median", "halving", "none")
ENGINES = ("local", "inline", "ray")
LOG_FORMATS = ("text", "json")
DEFAULT_OBJECTIVE = "objectives.images:ImageClassification"
DEFAULT_DATASET = "mnist"

TRACKING_STORE = r"(sqlite(\+pysqlite)?:///(?!:memory:|file:|$)|https?://|(postgresql|mysql)[\w+]*://)"
MAX_SECONDS = 1e9
"""More than thirty years. Dates end some thousand years later."""


class Whole(click.IntRange):
    """A whole number. click calls its own type an "integer range" in errors."""

    name = "integer"


class Number(click.types.FloatParamType):
    """A number. click calls its own type a "float" in errors."""

    name = "number"


COUNT = Whole(min=1)
POSITIVE = click.FloatRange(min=0, min_open=True)
NOT_NEGATIVE = click.FloatRange(min=0)
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


class Device(click.ParamType[str]):
    """The name of a device. Workers check whether it exists."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", str(value)) is None:
            self.fail(f"{value!r} is not one of auto, cpu, cuda, cuda:0 (or another number), mps.", param, ctx)
        return str(value)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "[auto|cpu|cuda|cuda:I|mps]"


class Keep(click.ParamType[str]):
    """Whose weights stay: those of all trials, or of the best ones."""

    name = "keep"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if re.fullmatch(r"all|best:0*[1-9]\d{0,8}", str(value)) is None:
            advice = "give all, or best:N with a number from 1, such as best:5"
            self.fail(f"{value!r} does not say whose weights stay; {advice}.", param, ctx)
        return str(value)


def setting(default: Any, text: str, type_: Any, metavar: str | None = None, *, unset: str | None = None) -> Any:
    """Make a field that is also a flag with the help `text`; `unset` describes the default if it is None."""
    return field(default=default, metadata={"help": text, "type": type_, "metavar": metavar, "unset": unset})


@dataclass(frozen=True)
class Config:
    """The settings of `run`. A field `data_dir` is the flag `--data-dir` and the variable `SEARCH_DATA_DIR`.

    Raises UsageError for values that pass the types of the flags but would fail after the last trial.
    """

    trials: int = setting(50, "Total number of finished trials.", COUNT, "N")
    dataset: str | None = setting(
        None,
        "mnist, cifar10, digits, another name of docs/data.md, folder:PATH or npz:FILE.",
        str,
        "NAME",
        unset=DEFAULT_DATASET,
    )
    image_size: int | None = setting(
        None,
        "Pixels a side to which images are resized.",
        Whole(MIN_IMAGE_SIZE, MAX_IMAGE_SIZE),
        "N",
        unset="the size of the images; at most 64 for folder: and npz:",
    )
    metric: str | None = setting(None, "Metric that the search improves.", click.Choice(METRICS), unset="accuracy")
    study: str | None = setting(None, "Name of the study.", str, "NAME", unset="the dataset's name")
    epochs: int | None = setting(None, "Epochs of a full training.", COUNT, "N", unset="the objective's choice")
    jobs: int | None = setting(
        None, "Number of parallel workers.", COUNT, "N", unset="one per core; tuned on GPUs; as many as fit on Ray"
    )
    device: str = setting("auto", "Device for training. auto picks a GPU if there is one.", Device())
    seed: int = setting(0, "Seed for all random numbers.", Whole(min=0), "N")
    sampler: str = setting("tpe", "Algorithm that proposes configurations.", click.Choice(SAMPLERS))
    pruner: str | None = setting(
        None,
        "Algorithm that stops unpromising trials early.",
        click.Choice(PRUNERS),
        unset="hyperband; median for a function",
    )
    confirm: int = setting(3, "Number of best trials to retrain on fresh seeds or folds.", Whole(min=0), "K")
    confirm_seeds: int | None = setting(
        None,
        "Trainings per confirmed trial, each with a fresh seed.",
        COUNT,
        "N",
        unset="2 seeds; 4 folds below 5,000 images",
    )
    no_refit: bool = setting(False, "Skip the final training on training and validation images.", bool)
    ensemble: int | None = setting(
        None,
        "Average the networks of up to K trials if that is better by more than a standard error.",
        Whole(2, 10),
        "K",
    )
    max_parameters: int | None = setting(None, "Maximum number of weights in a network.", COUNT, "N")
    max_latency_ms: float | None = setting(None, "Maximum time to classify one image on the device.", POSITIVE, "MS")
    fix: tuple[str, ...] = setting(
        (), "Fix or narrow a parameter, as in adam_lr=[1e-3,1e-2]. Repeatable.", str, "NAME=VALUE"
    )
    warm_start: str | None = setting(
        None, "Try the best configurations of an earlier study first; auto: of all studies that fit.", str, "STUDY"
    )
    patience: int | None = setting(
        None, "Stop after N trials without an improvement beyond one standard error.", COUNT, "N"
    )
    target: float | None = setting(
        None, "Stop as soon as the metric reaches this value and fresh seeds or folds confirm it.", Number(), "VALUE"
    )
    timeout: float | None = setting(None, "Start no new trial after this time.", POSITIVE, "SECONDS")
    objective: str = setting(
        DEFAULT_OBJECTIVE, "Your objective or Optuna function: FILE.py:NAME or MODULE:NAME.", str, "TARGET"
    )
    direction: str | None = setting(
        None, "Direction of a function's value.", click.Choice(DIRECTIONS), unset="minimize, as in Optuna"
    )
    engine: str = setting("local", "Where workers run: local processes, this process or Ray.", click.Choice(ENGINES))
    address: str | None = setting(
        None, "Ray cluster: auto, HOST:PORT or ray://HOST:PORT.", str, "ADDRESS", unset="start Ray on this machine"
    )
    cpus_per_trial: float = setting(1.0, "CPUs and threads per worker on Ray.", POSITIVE, "N")
    gpus_per_trial: float | None = setting(
        None, "GPUs per worker on Ray. With 0.25, four share one.", NOT_NEGATIVE, "N", unset="0.25 with a GPU"
    )
    workspace: Path = setting(Path("."), "Folder for optuna.db, mlflow.db and mlruns/.", FOLDER, "DIR")
    data_dir: Path | None = setting(None, "Folder of dataset files.", FOLDER, "DIR", unset="the user's cache")
    storage: str | None = setting(None, "Optuna database.", str, "URL", unset="optuna.db in the workspace")
    storage_wait: float = setting(
        600.0, "Maximum wait for a locked SQLite file, or for a PostgreSQL server.", NOT_NEGATIVE, "SECONDS"
    )
    tracking_uri: str | None = setting(None, "MLflow tracking store.", str, "URL", unset="mlflow.db in the workspace")
    register: str | None = setting(None, "Name of the registered model.", str, "NAME", unset="the dataset's name")
    no_register: bool = setting(False, "Do not register the winner.", bool)
    keep: str = setting("all", "Trials whose weights stay; those of others are deleted.", Keep(), "all|best:N")
    checkpoint_interval: float = setting(30.0, "Minimum time between checkpoints of a trial.", NOT_NEGATIVE, "SECONDS")
    quiet: bool = setting(False, "Print only the final summary.", bool)
    log_format: str = setting("text", "Progress output. json prints one object per line.", click.Choice(LOG_FORMATS))

    def __post_init__(self) -> None:
        if self.tracking_uri and not re.match(TRACKING_STORE, self.tracking_uri):
            advice = "give http://HOST:PORT of an MLflow server, or sqlite:///FILE"
            raise UsageError(f"--tracking-uri {self.tracking_uri!r} is not a tracking store; {advice}")
        if self.register is not None and (problem := why_no_model_name(self.register)) is not None:
            raise UsageError(f"--register {problem}. Type for example --register {similar_model_name(self.register)}")
        if self.target is not None and not math.isfinite(self.target):
            raise UsageError(f"--target {self.target} is not a value of the metric; leave it out for no target")
        for flag, value, unit in (("timeout", self.timeout, "seconds"), ("max-latency-ms", self.max_latency_ms, "ms")):
            if value is not None and not value <= MAX_SECONDS:
                raise UsageError(f"--{flag} {value} is not a number of {unit}; leave it out for no limit")

    @property
    def storage_url(self) -> str:
        from search.common.sqlite import sqlite_url  # SQLAlchemy would slow down --help

        return self.storage or sqlite_url((self.workspace / "optuna.db").absolute())

    @property
    def n_kept(self) -> int | None:
        """How many of the best trials keep their weights; None for all trials."""
        return None if self.keep == "all" else int(self.keep.removeprefix("best:"))

    @property
    def mlflow_uri(self) -> str:
        from search.common.sqlite import sqlite_file, sqlite_url

        path = sqlite_file(self.tracking_uri) if self.tracking_uri else self.workspace / "mlflow.db"
        return sqlite_url(path.absolute()) if path else str(self.tracking_uri)

    @property
    def where(self) -> str:
        """Flags that make another command use the same stores, each after a space, without passwords."""
        workspace = "" if str(self.workspace) == "." else str(self.workspace)
        flags = {"--workspace": workspace, "--storage": self.storage, "--tracking-uri": self.tracking_uri}
        return "".join(f" {flag} {shlex.quote(mask(value))}" for flag, value in flags.items() if value)


MODEL_NAME_CHARACTERS = 256  # of MLflow's column: PostgreSQL would refuse a longer name at the very end of a search


def why_no_model_name(name: str) -> str | None:
    """Say that a name cannot be that of a registered model, and what can; None if it can.

    MLflow accepts more in places. A name with `@` or a quote could not be typed in a model's URI.
    """
    if re.fullmatch(rf"(?![. ])[\w. -]{{1,{MODEL_NAME_CHARACTERS}}}(?<! )", name) is not None:
        return None
    shown = repr(name if len(name) <= 40 else f"{name[:40]}...")
    rule = f"1 to {MODEL_NAME_CHARACTERS} letters, digits, dashes, underscores, dots and spaces"
    return f"{shown} cannot name a model in MLflow; use {rule}, no dot first and no space at either end"


def similar_model_name(name: str) -> str:
    """Return a model name that looks like another name."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.")[:60] or "my-model"
