"""Settings as options of a command. A flag overrides an environment variable, which overrides the TOML file."""

from __future__ import annotations

import difflib
import functools
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from objectives.files import write_atomic
from search.common.config import FILE, Config
from search.common.errors import UsageError
from search.common.passwords import bare, mask

if TYPE_CHECKING:
    from objectives.spec import ObjectiveSpec
    from search.commands.setup import SearchPlan
    from search.coordinator.progress import Display

SETTINGS = {field.name: field for field in fields(Config)}
REPEATABLE_SETTINGS = {name for name, field in SETTINGS.items() if isinstance(field.default, tuple)}
STORES = ("workspace", "storage", "tracking_uri")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
SPACE_KEY = "search.space"  # key of `ctx.meta` that holds the `[space]` table of the file
EARLIER_RUNS = (
    "{} belongs to runs of an earlier MLflow. Beside them, a bare `mlflow ui` or load_model ignores mlflow.db: set "
    "MLFLOW_TRACKING_URI=sqlite:///mlflow.db, or move the numbered folders out of mlruns"
)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class DefaultRunGroup(click.Group):
    """A group of commands with the default command `run`, whose flags its help shows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in (*ctx.help_option_names, "--version")):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # click would exit with status 1
            raise SystemExit(130) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        run_command = self.commands["run"]
        with click.Context(run_command, info_name="run", parent=ctx) as run_ctx:
            records = [record for p in run_command.get_params(run_ctx) if (record := p.get_help_record(run_ctx))]
        with formatter.section("Options of run"):
            formatter.write_dl(records)


class Setting(click.Option):
    """An option whose errors name the environment variable if the value came from there."""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        if ctx is not None and ctx.get_parameter_source(self.name or "") == ParameterSource.ENVIRONMENT:
            return f"{self.envvar} in the environment"
        return super().get_error_hint(ctx)


def option(name: str) -> Decorator:
    """Make the flag of one field of `Config`."""
    default, meta = SETTINGS[name].default, SETTINGS[name].metadata
    is_flag = meta["type"] is bool
    return click.option(
        f"--{name.replace('_', '-')}",
        name,
        cls=Setting,
        default=default,
        type=meta["type"],
        is_flag=is_flag,
        multiple=name in REPEATABLE_SETTINGS,
        metavar=meta["metavar"],
        envvar=f"SEARCH_{name.upper()}",
        show_default=meta["unset"] or not (is_flag or name in REPEATABLE_SETTINGS),
        help=meta["help"],
        callback=_add_to_space if name == "fix" else None,
    )


def options(*names: str) -> Decorator:
    """Add the flags of these settings, or of all, and `--config`. The command gets their values as one `config`."""
    names = names or tuple(SETTINGS)

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_config(**values: Any) -> Any:
            config = Config(**{name: values.pop(name) for name in names})
            return command(config=config, **values)

        decorated: Callable[..., Any] = config_option(with_config)
        for name in reversed(names):
            decorated = option(name)(decorated)
        return decorated

    return add


def read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Read defaults from a TOML file. Raises UsageError for an invalid file."""
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors on Windows begin it with a mark
    except OSError as error:
        raise UsageError(f"--config {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"--config {path} is not TOML: it is not UTF-8 ({error.reason}); save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--config {path} is not TOML: {error}") from None
    table = values.pop("space", {})
    if not isinstance(table, dict):
        advice = "make it a table: [space], and below it batch_size = 128"
        raise UsageError(f"--config {path}: space is {table!r}; {advice}")
    ctx.meta[SPACE_KEY] = read_table(table)
    defaults = {name.replace("-", "_"): value for name, value in values.items()}
    for name, value in defaults.items():
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, [*SETTINGS, "space"], 1)
            hint = f"; did you mean {near[0]}?" if near else f". Known: {', '.join(SETTINGS)}"
            raise UsageError(f"--config {path} has an unknown setting {name!r}{hint}")
        if problem := _check(name, value):
            raise UsageError(f"--config {path}: {name} = {json.dumps(value, default=str)}{problem}")
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _check(name: str, value: Any) -> str | None:
    """Return what is wrong with the type of a value. click's own error would not name the file."""
    if isinstance(value, dict) or (isinstance(value, list) and name not in REPEATABLE_SETTINGS):
        return f"; give one value, for instance {name} = 1"
    if name in REPEATABLE_SETTINGS and not isinstance(value, list):
        return f"; make it a list: {name} = [...]"
    type_ = click.types.convert_type(SETTINGS[name].metadata["type"])
    for item in value if isinstance(value, list) else [value]:
        if isinstance(type_, click.types.BoolParamType) and not isinstance(item, bool):
            return "; give true or false"
        if isinstance(item, bool) and not isinstance(type_, click.types.BoolParamType):
            return "; true and false are for settings that are on or off"
        if isinstance(item, float) and isinstance(type_, click.types.IntParamType):
            return "; give a whole number"
        try:
            type_(item)
        except click.BadParameter as error:
            return f": {error.message}"
    return None


