"""Prints tables and summaries, and chooses the display of a search."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.cli.dashboards import mlflow_deep_link
from search.cli.progress import JsonDisplay, LiveDisplay, PlainDisplay, describe_end
from search.common.text import duration
from search.common.workspace import Workspace
from search.coordinator.progress import Display
from search.study.presenter import ConfirmationTable, Decimals, SearchOutcome, present
from search.study.records import EXPERIMENT, STEPS_PER_EPOCH, STOP_REASON, TARGET, UID, StudyRecord, to_json
from search.study.summary import counted
from search.tracking.registry.promotion import CHAMPION

if TYPE_CHECKING:
    from search.commands.predict import Prediction
    from search.commands.run import Result
    from search.common.config import Config
    from search.testing.checks import Finding

PLAIN: dict[str, Any] = {"highlight": False, "emoji": False}  # rich would turn `folder:ok:0` into an emoji
console = Console(**PLAIN)
if not console.is_terminal:
    console = Console(**PLAIN, width=200)  # a pipe has no width: keep rows whole for grep

STATE_NAMES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def choose_display(*, quiet: bool = False, log_format: str = "text") -> Display:
    """Choose a live table for a terminal, plain lines for a pipe, JSON if asked for."""
    if log_format == "json":
        return JsonDisplay(Console(quiet=True) if quiet else console)
    if quiet:
        return PlainDisplay(Console(quiet=True))
    return LiveDisplay(console) if console.is_terminal and "CI" not in os.environ else PlainDisplay(console)


def say(text: str) -> None:
    """Print one line without markup or wrapping."""
    console.print(text, markup=False, soft_wrap=True)


def print_json(values: Any) -> None:
    """Print values as JSON."""
    console.print(to_json(values).decode(), markup=False, soft_wrap=True)


# The end of a search ----------------------------------------------------------------------------------------------


def print_result(result: Result, config: Config) -> None:
    """Print the summary of a search that ended, and what to type next."""
    study = result.study
    if config.log_format == "json":
        figures = {"undelivered": result.undelivered, "was_complete": result.was_complete}
        JsonDisplay(console).event("result", study=study.as_dict(), **figures)
        return
    if result.was_complete:
        early = study.attrs.get(STOP_REASON) is not None
        more = f"to continue, type --trials {2 * study.finished} or another number above {study.finished}"
        say(f"nothing was left to do; {'the reason is given below' if early else more}")
    print_summary(study)
    if result.undelivered:
        journals = Workspace(config.workspace).journal(study.name, study.attrs[UID]).parent
        say(
            f"{result.undelivered} tracking writes wait in {journals}, because MLflow did not accept them. "
            "Run the same command again to deliver them."
        )
    _print_next_steps(study, config)


def _print_next_steps(study: StudyRecord, config: Config) -> None:
    base = config.mlflow_uri if config.mlflow_uri.startswith("http") else "http://127.0.0.1:5000"
    where, report = config.where, Workspace(config.workspace).report(study.name)
    say("\nNext steps:")
    say(f"  python -m search ui{where}        # browse all runs and dashboards; the curves of all trials are at")
    say(f"    {mlflow_deep_link(base, study.attrs.get(EXPERIMENT))}")
    say(f"  python -m search report{where}    # write {report} again")
    dataset = (study.provenance.get("dataset") or {}).get("name", "")
    if dataset and study.summary and (model := study.summary.model):
        which = "" if model["alias"] == CHAMPION else f" --model {shlex.quote(model['uri'])}"
        last = min(24, int(study.summary.test["n"]) - 1) if study.summary.test else 0
        images = shlex.quote(f"{dataset}:0-{last}")
        say(f"  python -m search predict{where} {images}{which} --show out.png")


def print_summary(study: StudyRecord) -> None:
    """Print the outcome of a study: winner, confirmation, test score, gains, registered version."""
    say(f"\nstudy {study.name}: {_counts(study)}")
    if (reason := study.attrs.get(STOP_REASON)) is not None:
        say(f"ended early: {reason}")
    if study.summary is None:
        say("no winner yet: the search is running or was interrupted; run the same command again to continue it")
        return
    outcome = present(study, study.summary, Decimals())
    _print_winner(outcome)
    if outcome.confirmation is not None:
        _print_confirmation(outcome.confirmation)
    _print_network(outcome)
    _print_gains(outcome)
    if model := outcome.registration:
        alias = f", alias {model['alias']}" if model["alias"] else ""
        say(f"registered: {model['name']} version {model['version']}{alias} ({model['uri']})")
    for text in outcome.notes:
        say(f"note: {text}")


def _counts(study: StudyRecord) -> str:
    counts = [f"{study.count(state)} {name}" for state, name in STATE_NAMES.items() if study.count(state)]
    wall_s = sum(session.get("wall_s", 0.0) for session in study.sessions)
    target = study.attrs.get(TARGET, 0)
    trials = f"{study.finished} of {target} trials" if study.finished < target else counted(study.finished, "trial")
    return f"{trials} ({', '.join(counts) or 'none ended'}) in {duration(wall_s)}"


def _print_winner(outcome: SearchOutcome) -> None:
    values = f"{outcome.score} confirmed, {outcome.searched} in the search"
    if outcome.confirmed is None:
        values = f"{outcome.score}, not confirmed"
    say(f"winner: trial {outcome.number}, {outcome.label}, {outcome.metric} {values}")
    if outcome.baseline:
        say(f"  this is {outcome.baseline}")
    say("  " + ", ".join(f"{name}={value}" for name, value in outcome.params))


def _print_confirmation(confirmation: ConfirmationTable) -> None:
    say(f"confirmed on {confirmation.seeds} each; {confirmation.intervals}:")
    table = _table("  trial", "mean", "95% interval", "search", "weights", wrapped=("fresh seeds", ""))
    for row in confirmation.rows:
        cells = [f"  #{row.candidate.number}", row.mean, row.interval, row.searched, row.weights]
        table.add_row(*cells, row.values, row.verdict)
    console.print(table)


def _print_network(outcome: SearchOutcome) -> None:
    if outcome.refit:
        say(f"refit on training and validation images: {outcome.refit}")
    elif outcome.network == "confirm":
        say(f"network: {outcome.network_text}")
    if test := outcome.test:
        say(f"test accuracy: {test.accuracy} (95% interval {test.interval}, n = {test.images}, {test.reads})")


def _print_gains(outcome: SearchOutcome) -> None:
    if outcome.gains:
        say("gains over the baselines" + (f", {outcome.gains_note}" if outcome.gains_note else "") + ":")
    for gain in outcome.gains:
        remark = f": {gain.remark}" if gain.remark else ""
        say(f"  {gain.gain} over {gain.source.baseline} ({gain.value}, {gain.measured}){remark}")


# Other commands ---------------------------------------------------------------------------------------------------


def print_studies(studies: Sequence[StudyRecord]) -> None:
    """Print one row for each study."""
    table = _table("study", "trials", "best in search", "test accuracy", wrapped=("model",))
    for study in studies:
        summary = study.summary
        best = study.ranked()[:1]
        table.add_row(
            Text(study.name),
            str(study.finished),
            f"{best[0].value:.4f}" if best else "-",
            f"{summary.test['accuracy']:.2%}" if summary and summary.test else "-",
            summary.model["uri"] if summary and summary.model else "-",
        )
    console.print(table)


def print_study(study: StudyRecord) -> None:
    """Print the summary, then all trials, best first."""
    print_summary(study)
    say("")
    table = _table("trial", "state", study.metric, "epochs", "time", wrapped=("configuration", ""))
    ranked, steps = study.ranked(), study.attrs.get(STEPS_PER_EPOCH, 1)
    for trial in [*ranked, *(trial for trial in study.trials if trial not in ranked)]:
        table.add_row(
            f"#{trial.number:03d}",
            trial.state.name.lower(),
            "-" if trial.value is None else f"{trial.value:.4f}",
            f"{trial.metrics.get('epochs', max(trial.intermediate, default=0) / steps):g}",
            "-" if trial.seconds is None else duration(trial.seconds),
            Text(trial.label),
            Text(trial.baseline or (describe_end(trial) if trial.failure or not trial.feasible else "")),
        )
    console.print(table)


def print_predictions(model: str, predictions: Sequence[Prediction]) -> None:
    """Print one row for each image, then why the others could not be read; `model` names the model."""
    say(f"model: {model}")
    labelled = [prediction for prediction in predictions if prediction.truth is not None]
    table = _table("image", "label", "probability", *(["truth"] if labelled else []), wrapped=("notes",))
    for prediction in predictions:
        if prediction.error is None:
            wrong = prediction.truth is not None and prediction.truth != prediction.label
            table.add_row(
                Text(prediction.name if prediction.name.isprintable() else repr(prediction.name)),
                Text(prediction.label, style="red" if wrong else ""),
                f"{prediction.probability:.4f}",
                *([Text(prediction.truth or "")] if labelled else []),
                Text(", ".join(prediction.notes)),
            )
    if table.row_count:
        console.print(table)
    if labelled:
        correct = sum(prediction.truth == prediction.label for prediction in labelled)
        say(f"{correct} of {len(labelled)} are correct")
    for prediction in predictions:
        if prediction.error is not None:
            say(f"Error: {prediction.error}")


def print_findings(target: str, findings: Iterable[Finding]) -> int:
    """Print one line for each check as it ends; return the exit status."""
    wrong = 0
    for finding in findings:
        mark = "wrong" if finding.wrong else "?" if finding.not_tried else "ok"
        say(f"{mark:<6} {finding.title}" + (f" ({finding.not_tried})" if finding.not_tried else ""))
        if finding.wrong:
            say(f"       {finding.wrong}")
            wrong += 1
    say(f"{target}: " + (f"{counted(wrong, 'check')} failed" if wrong else "all checks passed"))
    return 1 if wrong else 0


def _table(*columns: str, wrapped: Sequence[str]) -> Table:
    """Make a table whose last columns, `wrapped`, are folded where the terminal is too narrow."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for column in wrapped:
        table.add_column(column, overflow="fold")
    return table
