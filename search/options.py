"""Settings as options of a command: each from its flag, the environment or a TOML file, the nearer source first."""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from search.config import NAMES, Config
from search.errors import UsageError

TABLE = "search.space"
"""Where the file's `[space]` table waits for the flags."""

SPECS = {spec.name: spec for spec in fields(Config)}
REPEATABLE = {name for name, spec in SPECS.items() if isinstance(spec.default, tuple)}


def option(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The flag of one field of `Config`."""
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
        callback=_behind_the_table if name == "fix" else None,
    )


def options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Several flags, in this order, and `--config` behind them."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        command = config_option(command)
        for name in reversed(names):
            command = option(name)(command)
        return command

    return add


def output_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The flag that names a file to write; `default` is where it goes otherwise, in words."""
    return click.option(
        "--output",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help=f"Where to.  [default: {default}]",
    )


def read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Take defaults from a TOML file. Raises UsageError for what cannot be a setting."""
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
    """Refuse a value of the wrong type here, where the file that holds it can be named. Raises UsageError."""
    given = f"--config {path}: {name} = {json.dumps(value, default=str)}"
    if isinstance(value, dict) or (isinstance(value, list) and name not in REPEATABLE):
        raise UsageError(f"{given}; give one value, for instance {name} = 1")
    if name in REPEATABLE and not isinstance(value, list):
        raise UsageError(f"{given}; make it a list: {name} = [...]")
    type_ = SPECS[name].metadata["type"]
    try:
        for each in value if isinstance(value, list) else [value]:
            _check_kind(given, type_, each)
            click.types.convert_type(type_)(each)
    except click.BadParameter as error:
        raise UsageError(f"{given}: {error.message}") from None


def _check_kind(given: str, type_: Any, value: Any) -> None:
    """Refuse what click would quietly make something else of. Raises UsageError."""
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
    """What to say of variables that look like settings and are none; others may be anybody's."""
    known = [f"SEARCH_{name.upper()}" for name in (*NAMES, "config")]
    found = []
    for name in sorted(set(os.environ) - set(known)):
        if name.startswith("SEARCH_") and (near := difflib.get_close_matches(name, known, 1, 0.85)):
            found.append(f"{name} in the environment is no setting; did you mean {near[0]}?")
    return found


def _behind_the_table(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """What the file fixes, then what the command does: of one parameter the last counts."""
    return (*ctx.meta.get(TABLE, ()), *given)


def read_table(table: Mapping[str, Any]) -> tuple[str, ...]:
    """A `[space]` table as values of `--fix`."""
    return tuple(
        f"{name}={value if isinstance(value, str) else json.dumps(value, default=str)}" for name, value in table.items()
    )
