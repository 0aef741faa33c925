"""All settings of a search, with their defaults, types and help texts.

`search.cli.options` makes flags, environment variables and keys of the TOML file from them.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import click

from search.common.errors import UsageError
from search.common.passwords import mask

SAMPLERS = ("tpe", "random", "gp", "cmaes", "qmc")
PRUNERS = ("hyperband", "median", "halving", "none")
ENGINES = ("local", "inline", "ray")
LOG_FORMATS = ("text", "json")
DEFAULT_OBJECTIVE = "objectives.images:ImageClassification"


class Device(click.ParamType[str]):
    """`auto`, `cpu`, `cuda`, `cuda:I` or `mps`."""

    name = "device"
    choices = "auto | cpu | cuda | cuda:I | mps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the form. A worker checks whether the device exists."""
        if re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", str(value)) is None:
            self.fail(f"{value!r} is not one of auto, cpu, cuda, cuda:0 (or another number), mps.", param, ctx)
        return str(value)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return the text for `--help`."""
        return f"[{self.choices.replace(' ', '')}]"


def setting(default: Any, help_: str, type_: click.ParamType[Any] | type, *, name: str | None = None) -> Any:
    """Make a field that is also a flag. `name` is the metavar. A flag whose default is a tuple is repeatable."""
    return field(default=default, metadata={"help": help_, "type": type_, "metavar": name})


@dataclass(frozen=True)
class Config:
    """The settings of `run`. A field `data_dir` is the flag `--data-dir` and the variable `SEARCH_DATA_DIR`.

    Raises UsageError for values that the types of the flags cannot reject.
    """

    trials: int = setting(50, "Total number of finished trials.", click.IntRange(min=1), name="N")
    dataset: str = setting("mnist", "mnist, fashion-mnist, kmnist, digits or folder:PATH.", str, name="NAME")
    study: str | None = setting(None, "Name of the study.  [default: the dataset's]", str, name="NAME")
    epochs: int | None = setting(
        None, "Number of epochs of a complete training.  [default: the objective's]", click.IntRange(min=1), name="N"
    )
    jobs: int | None = setting(
        None,
        "Number of parallel workers.  [default: one per core; tuned on GPUs; as many as fit on Ray]",
        click.IntRange(min=1),
        name="N",
    )
    device: str = setting("auto", "Device for training; auto uses a GPU if there is one.", Device())
    seed: int = setting(0, "Seed of all random numbers.", click.IntRange(min=0), name="N")
    sampler: str = setting("tpe", "How configurations are sampled.", click.Choice(SAMPLERS))
    pruner: str = setting("hyperband", "How bad trials are stopped early.", click.Choice(PRUNERS))
    confirm: int = setting(
        3,
        "Number of best trials to retrain on fresh seeds; 0 for none.",
        click.IntRange(min=0),
        name="K",
    )
    confirm_seeds: int = setting(2, "Number of fresh seeds per confirmed trial.", click.IntRange(min=1), name="N")
    no_refit: bool = setting(
        False, "Register a confirmed network; do not retrain the winner on training and validation data.", bool
    )
    max_parameters: int | None = setting(
        None, "Maximum number of weights of a network.", click.IntRange(min=1), name="N"
    )
    max_latency_ms: float | None = setting(
        None,
        "Maximum time for one image on the search's device.",
        click.FloatRange(min=0, min_open=True),
        name="MS",
    )
    fix: tuple[str, ...] = setting(
        (),
        "Fix a parameter, or narrow its range: adam_lr=[0.001,0.01]. Repeatable.",
        str,
        name="NAME=VALUE",
    )
    warm_start: str | None = setting(None, "Try the best configurations of an earlier study first.", str, name="STUDY")
    patience: int | None = setting(
        None, "End after so many trials without a clear improvement.", click.IntRange(min=1), name="N"
    )
    timeout: float | None = setting(
        None, "Start no trial after this time.", click.FloatRange(min=0, min_open=True), name="SECONDS"
    )
    objective: str = setting(DEFAULT_OBJECTIVE, "The objective to optimise.", str, name="MODULE:ATTR")
    engine: str = setting("local", "Run workers as local processes, in this process, or on Ray.", click.Choice(ENGINES))
    address: str | None = setting(
        None,
        "Ray cluster: auto, HOST:PORT or ray://HOST:PORT.  [default: start Ray on this machine]",
        str,
        name="ADDRESS",
    )
    cpus_per_trial: float = setting(
        1.0,
        "CPUs per worker on Ray, and the number of its threads.",
        click.FloatRange(min=0, min_open=True),
        name="N",
    )
    gpus_per_trial: float | None = setting(
        None,
        "GPUs per worker on Ray; with 0.25, four workers share one.  [default: 0.25 if there are GPUs]",
        click.FloatRange(min=0),
        name="N",
    )
    workspace: Path = setting(
        Path("."),
        "Folder for optuna.db, mlflow.db and mlruns/.",
        click.Path(path_type=Path, file_okay=False),
        name="DIR",
    )
    data_dir: Path | None = setting(
        None,
        "Folder of dataset files.  [default: the user's cache]",
        click.Path(path_type=Path, file_okay=False),
        name="DIR",
    )
    storage: str | None = setting(None, "Optuna's database.  [default: SQLite file optuna.db]", str, name="URL")
    storage_wait: float = setting(
        600.0,
        "How long to wait for a PostgreSQL server that does not answer.",
        click.FloatRange(min=0),
        name="SECONDS",
    )
    tracking_uri: str | None = setting(
        None, "MLflow's tracking store.  [default: SQLite file mlflow.db]", str, name="URL"
    )
    register: str | None = setting(None, "Name of the registered model.  [default: the dataset's]", str, name="NAME")
    no_register: bool = setting(False, "Do not register the winner.", bool)
    checkpoint_interval: float = setting(
        30.0, "Minimum time between two checkpoints of a training.", click.FloatRange(min=0), name="SECONDS"
    )
    quiet: bool = setting(False, "Print only the final summary.", bool)
    log_format: str = setting(
        "text", "Format of the progress output; json prints one object per line.", click.Choice(LOG_FORMATS)
    )

    def __post_init__(self) -> None:
        """Validate values that would fail only after the last trial."""
        if self.tracking_uri and not re.match(r"(sqlite:///|https?://|(postgresql|mysql)[\w+]*://)", self.tracking_uri):
            raise UsageError(
                f"--tracking-uri {self.tracking_uri!r} is not a tracking store; give http://HOST:PORT of an MLflow "
                "server, or sqlite:///FILE"
            )
        if self.register is not None and not is_model_name(self.register):
            raise UsageError(f"--register {self.register!r} is not a model name; use letters, digits, dots and dashes")
        if self.timeout is not None and not math.isfinite(self.timeout):
            raise UsageError(f"--timeout {self.timeout} is not a number of seconds; leave it out for no limit")
        if self.max_latency_ms is not None and not math.isfinite(self.max_latency_ms):
            raise UsageError(f"--max-latency-ms {self.max_latency_ms} is not a number of ms; leave it out for no limit")

    @property
    def storage_url(self) -> str:
        """URL of Optuna's database."""
        return self.storage or f"sqlite:///{(self.workspace / 'optuna.db').absolute()}"

    @property
    def mlflow_uri(self) -> str:
        """URL of MLflow's tracking store."""
        return self.tracking_uri or f"sqlite:///{(self.workspace / 'mlflow.db').absolute()}"

    @property
    def where(self) -> str:
        """Flags for another command to use the same stores, each with a space before it; without passwords."""
        flags = {
            "--workspace": None if str(self.workspace) == "." else str(self.workspace),
            "--storage": self.storage and mask(self.storage),
            "--tracking-uri": self.tracking_uri and mask(self.tracking_uri),
        }
        return "".join(f" {flag} {shlex.quote(value)}" for flag, value in flags.items() if value)


def is_model_name(name: str) -> bool:
    """Return whether MLflow accepts the name for a registered model."""
    return re.fullmatch(r"[\w. -]+", name) is not None


NAMES = tuple(spec.name for spec in fields(Config))