config_option: Decorator = click.option(
    "--config",
    type=FILE,
    cls=Setting,
    envvar="SEARCH_CONFIG",
    metavar="FILE.toml",
    is_eager=True,
    expose_value=False,
    callback=read_config,
    help="File of settings such as trials = 50. Flags and environment variables override it.",
)


def from_environment(ctx: click.Context) -> set[str]:
    """The names of the settings whose values come from environment variables."""
    return {name for name in SETTINGS if ctx.get_parameter_source(name) == ParameterSource.ENVIRONMENT}


def input_warnings(ctx: click.Context) -> Iterator[str]:
    """Warn about misspelt environment variables, escapes in addresses of files, and passwords typed in flags."""
    variables = [f"SEARCH_{name.upper()}" for name in (*SETTINGS, "config")]
    for name in sorted(set(os.environ) - set(variables)):
        if name.startswith("SEARCH_") and (near := difflib.get_close_matches(name, variables, 1, 0.85)):
            yield f"{name} in the environment is not a setting; did you mean {near[0]}?"
    for name in ("storage", "tracking_uri"):
        value = ctx.params.get(name) or ""
        if value.startswith("sqlite") and "%" in value:
            from search.common.sqlite import sqlite_file

            meaning = f"means the file {sqlite_file(value)}: in an address, %25 is a percent sign"
            yield f"--{name.replace('_', '-')} {value} {meaning}"
        if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE and mask(value) != value:
            yield (
                f"other users of this machine can see the password in --{name.replace('_', '-')} (with ps); put the "
                f"address into SEARCH_{name.upper()}, or the password into ~/.pgpass, ~/.mlflow/credentials or "
                "MLFLOW_TRACKING_PASSWORD"
            )


def new_places(config: Config) -> Iterator[str]:
    """Name the folders and databases that a search will make: a mistyped one shows here, not as a lost study."""
    for flag, folder in (("--workspace", config.workspace), ("--data-dir", config.data_dir)):
        if folder is not None and not folder.exists():
            yield f"{flag} {folder} is a new folder"
    from search.common.sqlite import sqlite_file

    for flag, url in (("--storage", config.storage), ("--tracking-uri", config.tracking_uri)):
        if url and (path := sqlite_file(url)) is not None and not path.exists():
            yield f"{flag}: {path} is a new database" + ("" if path.parent.exists() else " in a new folder")


def unused_mlflow_variables(config: Config) -> Iterator[str]:
    """Warn about variables of MLflow that name another place for runs and models. A search has one store for both."""
    from search.tracking.store import redirecting_variables

    if names := redirecting_variables(config.mlflow_uri):
        place = bare(config.tracking_uri) if config.tracking_uri else "mlflow.db in the workspace"
        listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        text = f"a search does not use {listed}: its runs and models go to {place}"
        advice = '. To send them there, add --tracking-uri "$MLFLOW_TRACKING_URI"'
        yield text + (advice if "MLFLOW_TRACKING_URI" in names else "")


def plan_from(
    ctx: click.Context, config: Config, display: Display, *, given: ObjectiveSpec | None = None
) -> SearchPlan:
    """Plan the search that the command was asked for, and show the notices about what was typed.

    `given` is an objective that a Python program gave, which `config` names.
    """
    from search.commands.setup import plan_search

    for warning in (*input_warnings(ctx), *new_places(config), *unused_mlflow_variables(config)):
        display.notice(warning)
    plan = plan_search(config, display, ambient=from_environment(ctx), given=given)
    if config.tracking_uri is None and (earlier := plan.workspace.earlier_runs) is not None:
        display.notice(EARLIER_RUNS.format(earlier))
    return plan


def write_output(flag: str, path: Path, content: bytes) -> None:
    """Write the file that `flag` names, and say so if its folder is new. Raises UsageError if that fails."""
    if not path.parent.exists():
        click.echo(f"{flag}: {path.parent} is a new folder", err=True)
    try:
        write_atomic(path, content)
    except OSError as error:
        raise UsageError(f"{flag} {path} cannot be written: {error.strerror}") from None


def _add_to_space(ctx: click.Context, param: click.Parameter, fixed: tuple[str, ...]) -> tuple[str, ...]:
    """Put the file's values before those of the command line. For each parameter, the last value counts."""
    return (*ctx.meta.get(SPACE_KEY, ()), *fixed)


def read_table(table: Mapping[str, Any]) -> tuple[str, ...]:
    """Convert the `[space]` table to values of `--fix`."""
    return tuple(
        f"{name}={value if isinstance(value, str) else json.dumps(value, default=str)}" for name, value in table.items()
    )
