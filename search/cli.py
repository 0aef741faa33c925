"""The command line: flags, environment and file to `Config`; errors to messages and exit statuses.

Nothing heavy is imported before a command needs it, so `--help` answers at once.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from objectives.base import ObjectiveError
from search.config import DEFAULT_OBJECTIVE, NAMES, Config, Device
from search.errors import SearchError, UsageError
from search.failures import crashed, fail, storage_failure
from search.interruption import Interrupted, Interruption
from search.masking import mask
from search.options import misspelt, options, output_option

PROGRAM = "python -m search"
STORES = ("workspace", "storage", "tracking_uri")
SEEN = (
    "whoever lists the processes of this machine (ps) sees the password in {flag}; put the address into {variable}, "
    "or leave the password to ~/.pgpass, ~/.mlflow/credentials or MLFLOW_TRACKING_PASSWORD"
)


class Commands(click.Group):
    """A group in which no verb means `run`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the missing verb in."""
        if not args or (args[0].startswith("-") and args[0] not in (*ctx.help_option_names, "--version")):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """End as shells expect after Ctrl-C, which click would call a failure."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs, then the flags of `run`, which is what most people came for."""
        self.format_commands(ctx, formatter)
        run_command = self.commands["run"]
        with click.Context(run_command, info_name="run", parent=ctx) as run_ctx:
            records = [record for p in run_command.get_params(run_ctx) if (record := p.get_help_record(run_ctx))]
        with formatter.section("Options of run"):
            formatter.write_dl(records)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="search", message="%(package)s %(version)s")
def cli() -> None:
    """Search for the best image classifier that a given budget can buy, and keep everything it takes to trust it.

    Without a verb: run. Studies go to ./optuna.db, runs and models to ./mlflow.db and ./mlruns.
    """


@cli.command("run")
@options(*NAMES)
@click.pass_context
def run_command(ctx: click.Context, /, **values: Any) -> None:
    """Search, then test and register the winner. Run again, it finishes what is missing."""
    with Interruption():  # the imports alone take seconds, in which a signal is to end it as it does later
        _run(ctx, Config(**values))


def _run(ctx: click.Context, config: Config) -> None:
    from objectives.download import DatasetUnavailableError
    from search import terminal
    from search.opening import SearchPlan
    from search.run import run

    display = terminal.display(quiet=config.quiet, log_format=config.log_format)
    for text in misspelt():
        display.notice(text)
    for name in ("storage", "tracking_uri"):
        given = getattr(config, name) or ""
        if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE and mask(given) != given:
            display.notice(SEEN.format(flag=f"--{name.replace('_', '-')}", variable=f"SEARCH_{name.upper()}"))
    try:
        plan = SearchPlan.of(config)
    except DatasetUnavailableError as error:
        if ctx.get_parameter_source("dataset") != ParameterSource.DEFAULT or config.objective != DEFAULT_OBJECTIVE:
            raise  # somebody asked for it by name
        display.notice(f"MNIST is neither here nor downloadable, so this searches the built-in digits.\n({error})")
        plan = SearchPlan.of(replace(config, dataset="digits"))
    terminal.print_result(run(plan, display), plan.config)


@cli.command()
@click.option(
    "--study", metavar="NAME", multiple=True, help="Study to report; twice or more to compare.  [default: the newest]"
)
@output_option("mlruns/reports/STUDY.html")
@options(*STORES)
def report(study: Sequence[str], output: Path | None, **values: Any) -> None:
    """Write one self-contained HTML file about a study."""
    from search import terminal
    from search.browse import open_studies
    from search.report import write_report
    from search.workspace import Workspace

    config = Config(**values)
    chosen = open_studies(config, study)
    workspace = Workspace(config.workspace)
    picture = workspace.pictures(chosen[0].study_name)
    pictures = {"Predictions on the test split": picture.read_bytes()} if picture.exists() else {}
    target = output or workspace.report("-vs-".join(each.study_name for each in chosen))
    try:
        write_report(chosen[0], target, others=chosen[1:], pictures=pictures)
    except OSError as error:
        raise UsageError(f"--output {target} cannot be written: {error.strerror}") from None
    terminal.say(f"report: {target}")


@cli.command()
@click.option("--study", metavar="NAME", help="Study to open.  [default: the newest]")
@click.option("--open", "open_browser", is_flag=True, help="Open both pages in the browser.")
@options(*STORES)
def ui(study: str | None, open_browser: bool, **values: Any) -> None:
    """Start the MLflow UI and Optuna's dashboard on this machine; Ctrl-C ends both."""
    from search import terminal
    from search.browse import serve_study

    raise SystemExit(serve_study(Config(**values), study, terminal.say, open_browser=open_browser))


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@cli.command()
@as_json
@options(*STORES)
def studies(as_json: bool, **values: Any) -> None:
    """List all studies."""
    from search import terminal
    from search.browse import all_studies

    found = all_studies(Config(**values))
    if as_json:
        terminal.print_json([study.as_dict() for study in found])
    else:
        terminal.print_studies(found)


@cli.command()
@click.argument("study")
@as_json
@options(*STORES)
def show(study: str, as_json: bool, **values: Any) -> None:
    """Show one study: its winner and its trials."""
    from search import terminal
    from search.browse import read_study

    found = read_study(Config(**values), study)
    if as_json:
        terminal.print_json(found.as_dict())
    else:
        terminal.print_study(found)


@cli.command()
@click.argument("study", required=False)
@options(*STORES, "log_format")
def watch(study: str | None, **values: Any) -> None:
    """Follow a search, or the newest one, that runs in another terminal."""
    from search import terminal
    from search.browse import follow

    config = Config(**values)
    record = follow(config, study, terminal.display(log_format=config.log_format))
    if config.log_format == "text":
        terminal.print_summary(record)


