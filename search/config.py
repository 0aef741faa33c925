"""Every setting of a search: its default, its type and its help, each written once.

The command line, the environment and the TOML file are all read from this table by `search.options`.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import click

from search.errors import UsageError
from search.masking import mask

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
        """Check the form; whether the device is there, a trainer finds out."""
        if re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", str(value)) is None:
            self.fail(f"{value!r} is not one of auto, cpu, cuda, cuda:0 (or another number), mps.", param, ctx)
        return str(value)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What `--help` shows."""
        return f"[{self.choices.replace(' ', '')}]"


def setting(default: Any, help_: str, type_: click.ParamType[Any] | type, *, name: str | None = None) -> Any:
    """A field that is also a flag. `name` is the metavar; a flag whose default is a tuple may be given repeatedly."""
    return field(default=default, metadata={"help": help_, "type": type_, "metavar": name})


@dataclass(frozen=True)
class Config:
    """The settings of one `run`. Fields are flags: `data_dir` is `--data-dir` and `SEARCH_DATA_DIR`."""

    trials: int = setting(50, "Finished trials that the study is to have in total.", click.IntRange(min=1), name="N")
    dataset: str = setting("mnist", "mnist, fashion-mnist, kmnist, digits or folder:PATH.", str, name="NAME")
    study: str | None = setting(None, "Name of the study.  [default: the dataset's]", str, name="NAME")
    epochs: int | None = setting(
        None, "Epochs of a whole training.  [default: the objective's]", click.IntRange(min=1), name="N"
    )
    jobs: int | None = setting(
        None, "Trainers at work at once.  [default: one per core; on GPUs, what pays; on Ray, what has room]",
        click.IntRange(min=1), name="N",
    )  # fmt: skip
    device: str = setting("auto", "Where trials train; auto takes a GPU where there is one.", Device())
    seed: int = setting(0, "Seed of everything random.", click.IntRange(min=0), name="N")
    sampler: str = setting("tpe", "How settings are chosen.", click.Choice(SAMPLERS))
    pruner: str = setting("hyperband", "How hopeless trainings are stopped early.", click.Choice(PRUNERS))
    confirm: int = setting(
        3, "Best trials that train again on fresh seeds; 0 trusts the search's own figures.", click.IntRange(min=0),
        name="K",
    )  # fmt: skip
    confirm_seeds: int = setting(2, "Fresh seeds for each of them.", click.IntRange(min=1), name="N")
    no_refit: bool = setting(False, "Keep a confirmed network instead of training on all but the test split.", bool)
    max_parameters: int | None = setting(
        None, "Train no network with more weights than this.", click.IntRange(min=1), name="N"
    )
    max_latency_ms: float | None = setting(
        None, "Train no network that takes longer for one picture, on the search's device.",
        click.FloatRange(min=0, min_open=True), name="MS",
    )  # fmt: skip
    fix: tuple[str, ...] = setting(
        (), "Fix a parameter, or narrow it as adam_lr=[0.001,0.01]; repeatable, see 'A smaller space'.", str,
        name="NAME=VALUE",
    )  # fmt: skip
    warm_start: str | None = setting(None, "Try the best settings of this earlier study first.", str, name="STUDY")
    patience: int | None = setting(
        None, "End after so many trials without a clear improvement.", click.IntRange(min=1), name="N"
    )
    timeout: float | None = setting(
        None, "Begin no trial after this many seconds.", click.FloatRange(min=0, min_open=True), name="SECONDS"
    )
    objective: str = setting(DEFAULT_OBJECTIVE, "What is optimised; see 'Own objectives'.", str, name="MODULE:ATTR")
    engine: str = setting(
        "local", "Trainers in processes of their own, in this one, or in a Ray cluster.", click.Choice(ENGINES)
    )
    address: str | None = setting(
        None, "Ray cluster: auto, HOST:PORT or ray://HOST:PORT.  [default: a Ray of its own on this machine]", str,
        name="ADDRESS",
    )  # fmt: skip
    cpus_per_trial: float = setting(
        1.0, "CPUs that Ray keeps for each trainer, which uses as many threads.",
        click.FloatRange(min=0, min_open=True), name="N",
    )  # fmt: skip
    gpus_per_trial: float | None = setting(
        None, "GPUs that Ray keeps for each trainer; with 0.25 four share one.  [default: 0.25 where there are any]",
        click.FloatRange(min=0), name="N",
    )  # fmt: skip
    workspace: Path = setting(
        Path("."), "Folder of the stores and of mlruns/.", click.Path(path_type=Path, file_okay=False), name="DIR"
    )
    data_dir: Path | None = setting(
        None, "Where dataset files are or go.  [default: the user's cache]",
        click.Path(path_type=Path, file_okay=False), name="DIR",
    )  # fmt: skip
    storage: str | None = setting(None, "Optuna's database.  [default: sqlite, optuna.db]", str, name="URL")
    storage_wait: float = setting(
        600.0, "How long a search waits for a PostgreSQL server that does not answer.", click.FloatRange(min=0),
        name="SECONDS",
    )  # fmt: skip
    tracking_uri: str | None = setting(None, "MLflow's store.  [default: sqlite, mlflow.db]", str, name="URL")
    register: str | None = setting(None, "Name of the registered model.  [default: the dataset's]", str, name="NAME")
    no_register: bool = setting(False, "Do not register the winner.", bool)
    checkpoint_interval: float = setting(
        30.0, "Seconds of training between two checkpoints, at least.", click.FloatRange(min=0), name="SECONDS"
    )
    quiet: bool = setting(False, "Print the closing summary only.", bool)
    log_format: str = setting("text", "How progress is printed; json is one object a line.", click.Choice(LOG_FORMATS))

    def __post_init__(self) -> None:
        """Refuse what no flag type can: settings that would fail only after the last trial."""
        if self.tracking_uri and not re.match(r"(sqlite:///|https?://|(postgresql|mysql)[\w+]*://)", self.tracking_uri):
            raise UsageError(
                f"--tracking-uri {self.tracking_uri!r} is no tracking store; give http://HOST:PORT of an MLflow "
                "server, or sqlite:///FILE"
            )
        if self.register is not None and not is_model_name(self.register):
            raise UsageError(f"--register {self.register!r} is no model name; use letters, digits, dots and dashes")
        if self.timeout is not None and not math.isfinite(self.timeout):
            raise UsageError(f"--timeout {self.timeout} is no number of seconds; leave it out for no limit")
        if self.max_latency_ms is not None and not math.isfinite(self.max_latency_ms):
            raise UsageError(f"--max-latency-ms {self.max_latency_ms} is no number of ms; leave it out for no limit")

    @property
    def storage_url(self) -> str:
        """Optuna's database."""
        return self.storage or f"sqlite:///{(self.workspace / 'optuna.db').absolute()}"

    @property
    def mlflow_uri(self) -> str:
        """MLflow's store; a path without a scheme is a mistake that MLflow itself would take for a folder."""
        return self.tracking_uri or f"sqlite:///{(self.workspace / 'mlflow.db').absolute()}"

    @property
    def where(self) -> str:
        """The flags, with a space before each, that lead another command to the same stores; without passwords."""
        flags = {
            "--workspace": None if str(self.workspace) == "." else str(self.workspace),
            "--storage": self.storage and mask(self.storage),
            "--tracking-uri": self.tracking_uri and mask(self.tracking_uri),
        }
        return "".join(f" {flag} {shlex.quote(value)}" for flag, value in flags.items() if value)


def is_model_name(name: str) -> bool:
    """Whether a registered model may be called so."""
    return re.fullmatch(r"[\w. -]+", name) is not None


NAMES = tuple(spec.name for spec in fields(Config))
