"""Tables and summaries on standard output, and the choice of a display."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from click import echo
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.cli.dashboards import mlflow_deep_link
from search.cli.progress import JsonDisplay, LiveDisplay, PlainDisplay, describe_end
from search.cli.terminal import is_terminal
from search.commands.session.naming import model_names
from search.common.text import duration, printable
from search.common.workspace import Workspace
from search.coordinator.progress import Display
from search.study.records import (
    EXPERIMENT,
    MODELS,
    STEPS_PER_EPOCH,
    TARGET,
    UID,
    StudyRecord,
    TrialRecord,
    to_json,
)
from search.study.state import State
from search.study.summary import counted
from search.study.texts.presenter import Decimals, SearchOutcome, present, state_text, trials_text
from search.study.texts.tested import common_name, figures_on_test
from search.tracking.registry.promotion import CHAMPION

if TYPE_CHECKING:
    from search.commands.predict import Prediction
    from search.commands.run import Ending
    from search.commands.upkeep.gc import StoredArrays
    from search.commands.upkeep.weights import StoredWeights
    from search.common.config import Config
    from search.testing.findings import Finding

console = Console(highlight=False, emoji=False)  # `folder:ok:0` contains the name of an emoji
if not sys.stdout.isatty():
    console.width = 200  # a pipe has no width: keep rows whole for grep


def choose_display(*, quiet: bool = False, log_format: str = "text") -> Display:
    """Return a live table for a terminal, plain lines for a pipe, JSON lines if requested."""
    if quiet or log_format == "json":
        output = Console(quiet=True) if quiet else console
        return JsonDisplay(output) if log_format == "json" else PlainDisplay(output)
    return LiveDisplay(console) if is_terminal() and "CI" not in os.environ else PlainDisplay(console)


def print_result(result: Ending, config: Config, *, in_program: bool = False) -> None:
    """Print the summary of a search and the next steps. `in_program`: it was called, and not typed."""
    study = result.study
    if config.log_format == "json":
        figures = {"undelivered": result.undelivered, "was_complete": result.was_complete}
        JsonDisplay(console).event("result", study=study.as_dict(), **figures)
        return
    if result.was_complete:
        flag = "trials=" if in_program else "--trials "
        advice = f"to continue, type {flag}{2 * study.finished} or another number above {study.finished}"
        if study.finished < config.trials and result.why_enough is not None:
            is_shown = result.why_enough == study.stop_reason
            advice = "the reason is given below" if is_shown else result.why_enough
        echo(f"nothing was left to do; {advice}")
    print_summary(study)
    if result.undelivered:
        journals = Workspace(config.workspace).journal(study.name, study.attrs[UID]).parent
        again = f"Run the same {'call' if in_program else 'command'} again to deliver them."
        reason = f"because MLflow did not accept them. {again}"
        echo(f"{result.undelivered} tracking writes wait in {journals}, {reason}")
    _print_next_steps(study, config)


def _print_next_steps(study: StudyRecord, config: Config) -> None:
    server = config.mlflow_uri if config.mlflow_uri.startswith("http") else "http://127.0.0.1:5000"
    stores, report = config.where, str(Workspace(config.workspace).report(study.name))
    echo("\nNext steps:")
    echo(f"  python -m search ui{stores}        # browse all runs and dashboards; the curves of all trials are at")
    echo(f"    {mlflow_deep_link(server, study.attrs.get(EXPERIMENT))}")
    echo(f"  python -m search report{stores}    # write {report if report.isprintable() else ascii(report)} again")
    dataset = (study.provenance.get("dataset") or {}).get("name", "")
    if study.summary is None or (model := study.summary.model) is None:
        return
    if not dataset:
        echo(f"  search.load_model({model['uri']!r}).predict(inputs)    # in Python, after import search")
    else:
        is_champion = model["alias"] == CHAMPION
        is_found = is_champion and model["name"] in model_names(dataset)  # by `predict` without --model
        option = "" if is_found else f" --model {shlex.quote(model['name'] if is_champion else model['uri'])}"
        last = min(24, int(study.summary.test["n"]) - 1) if study.summary.test else 0
        images = shlex.quote(f"{dataset}:0-{last}")
        echo(f"  python -m search predict{stores} {images}{option} --show out.png")


def print_summary(study: StudyRecord) -> None:
    """Print the outcome of a study."""
    echo(f"\nstudy {study.name}: {_counts(study)}")
    if (reason := study.stop_reason) is not None:
        echo(f"ended early: {reason}")
    if study.state is not State.FINISHED:
        echo(state_text(study))
    if study.summary is None:
        echo("no winner yet")
        return
    outcome = present(study, study.summary, Decimals())
    _print_winner(study, outcome)
    _print_confirmation(outcome)
    _print_network(study, outcome)
    _print_gains(outcome)
    if model := outcome.registration:
        alias = f", alias {model['alias']}" if model["alias"] else ""
        echo(f"registered: {model['name']} version {model['version']}{alias} ({model['uri']})")
    for text in outcome.notes:
        echo(f"note: {text}")


def _counts(study: StudyRecord) -> str:
    names = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    counts = [f"{study.count(state)} {name}" for state, name in names.items() if study.count(state)]
    wall_s = sum(session.get("wall_s", 0.0) for session in study.sessions)
    target = study.attrs.get(TARGET, 0)
    trials = f"{study.finished} of {target} trials" if study.finished < target else counted(study.finished, "trial")
    return f"{trials} ({', '.join(counts) or 'none ended'}) in {duration(wall_s)}"


def _print_winner(study: StudyRecord, outcome: SearchOutcome) -> None:
    source = "not confirmed" if outcome.confirmed is None else f"{outcome.searched} in the search"
    score = outcome.score + ("" if outcome.confirmed is None else " confirmed")
    label = "" if study.is_function else f"{outcome.label}, "  # a function's is made of its first parameters
    echo(f"winner: trial {outcome.number}, {label}{outcome.metric} {score}, {source}")
    if outcome.baseline:
        echo(f"  this is {outcome.baseline}")
    if outcome.constant:
        echo(f"  {outcome.constant} in {outcome.metric}")
    echo("  " + ", ".join(f"{name}={value}" for name, value in outcome.params))


def _print_confirmation(outcome: SearchOutcome) -> None:
    if (confirmation := outcome.confirmation) is None:
        return
    echo(f"confirmed on {confirmation.seeds}; {confirmation.intervals}:")
    weights = ["weights"] if any(row.weights for row in confirmation.rows) else []
    table = _table("  trial", "mean", "95% interval", "search", *weights, wrapped=(confirmation.noun, ""))
    for row in confirmation.rows:
        cells = [
            f"  #{row.candidate.number}",
            row.mean,
            row.interval,
            row.searched,
            *([row.weights] if weights else []),
        ]
        table.add_row(*cells, row.values, row.verdict)
    console.print(table)


def _print_network(study: StudyRecord, outcome: SearchOutcome) -> None:
    has_network = not study.is_function or study.attrs.get(MODELS)
    if outcome.ensemble:
        echo(f"ensemble: {outcome.ensemble}")
    if outcome.refit:
        echo(f"refit on training and validation images: {outcome.refit}")
    elif outcome.network == "confirm" and has_network:
        echo(f"network: {outcome.network_text}")
    if test := outcome.test:
        basis = f"95% interval {test.main.interval}, n = {test.images}, {test.reads}{test.beside}"
        echo(f"test {test.main.name}: {test.main.value} ({basis})")
        if test.others:
            echo(f"  also on the test split: {test.also}")
    if outcome.calibration:
        echo(f"probabilities: {outcome.calibration}")
    for text in outcome.warnings:
        echo(f"warning: {text}")


def _print_gains(outcome: SearchOutcome) -> None:
    if outcome.gains:
        echo(", ".join(filter(None, ("gains over the baselines", outcome.gains_note))) + ":")
    for gain in outcome.gains:
        remark = f": {gain.remark}" if gain.remark else ""
        echo(f"  {gain.gain} over {gain.source.baseline} ({gain.value}, {gain.measured}){remark}")


def print_state(study: StudyRecord, config: Config) -> int:
    """Print how a search that was watched ended. Returns the exit status."""
    if config.log_format == "json":
        JsonDisplay(console).event("result", study=study.as_dict())
    else:
        print_summary(study)
    return 1 if study.state is State.STOPPED else 0


def print_studies(studies: Sequence[StudyRecord], *, as_json: bool = False) -> None:
    """Print one row for each study, or all data as JSON."""
    if as_json:
        echo(to_json([study.as_dict() for study in studies]))
        return
    tests = [figures_on_test(study, study.summary) for study in studies]
    column, name_each = common_name(tests)
    table = _table("study", "state", "trials", "best in search", column, wrapped=("model",))
    for study, test in zip(studies, tests, strict=True):
        best = f"{ranked[0].value:.4f}" if (ranked := study.ranked()) else "-"
        figure = "-" if test is None else f"{test.main.value} {test.main.name if name_each else ''}".rstrip()
        model = study.summary.model["uri"] if study.summary and study.summary.model else "-"
        table.add_row(Text(study.name), study.state or "-", trials_text(study), best, figure, model)
    console.print(table)
    for study in studies:
        if study.state in (State.RUNNING, State.STOPPED):
            echo(f"{study.name}: {state_text(study)}")


def print_study(study: StudyRecord, *, as_json: bool = False) -> None:
    """Print the summary, then all trials, best first; or all data as JSON."""
    if as_json:
        echo(to_json(study.as_dict()))
        return
    print_summary(study)
    echo("")
    position = "step" if study.is_function else "epochs"
    table = _table("trial", "state", study.metric, position, "time", wrapped=("configuration", ""))
    ranked = study.ranked()
    for trial in [*ranked, *(trial for trial in study.trials if trial not in ranked), *study.foreign]:
        value = "-" if trial.value is None else f"{trial.value:.4f}"
        seconds = "-" if trial.seconds is None else duration(trial.seconds)
        remark = trial.baseline or (describe_end(trial) if trial.failure or not trial.feasible else "")
        figures = (f"#{trial.number:03d}", study.state_of(trial), value, _position(study, trial), seconds)
        table.add_row(*figures, Text(trial.label), Text(remark))
    console.print(table)


def _position(study: StudyRecord, trial: TrialRecord) -> str:
    """Write how far a trial came: in epochs, or to which step a function has reported."""
    last = max(trial.intermediate, default=None)
    if study.is_function:
        return "-" if last is None else str(last)
    return f"{trial.metrics.get('epochs', (last or 0) / study.attrs.get(STEPS_PER_EPOCH, 1)):g}"


def print_predictions(model: str, predictions: Sequence[Prediction]) -> None:
    """Print one row for each image, then an error for each one that cannot be read."""
    echo(f"model: {model}")
    labelled = [prediction for prediction in predictions if prediction.truth is not None]
    common = _common_notes(predictions)
    table = _table("image", "label", "probability", *(["truth"] if labelled else []), wrapped=("notes",))
    for prediction in predictions:
        if prediction.error is None:
            name = Text(prediction.name if prediction.name.isprintable() else repr(prediction.name))
            style = "" if prediction.truth in (None, prediction.label) else "red"
            label = Text(printable(prediction.label), style=style)
            truth = [Text(printable(prediction.truth or ""))] if labelled else []
            table.add_row(
                name,
                label,
                f"{prediction.probability:.4f}",
                *truth,
                Text(", ".join(note for note in prediction.notes if note not in common)),
            )
    if table.row_count:
        console.print(table)
    if common:
        echo(f"all images: {', '.join(common)}")
    if labelled:
        echo(f"{sum(image.truth == image.label for image in labelled)} of {len(labelled)} are correct")
    for error in filter(None, (prediction.error for prediction in predictions)):
        echo(f"Error: {error}")


def _common_notes(predictions: Sequence[Prediction]) -> list[str]:
    """The notes that several images all have, which are printed once."""
    first, *others = [prediction.notes for prediction in predictions if prediction.error is None] or [()]
    return [note for note in first if others and all(note in notes for notes in others)]


def print_findings(target: str, findings: Iterable[Finding]) -> int:
    """Print one line for each check as it ends. Returns the exit status."""
    failures = 0
    for finding in findings:
        mark = "wrong" if finding.wrong else "?" if finding.not_tried else "-" if finding.absent else "ok"
        why = finding.not_tried or finding.absent
        echo(f"{mark:<6} {finding.title}" + (f" ({why})" if why else ""))
        for line in (finding.wrong or finding.remark or "").splitlines():
            echo(f"       {printable(line, limit=2_000)}")
        failures += finding.wrong is not None
    echo(f"{target}: " + (f"{counted(failures, 'check')} failed" if failures else "all checks passed"))
    return 1 if failures else 0


def print_deliveries(deliveries: Iterable[tuple[str, int, int, str | None]]) -> int:
    """Print one line for each study as its journal is delivered. Returns the exit status."""
    undelivered = 0
    for study, delivered, pending, reason in deliveries:
        echo(f"{study}: {delivered} writes delivered, {pending} left" + (f" ({reason})" if reason else ""))
        undelivered += pending
    return 1 if undelivered else 0


def print_arrays(found: Sequence[StoredArrays], chosen: Sequence[StoredArrays]) -> None:
    """Print one row for each folder of arrays, with a mark on those to remove."""
    if not found:
        echo("no arrays of folders are stored")
        return
    table = _table("", "size", "made", wrapped=("folder of images", "state", "arrays"))
    for entry in found:
        figures = ("x" if entry in chosen else "", f"{entry.size_bytes / 1e6:.1f} MB", f"{duration(entry.age_s)} ago")
        table.add_row(*figures, Text(entry.source or "-"), entry.state, Text(str(entry.path)))
    console.print(table)
    echo(f"{len(chosen)} of {len(found)} (x) can be removed: {sum(entry.size_bytes for entry in chosen) / 1e6:.1f} MB")
    if any(entry.source for entry in chosen):
        echo(
            "Models that were trained on them can then no longer be tried on their test images (predict folder:PATH:0)."
        )


def print_weights(found: Sequence[StoredWeights], config: Config) -> None:
    """Print one row for each study with weights that can be deleted, with a mark if that can be done now."""
    if config.n_kept is None:
        return
    if not found:
        echo(f"no study has weights that --keep {config.keep} would delete")
        return
    table = _table("", "size", "trials", wrapped=("study", "remark"))
    for entry in found:
        mark, size = "" if entry.why_not else "x", f"{entry.size_bytes / 1e6:.1f} MB"
        table.add_row(mark, size, str(entry.n_trials), Text(entry.study), Text(printable(entry.why_not or "")))
    console.print(table)
    chosen = [entry for entry in found if entry.why_not is None]
    n, size_bytes = sum(entry.n_trials for entry in chosen), sum(entry.size_bytes for entry in chosen)
    echo(f"weights of {counted(n, 'trial')} (x) can be removed: {size_bytes / 1e6:.1f} MB")
    if n:
        echo("search.load_trial can then no longer load these trials. Registered models stay.")


def _table(*columns: str, wrapped: Sequence[str]) -> Table:
    """Make a table. In a narrow terminal its last columns, `wrapped`, are folded."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for column in wrapped:
        table.add_column(column, overflow="fold")
    return table