@cli.command()
@click.argument("study")
@click.option("--format", "format_", type=click.Choice(("csv", "json", "parquet")), default="csv", show_default=True)
@output_option("standard output")
@options(*STORES)
def export(study: str, format_: str, output: Path | None, **values: Any) -> None:
    """Give every trial of a study as one row of a table, with its parameters and figures."""
    from search.browse import export_study, read_study
    from search.workspace import write_whole

    if output is None and format_ == "parquet" and sys.stdout.isatty():
        raise UsageError(f"parquet is not for a terminal; type --output {study}.parquet")
    content = export_study(read_study(Config(**values), study), format_)
    if output is None:
        sys.stdout.buffer.write(content)
        return
    try:
        write_whole(output, content)
    except OSError as error:
        raise UsageError(f"--output {output} cannot be written: {error.strerror}") from None


@cli.command()
@click.argument("image", nargs=-1, required=True)
@click.option("--model", help="mnist, mnist/3 or mnist@challenger.  [default: the newest champion]")
@click.option(
    "--show",
    "picture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.png",
    help="Draw the pictures with their predictions.",
)
@options(*STORES, "data_dir")
def predict(image: Sequence[str], model: str | None, picture: Path | None, **values: Any) -> None:
    """Classify pictures: files, or test pictures of a dataset by names such as mnist:7 and mnist:0-24."""
    from search import terminal
    from search.predict import predict as classify
    from search.registry import load, require_store
    from search.workspace import write_whole

    config = Config(**values)
    require_store(config)
    loaded = load(config.mlflow_uri, model)
    predictions, drawing = classify(loaded, image, config.data_dir)
    terminal.print_predictions(loaded.words, predictions)
    if picture is not None and drawing is not None:
        try:
            write_whole(picture, drawing)
        except OSError as error:
            raise UsageError(f"--show {picture} cannot be written: {error.strerror}") from None
        terminal.say(f"picture: {picture}")
    if any(prediction.error for prediction in predictions):
        raise SystemExit(1)


@cli.command()
@options(*STORES)
def sync(**values: Any) -> None:
    """Deliver to MLflow what was written while it could not be reached."""
    from search import terminal
    from search.repair import sync as deliver

    undelivered = 0
    for study, arrived, left, trouble in deliver(Config(**values)):
        terminal.say(f"{study}: {arrived} writes delivered, {left} left" + (f" ({trouble})" if trouble else ""))
        undelivered += left
    raise SystemExit(1 if undelivered else 0)


@cli.command()
@click.argument("target", required=False, metavar="[STUDY|VERSION]")
@click.option("--rollback", is_flag=True, help="Give the alias back to the champion before; name a model, not a study.")
@options(*STORES, "register")
def promote(target: str | None, rollback: bool, **values: Any) -> None:
    """Make a version (`mnist/3`), or the winner of STUDY, the champion by hand.

    A winner that its search could not register is scored and registered first, and then is champion if it is better.
    """
    from search import repair, terminal
    from search.promotion import CHAMPION
    from search.registry import require_store

    config = Config(**values)
    if rollback or "/" in (target or ""):
        require_store(config)
    if rollback:
        name, before, now = repair.take_back(config, target)
        terminal.say(f"champion of {name}: version {now} again, no longer version {before}")
        return
    if target is None:
        raise UsageError(f"promote what? Type {PROGRAM} promote STUDY, promote NAME/VERSION, or promote --rollback")
    if (chosen := repair.promote_version(config, target)) is not None:
        terminal.say(f"champion of {chosen[0]}: version {chosen[1]}")
        return
    record = repair.promote(config, target)
    terminal.print_summary(record)
    model = record.summary.model if record.summary else None
    if model is not None and model["alias"] == CHAMPION:
        terminal.say(f"champion of {model['name']}: version {model['version']}")
    raise SystemExit(0 if model is not None else 1)


@cli.command("check-objective")
@click.argument("target", metavar="MODULE:ATTR")
@click.option("--device", default="cpu", show_default=True, type=Device(), help="Where its trainings are tried.")
def check_objective(target: str, device: str) -> None:
    """Try an objective of your own for a few seconds, and say what is wrong with it."""
    from objectives.trainer import resolve_device
    from search import terminal
    from search.contract import examine
    from search.specimen import Specimen
    from search.storage import quiet_optuna

    quiet_optuna()
    specimen = Specimen.of(target, resolve_device(device, 0))
    raise SystemExit(terminal.print_findings(target, examine(specimen)))


def main() -> NoReturn:
    """Run the command, and end the process.

    Python would take every module apart at the end: seconds, once torch and MLflow are loaded, that nobody needs.
    """
    # A thread that spins while it waits for another keeps that one off a busy core: with one of two cores busy, what
    # takes 9.6 s with threads that sleep took 38. Trainers inherit it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.excepthook = crashed
    try:
        answer()
    except SystemExit as end:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))


def answer() -> NoReturn:
    """Do what was typed; a mistake of a person ends in one message, never in a traceback. Raises SystemExit."""
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")
    try:
        cli.main(prog_name=PROGRAM, standalone_mode=True)
    except SearchError as error:
        fail(str(error), error.exit_status)
    except ObjectiveError as error:
        fail(str(error), 1)
    except Interrupted as interrupted:
        click.echo("Stopped. Nothing is lost: the same command, typed again, goes on from here", err=True)
        raise SystemExit(128 + interrupted.number) from None
    except Exception as error:
        if (message := storage_failure(error)) is None:
            raise
        fail(message, 1)
    raise SystemExit(0)
