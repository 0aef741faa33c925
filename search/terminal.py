"""What is printed: tables, summaries, and which display a search gets."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.dashboards import mlflow_deep_link
from search.markdown import NETWORKS
from search.pages import readable
from search.progress import Display
from search.progress_display import JsonDisplay, LiveDisplay, PlainDisplay, describe_end, duration
from search.promotion import CHAMPION
from search.records import EXPERIMENT, OVER, STEPS_PER_EPOCH, TARGET, UID, StudyRecord, to_json
from search.summary import Confirmation, Summary, counted, plus_minus, span
from search.workspace import Workspace

if TYPE_CHECKING:
    from search.config import Config
    from search.contract import Finding
    from search.predict import Prediction
    from search.run import Result

PLAIN: dict[str, Any] = {"highlight": False, "emoji": False}  # of `folder:ok:0` an emoji would be made
console = Console(**PLAIN)
if not console.is_terminal:
    console = Console(**PLAIN, width=200)  # a pipe has no width: rows stay whole for grep


def display(*, quiet: bool = False, log_format: str = "text") -> Display:
    """A live table in a terminal, plain lines elsewhere; JSON when it is asked for."""
    if log_format == "json":
        return JsonDisplay(Console(quiet=True) if quiet else console)
    if quiet:
        return PlainDisplay(Console(quiet=True))
    return LiveDisplay(console) if console.is_terminal and "CI" not in os.environ else PlainDisplay(console)


def say(text: str) -> None:
    """Print as it is."""
    console.print(text, markup=False, soft_wrap=True)


def print_result(result: Result, config: Config) -> None:
    """The closing words of a run."""
    study, workspace = result.study, Workspace(config.workspace)
    if config.log_format == "json":
        figures = {"undelivered": result.undelivered, "was_complete": result.was_complete}
        JsonDisplay(console).event("result", study=study.as_dict(), **figures)
        return
    if result.was_complete:
        early = study.attrs.get(OVER) is not None
        further = f"to search on, type --trials {2 * study.finished} or another number above {study.finished}"
        say(f"nothing was left to do; {'why it ended is said below' if early else further}")
    print_summary(study)
    if result.undelivered:
        journals = workspace.journal(study.name, study.attrs[UID]).parent
        say(
            f"{result.undelivered} tracking writes wait in {journals}: MLflow did not take them. The same command, run "
            "again, delivers them."
        )
    where = config.where
    say("\nWhere to look next:")
    say(f"  python -m search ui{where}          browse every run and the dashboards; then all curves are at")
    say(f"    {_curves(study, config)}")
    say(f"  python -m search report{where}      writes {workspace.report(study.name)} anew")
    dataset = (study.provenance.get("dataset") or {}).get("name", "")
    if dataset and study.summary and study.summary.model:
        model = study.summary.model  # without a name, `predict` takes the newest champion
        which = "" if model["alias"] == CHAMPION else f" --model {shlex.quote(model['uri'])}"
        last = min(24, int(study.summary.test["n"]) - 1) if study.summary.test else 0
        example = f"{shlex.quote(f'{dataset}:0-{last}')}{which} --show out.png"
        say(f"  python -m search predict{where} {example}")


def _curves(study: StudyRecord, config: Config) -> str:
    """The page of MLflow's UI that shows every trial's curves."""
    base = config.mlflow_uri if config.mlflow_uri.startswith("http") else "http://127.0.0.1:5000"
    return mlflow_deep_link(base, study.attrs.get(EXPERIMENT))


def print_summary(study: StudyRecord) -> None:
    """Winner, figures, gains and cost."""
    summary = study.summary
    say(f"\nstudy {study.name}: {_counts(study)}")
    if (why := study.attrs.get(OVER)) is not None:
        say(f"ended early: {why}")
    if summary is None:
        say("no winner yet: it is being searched, or was interrupted, and the same command, typed again, goes on")
        return
    seen = f"{summary.value:.4f} as the search saw it"
    confirmed = ", not confirmed" if summary.confirmed is None else f" confirmed, {seen}"
    say(f"winner: trial {summary.number}, {summary.label}, {study.metric} {summary.score:.4f}{confirmed}")
    if (baseline := study.baseline) is not None:
        only = all(trial.baseline is not None for trial in study.trials)
        why = "only baselines were tried" if only else "nothing that was sampled is clearly better"
        say(f"  which is the baseline {baseline}: {why}")
    params = ", ".join(f"{name}={readable(value, digits=3)}" for name, value in summary.params.items())
    say(f"  {params}")
    if summary.confirmation is not None:
        _print_confirmation(study, summary.confirmation)
    _print_test(study, summary)
    if summary.gains:
        rest = f", {summary.gains_rest_on}" if summary.gains_rest_on else ""
        say(f"compared with the baselines{rest}:")
    for gain in summary.gains:
        known = f"{gain.value:.4f}, {gain.known_from}"
        doubt = f": {gain.doubt}" if gain.doubt else ""
        say(f"  {gain.gain:+.4f}{plus_minus(gain.half)} over {gain.baseline} ({known}){doubt}")
    if summary.model:
        alias = f", alias {summary.model['alias']}" if summary.model["alias"] else ""
        say(f"registered: {summary.model['name']} version {summary.model['version']}{alias} ({summary.model['uri']})")
    for text in (summary.note, summary.standing):
        if text:
            say(f"note: {text}")


def _print_confirmation(study: StudyRecord, found: Confirmation) -> None:
    fewer = any(len(each.values) + each.failed < found.seeds for each in found.candidates)
    each_ = "each, or until clearly behind" if fewer else "each"
    say(f"confirmed on {counted(found.seeds, 'fresh seed')} {each_}; {found.trust(study.considered)}:")
    table = _table("", "mean", "95% interval", "seeds", "search saw", "weights", "")
    for each in found.candidates:
        table.add_row(
            f"  trial {each.number}",
            "-" if each.mean is None else f"{each.mean:.4f}",
            span(found.interval(each)),
            ", ".join(f"{value:.4f}" for value in each.values) or "all failed",
            f"{each.searched:.4f}",
            "-" if each.parameters is None else f"{each.parameters:,.0f}",
            study.fate(each),
        )
    console.print(table)


def _print_test(study: StudyRecord, summary: Summary) -> None:
    if summary.refit:
        refit = summary.refit
        say(f"trained anew on all {refit['images']:,} images that are not for testing: {refit['epochs']} epochs")
    elif summary.network == "confirm":
        say(f"the winner's network is {NETWORKS['confirm']}")
    if summary.test:
        test = summary.test
        say(
            f"test accuracy: {test['accuracy']:.2%} (95% interval {test['low']:.2%} to {test['high']:.2%}, "
            f"n = {int(test['n'])}, {study.tested})"
        )


def _counts(study: StudyRecord) -> str:
    words = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    counts = [f"{study.count(state)} {word}" for state, word in words.items() if study.count(state)]
    wall = sum(session.get("wall_s", 0.0) for session in study.sessions)
    target = study.attrs.get(TARGET, 0)
    of = f"{study.finished} of {target} trials" if study.finished < target else counted(study.finished, "trial")
    return f"{of} ({', '.join(counts) or 'none ended'}) in {duration(wall)}"


def print_json(values: Any) -> None:
    """The same for programs."""
    console.print(to_json(values).decode(), markup=False, soft_wrap=True)


def print_studies(studies: Sequence[StudyRecord]) -> None:
    """One row a study."""
    table = _table("study", "trials", "search saw", "test accuracy", "model")
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
    """The summary and every trial, best first."""
    print_summary(study)
    table = _table("trial", "state", study.metric, "setting", "epochs", "time", "")
    ranked, steps = study.ranked(), study.attrs.get(STEPS_PER_EPOCH, 1)
    rest = [trial for trial in study.trials if trial not in ranked]
    for trial in [*ranked, *rest]:
        table.add_row(
            f"#{trial.number:03d}",
            trial.state.name.lower(),
            "-" if trial.value is None else f"{trial.value:.4f}",
            Text(trial.label),
            f"{trial.metrics.get('epochs', max(trial.intermediate, default=0) / steps):g}",
            "-" if trial.seconds is None else duration(trial.seconds),
            Text(trial.baseline or (describe_end(trial) if trial.failure or not trial.feasible else "")),
        )
    console.print(table)


def print_predictions(model: str, predictions: Sequence[Prediction]) -> None:
    """One row a picture, and why a picture has none; `model` in words."""
    say(f"model: {model}")
    known = [prediction for prediction in predictions if prediction.truth is not None]
    table = _table("picture", "label", "probability", *(["truth"] if known else []), "notes")
    for prediction in predictions:
        if prediction.error is None:
            wrong = prediction.truth is not None and prediction.truth != prediction.label
            table.add_row(
                Text(_printable(prediction.name)),
                Text(prediction.label, style="red" if wrong else ""),
                f"{prediction.probability:.4f}",
                *([Text(prediction.truth or "")] if known else []),
                Text(", ".join(prediction.notes)),
            )
    if table.row_count:
        console.print(table)
    if known:
        right = sum(prediction.truth == prediction.label for prediction in known)
        say(f"{right} of {len(known)} agree with the true label")
    for prediction in predictions:
        if prediction.error is not None:
            say(f"Error: {prediction.error}")


def print_findings(target: str, findings: Iterable[Finding]) -> int:
    """One line a check, as each comes to its end; returns the exit status."""
    wrong = 0
    for finding in findings:
        mark = "wrong" if finding.wrong else "?" if finding.not_tried else "ok"
        say(f"{mark:<6} {finding.title}" + (f" ({finding.not_tried})" if finding.not_tried else ""))
        if finding.wrong:
            say(f"       {finding.wrong}")
            wrong += 1
    said = f"{wrong} parts of the contract are not kept" if wrong > 1 else "one part of the contract is not kept"
    say(f"{target}: {said if wrong else 'everything is as it should be'}")
    return 1 if wrong else 0


def _printable(name: str) -> str:
    return name if name.isprintable() else repr(name)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column != columns[-1])  # the last one gives way
    return table
