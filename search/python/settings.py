"""The settings of `search.run`: those of the command, by name and type, and how their values become its flags."""

import difflib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, get_type_hints

import click
from click.core import ParameterSource

from objectives.failures import describe_value
from search.cli.main import run_command
from search.cli.options import REPEATABLE_SETTINGS, SETTINGS
from search.common.errors import UsageError

NAMES = (*(name for name in SETTINGS if name != "objective"), "config")
HELP = {
    "fix": "Fix or narrow parameters, as in {'adam_lr': [1e-3, 1e-2], 'batch_size': 128}.",
    "quiet": "Show nothing.",
    "config": "File of settings such as trials = 50.",
}
"""Help texts that differ from those of the command."""


class Settings(TypedDict, total=False):
    """The keyword arguments of `search.run`. None means the default, as for a flag that is left out."""

    trials: int | None
    dataset: str | Path | None
    image_size: int | None
    metric: Literal["accuracy", "balanced_accuracy", "macro_f1", "log_loss"] | None
    study: str | None
    epochs: int | None
    jobs: int | None
    device: str | None
    seed: int | None
    sampler: Literal["tpe", "random", "gp", "cmaes", "qmc"] | None
    pruner: Literal["hyperband", "median", "halving", "none"] | None
    confirm: int | None
    confirm_seeds: int | None
    no_refit: bool | None
    ensemble: int | None
    max_parameters: int | None
    max_latency_ms: float | None
    fix: Mapping[str, Any] | Sequence[str] | None
    warm_start: str | None
    patience: int | None
    target: float | None
    timeout: float | None
    direction: Literal["maximize", "minimize"] | None
    engine: Literal["local", "inline", "ray"] | None
    address: str | None
    cpus_per_trial: float | None
    gpus_per_trial: float | None
    workspace: str | Path | None
    data_dir: str | Path | None
    storage: str | None
    storage_wait: float | None
    tracking_uri: str | None
    register: str | None
    no_register: bool | None
    keep: str | None
    checkpoint_interval: float | None
    quiet: bool | None
    log_format: Literal["text", "json"] | None
    config: str | Path | None


def parse(settings: Mapping[str, Any], objective: str | None) -> click.Context:
    """Read the settings as the command reads its flags, with the same types, environment variables and file.

    Raises UsageError for what the user can correct.
    """
    for name in settings:
        if name not in NAMES:
            near = difflib.get_close_matches(name.replace("-", "_"), NAMES, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(NAMES)}"
            raise UsageError(f"search.run has no setting {name!r}; {hint}")
    given = {name: value for name, value in settings.items() if value is not None}
    if objective is not None:
        given["objective"] = objective
    words = [word for name, value in given.items() for word in _words(name, value)]
    try:
        ctx = run_command.make_context("run", words)
    except click.UsageError as error:
        raise UsageError(error.format_message()) from None
    for name, value in given.items():
        if value is False:  # no flag turns off what a variable or a file has turned on
            ctx.params[name] = False
        ctx.set_parameter_source(name, ParameterSource.DEFAULT)  # nobody sees a password that is not typed
    return ctx


def signature(objective: Any) -> inspect.Signature:
    """The signature of `search.run` with every setting and its default, as editors and `help` show it.

    `objective` is the annotation of the first parameter.
    """
    types = get_type_hints(Settings)
    defaults = {name: SETTINGS[name].default if name in SETTINGS else None for name in NAMES}
    first = inspect.Parameter("objective", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=objective)
    others = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=types[name])
        for name in NAMES
    ]
    return inspect.Signature([first, *others], return_annotation="Result")


def described() -> str:
    """One line for each setting: its name, meaning and default."""
    lines = []
    for name, setting in SETTINGS.items():
        if name != "objective":
            default = setting.metadata["unset"] or setting.default
            shown = "" if default in (None, ()) else f" (default: {default})"
            lines.append(f"    {name}: {HELP.get(name, setting.metadata['help'])}{shown}")
    return "\n".join([*lines, f"    config: {HELP['config']}"])


def call_text(target: str, settings: Mapping[str, Any]) -> str:
    """The call as a user writes it, for the study's provenance."""
    given = [f"{name}={value!r}" for name, value in settings.items() if value is not None]
    return f"search.run({', '.join([target, *given])})"


def _words(name: str, value: Any) -> Iterator[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool) and (name == "config" or SETTINGS[name].metadata["type"] is bool):
        yield from [flag] if value else []
    elif name not in REPEATABLE_SETTINGS:
        yield f"{flag}={value}"
    elif isinstance(value, Mapping):
        yield from (f"{flag}={key}={_parameter(key, item)}" for key, item in value.items())
    elif isinstance(value, str | list | tuple):
        yield from (f"{flag}={item}" for item in ([value] if isinstance(value, str) else value))
    else:
        raise UsageError(f"{name}={describe_value(value)}; give a dict such as {name}={{'batch_size': 128}}")


def _parameter(name: object, value: Any) -> str:
    """A value of `fix`, as in `[0.001, 0.01]`. Numbers and arrays of numpy are numbers and lists."""
    if isinstance(value, str):
        return value
    plain = _without_numpy(value)
    items = [_without_numpy(item) for item in plain] if isinstance(plain, list | tuple) else [plain]
    if not all(isinstance(item, bool | int | float | str) for item in items):
        allowed = "a number, a text, True or False, or a list of them such as [1e-3, 1e-2]"
        raise UsageError(f"fix: {name!r} is {describe_value(value)}; give {allowed}")
    return json.dumps(items if isinstance(plain, list | tuple) else plain)


def _without_numpy(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value
