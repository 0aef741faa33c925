"""The command line: one function per command.

Heavy modules are imported inside the commands, so that `--help` answers quickly.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource

from objectives.files import write_atomic
from search.cli.exits import end_process, print_traceback, run_and_exit
from search.cli.options import DefaultRunGroup, misspelt, options, output_option, visible_passwords, writing
from search.common.config import DEFAULT_OBJECTIVE, NAMES, Config, Device
from search.common.errors import UsageError
from search.common.signals import Interruption

if TYPE_CHECKING:
    from search.commands.setup import SearchPlan
    from search.coordinator.progress import Display

PROGRAM = "python -m search"
STORES = ("workspace", "storage", "tracking_uri")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@click.group(cls=DefaultRunGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="search", message="%(package)s %(version)s")
def cli() -> None:
    """Search for the best image classifier within a budget, and record every trial.

    The default command is run. Studies are stored in ./optuna.db, runs and models in ./mlflow.db and ./mlruns.
    """


@cli.command("run")
@options(*NAMES)
@click.pass_context
def run_command(ctx: click.Context, /, **values: Any) -> None:
    """Run a search, then test and register the winner. The same command resumes an interrupted search."""
    with Interruption():  # also during the imports, which take seconds
        _run(ctx, Config(**values))


def _run(ctx: click.Context, config: Config) -> None:
    from search.cli.output import choose_display, print_result
    from search.commands.run import run

    display = choose_display(quiet=config.quiet, log_format=config.log_format)
    for text in (*misspelt(), *visible_passwords(ctx)):
        display.notice(text)
    dataset_by_name = ctx.get_parameter_source("dataset") != ParameterSource.DEFAULT
    plan = _plan(config, display, dataset_by_name=dataset_by_name)
    print_result(run(plan, display), plan.config)


def _plan(config: Config, display: Display, *, dataset_by_name: bool) -> SearchPlan:
    """Plan a search; if the default dataset is unavailable, of the built-in digits."""
    from objectives.base import DatasetUnavailableError
    from search.commands.setup import SearchPlan

    try:
        return SearchPlan.of(config)
    except DatasetUnavailableError as error:
        if dataset_by_name or config.objective != DEFAULT_OBJECTIVE:
            raise
        display.notice(f"MNIST is neither here nor downloadable, so this searches the built-in digits.\n({error})")
    return SearchPlan.of(replace(config, dataset="digits"))


@cli.command()
@click.option(
    "--study", metavar="NAME", multiple=True, help="Study to report; repeat to compare.  [default: the newest]"
)
@output_option("mlruns/reports/STUDY.html")
@options(*STORES)
def report(study: Sequence[str], output: Path | None, **values: Any) -> None:
    """Write a self-contained HTML report about a study."""
    from search.cli.output import say
    from search.commands.studies import open_studies
    from search.common.workspace import Workspace
    from search.reports.page import write_report

    config = Config(**values)
    chosen = open_studies(config, study)
    workspace = Workspace(config.workspace)
    drawing = workspace.pictures(chosen[0].study_name)
    images = {"Predictions on the test split": drawing.read_bytes()} if drawing.exists() else {}
    target = output or workspace.report("-vs-".join(study.study_name for study in chosen))
    with writing("--output", target):
        write_report(chosen[0], target, others=chosen[1:], pictures=images)
    say(f"report: {target}")


@cli.command()
@click.option("--study", metavar="NAME", help="Study to open.  [default: the newest]")
@click.option("--open", "open_browser", is_flag=True, help="Open both pages in the browser.")
@options(*STORES)
def ui(study: str | None, open_browser: bool, **values: Any) -> None:
    """Serve the MLflow UI and Optuna's dashboard.

    Both listen on this machine only and end with Ctrl-C.
    """
    from search.cli.dashboards import serve_study
    from search.cli.output import say

    raise SystemExit(serve_study(Config(**values), study, say, open_browser=open_browser))


@cli.command()
@AS_JSON
@options(*STORES)
def studies(as_json: bool, **values: Any) -> None:
    """List all studies."""
    from search.cli.output import print_json, print_studies
    from search.commands.studies import all_studies

    records = all_studies(Config(**values))
    if as_json:
        print_json([record.as_dict() for record in records])
    else:
        print_studies(records)


@cli.command()
@click.argument("study")
@AS_JSON
@options(*STORES)
def show(study: str, as_json: bool, **values: Any) -> None:
    """Show the winner and the trials of a study."""
    from search.cli.output import print_json, print_study
    from search.commands.studies import read_study

    record = read_study(Config(**values), study)
    if as_json:
        print_json(record.as_dict())
    else:
        print_study(record)


@cli.command()
@click.argument("study", required=False)
@options(*STORES, "log_format")
def watch(study: str | None, **values: Any) -> None:
    """Follow a search that runs in another terminal.

    By default the newest one.
    """
    from search.cli.output import choose_display, print_summary
    from search.commands.studies import follow

    config = Config(**values)
    record = follow(config, study, choose_display(log_format=config.log_format))
    if config.log_format == "text":
        print_summary(record)


@cli.command()
@click.argument("study")
@click.option("--format", "format_", type=click.Choice(("csv", "json", "parquet")), default="csv", show_default=True)
@output_option("standard output")
@options(*STORES)
def export(study: str, format_: str, output: Path | None, **values: Any) -> None:
    """Export the trials of a study as a table."""
    from search.commands.studies import read_study
    from search.reports.export import export_study

    if output is None and format_ == "parquet" and sys.stdout.isatty():
        raise UsageError(f"a terminal cannot show parquet; type --output {study}.parquet")
    content = export_study(read_study(Config(**values), study), format_)
    if output is None:
        sys.stdout.buffer.write(content)
        return
    with writing("--output", output):
        write_atomic(output, content)


@cli.command()
@click.argument("image", nargs=-1, required=True)
@click.option("--model", help="mnist, mnist/3 or mnist@challenger.  [default: the newest champion]")
@click.option(
    "--show",
    "picture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.png",
    help="Draw the images with their predictions.",
)
@options(*STORES, "data_dir")
def predict(image: Sequence[str], model: str | None, picture: Path | None, **values: Any) -> None:
    """Classify images with a registered model.

    Give files, or test images of a dataset as mnist:7 or mnist:0-24.
    """
    from search.cli.output import print_predictions, say
    from search.commands.load import load
    from search.commands.predict import draw, require_readable
    from search.commands.predict import predict as classify
    from search.tracking.registry.loading import require_store

    config = Config(**values)
    require_store(config)
    require_readable(image)
    predictor = load(model, workspace=config.workspace, tracking_uri=config.tracking_uri)
    predictions = classify(predictor, image, config.data_dir)
    print_predictions(str(predictor), predictions)
    if picture is not None and (drawing := draw(predictions, predictor.classes)) is not None:
        with writing("--show", picture):
            write_atomic(picture, drawing)
        say(f"picture: {picture}")
    if any(prediction.error for prediction in predictions):
        raise SystemExit(1)


@cli.command()
@options(*STORES)
def sync(**values: Any) -> None:
    """Deliver pending writes to MLflow.

    A search leaves them in its journal when MLflow was unreachable.
    """
    from search.cli.output import say
    from search.commands.promote import sync as deliver

    undelivered = 0
    for study, arrived, left, trouble in deliver(Config(**values)):
        say(f"{study}: {arrived} writes delivered, {left} left" + (f" ({trouble})" if trouble else ""))
        undelivered += left
    raise SystemExit(1 if undelivered else 0)


@cli.command()
@click.argument("target", required=False, metavar="[STUDY|VERSION]")
@click.option("--rollback", is_flag=True, help="Restore the previous champion; name a model, not a study.")
@options(*STORES, "register")
def promote(target: str | None, rollback: bool, **values: Any) -> None:
    """Make a version or a winner the champion.

    Give a version as mnist/3, or a study for its winner. A winner that is not registered yet is scored and registered;
    it becomes champion only if it is better.
    """
    from search.cli.output import print_summary, say
    from search.commands.promote import promote_version, register_winner, restore_previous_champion
    from search.tracking.registry.loading import require_store
    from search.tracking.registry.promotion import CHAMPION

    config = Config(**values)
    if rollback or "/" in (target or ""):
        require_store(config)
    if rollback:
        name, before, now = restore_previous_champion(config, target)
        say(f"champion of {name}: version {now} again, no longer version {before}")
        return
    if target is None:
        raise UsageError(f"promote what? Type {PROGRAM} promote STUDY, promote NAME/VERSION, or promote --rollback")
    if (chosen := promote_version(config, target)) is not None:
        say(f"champion of {chosen[0]}: version {chosen[1]}")
        return
    record = register_winner(config, target)
    print_summary(record)
    model = record.summary.model if record.summary else None
    if model is not None and model["alias"] == CHAMPION:
        say(f"champion of {model['name']}: version {model['version']}")
    raise SystemExit(0 if model is not None else 1)


@cli.command("check-objective")
@click.argument("target", metavar="MODULE:ATTR")
@click.option("--device", default="cpu", show_default=True, type=Device(), help="Device for the trial trainings.")
def check_objective(target: str, device: str) -> None:
    """Check an objective of your own; takes a few seconds."""
    from objectives.devices import resolve_device
    from search.cli.output import print_findings
    from search.study.storage.storage import quiet_optuna
    from search.testing.checks import examine
    from search.testing.specimen import Specimen

    quiet_optuna()
    specimen = Specimen.of(target, resolve_device(device, 0))
    raise SystemExit(print_findings(target, examine(specimen)))


def main() -> NoReturn:
    """Run the command and end the process."""
    # A thread that spins while it waits keeps other threads off a busy core: with one of two cores busy, work of 9.6 s
    # took 38 s. Workers inherit the variable.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.excepthook = print_traceback
    try:
        answer()
    except SystemExit as end:
        end_process(end.code)


def answer() -> NoReturn:
    """Run the command line and raise SystemExit."""
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")
    run_and_exit(lambda: cli.main(prog_name=PROGRAM, standalone_mode=True))
