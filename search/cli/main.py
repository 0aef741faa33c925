"""The command line: one function per command.

Heavy modules are imported inside the commands, so that `--help` answers quickly.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import click
from click.core import ParameterSource

from search.cli.exits import end_process, print_traceback, run_and_exit
from search.cli.options import (
    STORES,
    DefaultRunGroup,
    from_environment,
    json_option,
    options,
    plan_from,
    write_output,
)
from search.cli.start import put_current_folder_last, tame_warnings, use_utf8
from search.cli.terminal import importing, keep_going_without_output, prepare_streams
from search.common.config import FILE, Config, Device
from search.common.errors import UsageError
from search.common.signals import Interruption
from search.common.system import thread_waiting
from search.common.text import printable

PROGRAM = "python -m search"
FORMATS = ("csv", "json", "parquet")


@click.group(cls=DefaultRunGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="search", message="%(package)s %(version)s")
def cli() -> None:
    """Find the best image classifier within a budget, and record every trial.

    The default command is run. Studies are stored in ./optuna.db, runs and models in ./mlflow.db and ./mlruns.
    """


@cli.command("run")
@options()
@click.pass_context
def run_command(ctx: click.Context, config: Config) -> None:
    """Run a search, test its winner once, and register it.

    After an interruption, type the same command to resume.
    """
    keep_going_without_output()
    is_silent = config.quiet or config.log_format == "json"
    with Interruption() as interruption:  # also during the imports, which take seconds
        with importing("the search starts: it imports its libraries and reads its data", silent=is_silent):
            from search.cli.output import choose_display, print_result
            from search.commands.run import run

        interruption.check()
        display = choose_display(quiet=config.quiet, log_format=config.log_format)
        plan = plan_from(ctx, config, display)
        interruption.check()
        print_result(run(plan, display), plan.config)


@cli.command()
@click.option("--study", metavar="NAME", multiple=True, show_default="the newest", help="Study to report. Repeatable.")
@click.option("--output", type=FILE, metavar="FILE", show_default="mlruns/reports/STUDY.html", help="Output file.")
@options(*STORES)
def report(study: Sequence[str], output: Path | None, config: Config) -> None:
    """Write an HTML report of one or more studies.

    The report is a single file that works offline.
    """
    with importing():
        from search.commands.studies import compared, open_studies, record_of
        from search.common.workspace import Workspace
        from search.reports.page import render
        from search.study.records import UID

    chosen = open_studies(config, study)
    (record,) = compared(config, [record_of(config, chosen[0])])
    workspace = Workspace(config.workspace)
    drawing = workspace.pictures(record.name, record.attrs.get(UID, ""))
    images = {"Predictions on the test split": drawing.read_bytes()} if drawing.exists() else {}
    target = output or workspace.report("-vs-".join(study.study_name for study in chosen))
    write_output("--output", target, render(chosen[0], others=chosen[1:], images=images, record=record).encode())
    click.echo(f"report: {target}")


@cli.command()
@click.option("--study", metavar="NAME", show_default="the newest", help="Study to open.")
@click.option("--open", "browse", is_flag=True, help="Open both pages in the browser.")
@click.option(
    "--port",
    type=click.IntRange(1, 65534),
    metavar="P",
    show_default="5000 and 8080, or free ones",
    help="Port of MLflow's pages. Optuna's dashboard gets P + 1.",
)
@options(*STORES)
def ui(study: str | None, browse: bool, port: int | None, config: Config) -> None:
    """Serve MLflow's pages and Optuna's dashboard.

    Both listen on this machine only. Ctrl-C stops them.
    """
    from search.cli.dashboards import serve_study

    raise SystemExit(serve_study(config, study, browse=browse, port=port))


@cli.command()
@json_option
@options(*STORES)
def studies(as_json: bool, config: Config) -> None:
    """List all studies."""
    with importing(silent=as_json):
        from search.cli.output import print_studies
        from search.commands.studies import all_studies, compared

    print_studies(compared(config, all_studies(config)), as_json=as_json)


@cli.command()
@click.argument("study", required=False)
@json_option
@options(*STORES)
def show(study: str | None, as_json: bool, config: Config) -> None:
    """Show the winner and the trials of a study.

    STUDY defaults to the newest one.
    """
    with importing(silent=as_json):
        from search.cli.output import print_study
        from search.commands.studies import compared, read_study

    print_study(*compared(config, [read_study(config, study)]), as_json=as_json)


@cli.command()
@click.argument("study", required=False)
@options(*STORES, "log_format")
def watch(study: str | None, config: Config) -> None:
    """Follow a search that runs in another terminal.

    STUDY defaults to the newest one. Waits for a search that has not started yet. The exit status is 1 if the search
    has stopped before its end.
    """
    with importing(silent=config.log_format == "json"):
        from search.cli.output import choose_display, print_state
        from search.commands.studies import compared
        from search.commands.watch import follow

    record = follow(config, study, choose_display(log_format=config.log_format))
    (record,) = compared(config, [record])
    raise SystemExit(print_state(record, config))


@cli.command()
@click.argument("study", required=False)
@click.option("--format", "format_", type=click.Choice(FORMATS), default="csv", show_default=True, help="File format.")
@click.option("--output", type=FILE, metavar="FILE", show_default="standard output", help="Output file.")
@options(*STORES)
def export(study: str | None, format_: str, output: Path | None, config: Config) -> None:
    """Export the trials of a study as a table.

    STUDY defaults to the newest one.
    """
    from search.commands.studies import read_study
    from search.reports.export import export_study

    if output is None and format_ == "parquet" and sys.stdout.isatty():
        raise UsageError(f"a terminal cannot show parquet; type --output {study or 'trials'}.parquet")
    record = read_study(config, study)
    if study is None:
        click.echo(f"study {record.name}, the newest", err=True)
    content = export_study(record, format_)
    if output is None:
        click.echo(printable(content.decode()) if sys.stdout.isatty() else content, nl=False)
    else:
        write_output("--output", output, content)


@cli.command()
@click.argument("image", nargs=-1, required=True)
@click.option(
    "--model",
    metavar="NAME",
    show_default="the dataset's, else the newest champion",
    help="Model, such as mnist or mnist/3.",
)
@click.option("--show", type=FILE, metavar="OUT.png", help="Draw the images with their predictions.")
@options(*STORES, "data_dir")
def predict(image: Sequence[str], model: str | None, show: Path | None, config: Config) -> None:
    """Classify images with a registered model.

    An IMAGE is a file, or test images of a dataset, such as mnist:7 or mnist:0-24.
    """
    with importing():
        from search.cli.output import print_predictions
        from search.commands.load import load
        from search.commands.predict import draw, load_for, require_readable
        from search.commands.predict import predict as classify
        from search.tracking.registry.loading import require_store

    require_store(config)
    require_readable(image)
    read = partial(load_for, image) if model is None else partial(load, model)
    predictor = read(workspace=config.workspace, tracking_uri=config.tracking_uri)
    predictions = classify(predictor, image, config.data_dir)
    print_predictions(str(predictor), predictions)
    if show is not None and (drawing := draw(predictions, predictor.classes)) is not None:
        write_output("--show", show, drawing)
        click.echo(f"drawing: {show}")
    raise SystemExit(int(any(prediction.error for prediction in predictions)))


@cli.command()
@options(*STORES)
def sync(config: Config) -> None:
    """Deliver pending writes to MLflow.

    A search keeps them in its journal when it cannot reach MLflow.
    """
    from search.cli.output import print_deliveries
    from search.commands.upkeep.sync import sync as deliver

    raise SystemExit(print_deliveries(deliver(config)))


@cli.command()
@click.argument("target", required=False, metavar="[STUDY|VERSION]")
@click.option("--rollback", is_flag=True, help="Restore the previous champion. Give the name of a model, not a study.")
@options(*STORES, "register")
def promote(target: str | None, rollback: bool, config: Config) -> None:
    """Make a version or a study's winner the champion.

    A VERSION looks like mnist/3. It becomes the champion, as does a winner that is registered already. Another winner
    is scored and registered, and becomes the champion only if it is better.
    """
    from search.cli.output import print_summary
    from search.commands.promote import promote_version, register_winner, restore_previous_champion
    from search.tracking.registry.loading import require_store
    from search.tracking.registry.promotion import CHAMPION

    if rollback or "/" in (target or ""):
        require_store(config)
    if rollback:
        name, before, now = restore_previous_champion(config, target)
        click.echo(f"champion of {name}: version {now} again, no longer version {before}")
        return
    if target is None:
        raise UsageError(f"promote what? Type {PROGRAM} promote STUDY, promote NAME/VERSION, or promote --rollback")
    if (promoted := promote_version(config, target)) is not None:
        click.echo(f"champion of {promoted[0]}: version {promoted[1]}")
        return
    record = register_winner(config, target)
    print_summary(record)
    model = record.summary.model if record.summary else None
    if model is not None and model["alias"] == CHAMPION:
        click.echo(f"champion of {model['name']}: version {model['version']}")
    raise SystemExit(0 if model is not None else 1)


@cli.command()
@click.option("--delete", is_flag=True, help="Remove without asking.")
@click.option("--all", "everything", is_flag=True, help="Remove also what the next search of a folder would use.")
@options(*STORES, "data_dir", "keep")
@click.pass_context
def gc(ctx: click.Context, delete: bool, everything: bool, config: Config) -> None:
    """List and remove the arrays made of folders of images, and with --keep best:N the weights of other trials.

    A search stores the images of a folder, made small, in the data folder or in your cache. Arrays of folders that
    have changed or are gone can be removed, and what killed processes left. Images and downloads stay. With --keep
    best:N, typed here, only the best N trials of each study and its winner keep their weights. Registered models stay.
    """
    if ctx.get_parameter_source("keep") != ParameterSource.COMMANDLINE:
        config = replace(config, keep="all")  # a setting for searches must not delete weights of every study
    from objectives.data.datasets import default_data_dir
    from search.cli.output import print_arrays, print_weights
    from search.commands.upkeep.gc import find_arrays, remove
    from search.commands.upkeep.weights import delete_weights, find_weights

    found, stored = find_arrays(config.data_dir or default_data_dir()), find_weights(config)
    chosen = [entry for entry in found if everything or not entry.is_needed]
    weights = [entry for entry in stored if entry.why_not is None]
    print_arrays(found, chosen)
    print_weights(stored, config)
    if not chosen and not weights:
        return
    if not delete and not sys.stdin.isatty():
        keep = "" if config.n_kept is None else f" --keep {config.keep}{config.where}"
        place = "" if config.data_dir is None else f" --data-dir {shlex.quote(str(config.data_dir))}"
        click.echo(f"To remove them, type {PROGRAM} gc{' --all' if everything else ''}{keep}{place} --delete")
        return
    failures: list[str] = []
    if chosen and (delete or click.confirm("Remove the arrays?")):
        failures = remove(chosen)
        click.echo(f"arrays: removed {len(chosen) - len(failures)} of {len(chosen)}")
    if weights and (delete or click.confirm("Remove the weights?")):
        n_deleted, problems = delete_weights(config, weights, partial(click.echo, err=True))
        click.echo(f"weights of trials: removed {n_deleted} of {sum(entry.n_trials for entry in weights)}")
        failures += problems
    for failure in failures:
        click.echo(f"Error: not removed: {failure}", err=True)
    raise SystemExit(1 if failures else 0)


@cli.command("check-objective")
@click.argument("target", metavar="MODULE:ATTR")
@click.option("--device", default="cpu", show_default=True, type=Device(), help="Device for the short trainings.")
@options("dataset", "data_dir")
@click.pass_context
def check_objective(ctx: click.Context, target: str, device: str, config: Config) -> None:
    """Check your own objective in a few seconds."""
    from search.cli.output import print_findings
    from search.commands.setup import objective_spec
    from search.study.storage.storage import quiet_optuna
    from search.testing.isolation import examine_apart

    quiet_optuna()
    chosen, ambient = replace(config, objective=target), from_environment(ctx)
    raise SystemExit(print_findings(target, examine_apart(lambda: objective_spec(chosen, ambient), device)))


def main() -> NoReturn:
    """Run the command and end the process."""
    use_utf8()
    put_current_folder_last()
    tame_warnings()
    prepare_streams()
    os.environ.update(thread_waiting())
    sys.excepthook = print_traceback
    try:
        answer()
    except SystemExit as end:
        end_process(end.code)


def answer() -> NoReturn:
    """Run the command line and raise SystemExit."""
    run_and_exit(lambda: cli.main(prog_name=PROGRAM, standalone_mode=True))
