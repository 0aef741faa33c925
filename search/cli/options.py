"""Settings as options of a command. A flag beats an environment variable, which beats the TOML file."""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from search.common.config import NAMES, Config
from search.common.errors import UsageError
from search.common.passwords import mask

TABLE = "search.space"
"""Key of `ctx.meta` that holds the `[space]` table of the file."""

SPECS = {spec.name: spec for spec in fields(Config)}
REPEATABLE = {name for name, spec in SPECS.items() if isinstance(spec.default, tuple)}


class DefaultRunGroup(click.Group):
    """A group of commands whose default command is `run`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `run` where no command is given."""
        if not args or (args[0].startswith("-") and args[0] not in (*ctx.help_option_names, "--version")):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Exit with status 130 after Ctrl-C, for which click uses 1."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, then the flags of `run`."""
        self.format_commands(ctx, formatter)
        run_command = self.commands["run"]
        with click.Context(run_command, info_name="run", parent=ctx) as run_ctx:
            records = [record for p in run_command.get_params(run_ctx) if (record := p.get_help_record(run_ctx))]
        with formatter.section("Options of run"):
            formatter.write_dl(records)


def option(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make the flag of one field of `Config`."""
    default, meta = SPECS[name].default, SPECS[name].metadata
    return click.option(
        f"--{name.replace('_', '-')}",
        name,
        default=default,
        type=None if meta["type"] is bool else meta["type"],
        is_flag=meta["type"] is bool,
        multiple=name in REPEATABLE,
        metavar=meta["metavar"],
        envvar=f"SEARCH_{name.upper()}",
        show_default=default is not None and meta["type"] is not bool and name not in REPEATABLE,
        help=meta["help"],
        callback=_add_to_table if name == "fix" else None,
    )


def options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add several flags in this order, then `--config`."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        command = config_option(command)
        for name in reversed(names):
            command = option(name)(command)
        return command

    return add


def output_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make the flag `--output`; `default` describes where the output goes without it."""
    return click.option(
        "--output",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help=f"Output file.  [default: {default}]",
    )


def read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Read defaults from a TOML file. Raises UsageError for an invalid file."""
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not TOML: {error}") from None
    table = values.pop("space", {})
    if not isinstance(table, dict):
        raise UsageError(
            f"--config {path}: space is {table!r}; make it a table: [space], and below it batch_size = 128"
        )
    ctx.meta[TABLE] = read_table(table)
    known = {name.replace("-", "_"): value for name, value in values.items()}
    for name in known:
        if name not in NAMES:
            near = difflib.get_close_matches(name, [*NAMES, "space"], 1)
            hint = f"; did you mean {near[0]}?" if near else f". Known: {', '.join(NAMES)}"
            raise UsageError(f"--config {path} has an unknown setting {name!r}{hint}")
        _check(path, name, known[name])
    ctx.default_map = {**(ctx.default_map or {}), **known}


def _check(path: Path, name: str, value: Any) -> None:
    """Check the type of a value here, where the error can name the file. Raises UsageError."""
    given = f"--config {path}: {name} = {json.dumps(value, default=str)}"
    if isinstance(value, dict) or (isinstance(value, list) and name not in REPEATABLE):
        raise UsageError(f"{given}; give one value, for instance {name} = 1")
    if name in REPEATABLE and not isinstance(value, list):
        raise UsageError(f"{given}; make it a list: {name} = [...]")
    type_ = SPECS[name].metadata["type"]
    try:
        for item in value if isinstance(value, list) else [value]:
            _check_kind(given, type_, item)
            click.types.convert_type(type_)(item)
    except click.BadParameter as error:
        raise UsageError(f"{given}: {error.message}") from None


def _check_kind(given: str, type_: Any, value: Any) -> None:
    """Reject a value that click would convert silently. Raises UsageError."""
    if type_ is bool or isinstance(type_, click.types.BoolParamType):
        if not isinstance(value, bool):
            raise UsageError(f"{given}; give true or false")
    elif isinstance(value, bool):
        raise UsageError(f"{given}; true and false are for settings that are on or off")
    elif isinstance(click.types.convert_type(type_), click.types.IntParamType) and isinstance(value, float):
        raise UsageError(f"{given}; give a whole number")


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="SEARCH_CONFIG",
    metavar="FILE.toml",
    is_eager=True,
    expose_value=False,
    callback=read_config,
    help="Settings as `trials = 50`; a flag or SEARCH_TRIALS=50 beats the file.",
)


def misspelt() -> list[str]:
    """Return a message for each environment variable that looks like a misspelt setting."""
    known = [f"SEARCH_{name.upper()}" for name in (*NAMES, "config")]
    messages = []
    for name in sorted(set(os.environ) - set(known)):
        if name.startswith("SEARCH_") and (near := difflib.get_close_matches(name, known, 1, 0.85)):
            messages.append(f"{name} in the environment is not a setting; did you mean {near[0]}?")
    return messages


def visible_passwords(ctx: click.Context) -> list[str]:
    """Return a message for each flag that was typed with a password."""
    messages = []
    for name in ("storage", "tracking_uri"):
        given = ctx.params.get(name) or ""
        if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE and mask(given) != given:
            messages.append(
                f"other users of this machine can see the password in --{name.replace('_', '-')} (with ps); put the "
                f"address into SEARCH_{name.upper()}, or the password into ~/.pgpass, ~/.mlflow/credentials or "
                "MLFLOW_TRACKING_PASSWORD"
            )
    return messages


@contextmanager
def writing(flag: str, path: Path) -> Iterator[None]:
    """Raise UsageError when `path`, which `flag` names, cannot be written in the block."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{flag} {path} cannot be written: {error.strerror}") from None


def _add_to_table(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Put the values of the file before those of the command line; the last value of a parameter counts."""
    return (*ctx.meta.get(TABLE, ()), *given)


def read_table(table: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the `[space]` table as values of `--fix`."""
    return tuple(
        f"{name}={value if isinstance(value, str) else json.dumps(value, default=str)}" for name, value in table.items()
    )
