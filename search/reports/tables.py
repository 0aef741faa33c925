"""The words and numbers of the report: its first screen, leaderboard, failures, provenance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

from optuna.trial import TrialState

from objectives.metrics import metric_of
from search.common.text import duration, readable
from search.reports.charts import cost
from search.reports.elements import Part, Span, Unit, winner
from search.reports.style import STATES
from search.study.records import StudyRecord, TrialRecord
from search.study.state import State
from search.study.summary import Gain, Summary
from search.study.texts.presenter import gain_rows
from search.study.texts.tested import figures_on_test

MAX_ROWS = 1_000
MAX_MESSAGES = 20
"""Different messages shown of one kind of failure."""


@dataclass(frozen=True)
class Cell:
    """One cell of a sortable table."""

    text: str
    sort: float | str | None = None
    """The value to sort by; None sorts last in both directions."""


@dataclass(frozen=True)
class Dot:
    """One row of the dot plot that compares the winner with the baselines."""

    label: str
    text: str
    value: float
    interval: Span | None = None
    kind: str = "baseline"
    gain: str = ""
    is_doubtful: bool = False
    """The winner is behind, or the gain may be chance."""


@dataclass(frozen=True)
class Heat:
    """One cell of the confusion matrix."""

    text: str
    title: str
    kind: str
    """`right` or `wrong`, a class of `report.css`."""
    shade: float
    """From 0 to 1: the square root of its share of the row, so that a few mistakes among thousands still show."""


def confusion(summary: Summary) -> list[tuple[str, list[Heat]]]:
    """Return the rows of the confusion matrix by the name of the true class; empty if there is none."""
    names = [score.name for score in summary.classes]
    return [
        (names[row], [_heat(names, row, column, counts) for column in range(len(names))])
        for row, counts in enumerate(summary.confusion or ())
    ]


def _heat(names: Sequence[str], row: int, column: int, counts: Sequence[int]) -> Heat:
    count, n = counts[column], sum(counts)
    title = f"true {names[row]}, predicted {names[column]}: {count:,} of {n:,}"
    kind = "right" if row == column else "wrong"
    return Heat(f"{count:,}" if count else "", title, kind, math.sqrt(count / n) if n else 0.0)


def dots(record: StudyRecord) -> list[Dot]:
    """The test split, then the winner and the baselines on the validation split, best first, with their intervals.

    Without the test split if its figure is of another metric.
    """
    best, unit, summary = winner(record), Unit.of(record), record.summary
    if best is None or best.value is None:
        return []
    rows = []
    test, metric = figures_on_test(record, summary), metric_of(record.metric)
    if test and (test.main.source.name == metric if metric else unit.percent):
        score = test.main.source
        rows.append(Dot("Winner, test", test.main.value, score.value, (score.low, score.high), "test"))
    name = "Winner" if record.is_function else "Winner, validation"
    name = "Winner, confirmed" if summary and summary.confirmed else name
    value, confirmed = (summary.score, summary.interval) if summary else (best.value, None)
    rows.append(Dot(name, unit.text(value), value, confirmed, "winner"))
    for row in gain_rows(_gains(record, best, value), unit):
        gain = row.source
        rows.append(Dot(gain.baseline, row.value, gain.value, gain=row.gain, is_doubtful=row.is_doubtful))
    return rows


def _gains(record: StudyRecord, best: TrialRecord, value: float) -> list[Gain]:
    """The gain over each completed baseline, best baseline first; without an interval if the summary lacks it."""
    direction = record.direction
    stored = {gain.number: gain for gain in (record.summary.gains if record.summary else ())}
    gains = [
        stored.get(trial.number) or Gain(trial.baseline, trial.number, trial.value, direction.gain(value, trial.value))
        for trial in record.trials
        if trial.baseline and trial.state == TrialState.COMPLETE and trial.value is not None and trial != best
    ]
    return sorted(gains, key=lambda gain: -direction.sign * gain.value)


def dots_axis(rows: Sequence[Dot]) -> Span:
    """Return the start and the length of an axis with room for all values and intervals."""
    values = [value for dot in rows for value in (dot.value, *(dot.interval or ()))] or [0.0]
    length = max(values) - min(values)
    return min(values) - 0.06 * length, 1.12 * length or 1.0


def headline(record: StudyRecord) -> Mapping[str, str]:
    """The big number of the page: `value`, its `name`, and what it rests on (`detail`)."""
    best, unit = winner(record), Unit.of(record)
    if test := figures_on_test(record, record.summary):
        detail = f"95% interval {test.main.interval} on {test.images} test images, {test.reads}"
        detail += f"; {test.constant}" if test.constant else ""
        return {"value": test.main.value, "name": f"test {test.main.name}", "detail": detail}
    if best is None:
        return {"value": "–", "name": unit.name, "detail": _why_no_value(record)}
    if (summary := record.summary) is None:
        detail = "best so far" if record.is_function else "best so far, not yet tested"
        return {"value": unit.text(best.value), "name": unit.name, "detail": detail}
    confirmed = f"confirmed; {unit.text(summary.value)} in the search" if summary.confirmed else "not confirmed"
    detail = confirmed if record.is_function else f"{confirmed}, no test split"
    return {"value": unit.text(summary.score), "name": unit.name, "detail": detail}


def _why_no_value(record: StudyRecord) -> str:
    n = len(record.trials)
    if not n:
        return "The search has not started a trial yet."
    if record.count(TrialState.FAIL) == n:
        return f"All {n} trials failed; see Failures below."
    return f"All {n} trials were pruned." if record.count(TrialState.PRUNED) == n else "No trial has completed yet."


def states(record: StudyRecord) -> list[Part]:
    """Count the trials in each state."""
    counts = [(name, record.count(state)) for state, (name, _) in STATES.items()]
    return [Part(_word(record, name), f"{n:,}", 100 * n / len(record.trials), name) for name, n in counts if n]


def _word(record: StudyRecord, state: str) -> str:
    return "interrupted" if state == "running" and record.state is State.STOPPED else state


def leaderboard(record: StudyRecord, first: Sequence[str] = ()) -> tuple[list[str], list[list[Cell]]]:
    """Return column names and at most `MAX_ROWS` rows: best trials first, trials without a value last.

    The parameters in `first` come first, the others after them by name. Trials of other programs are last, unranked.
    """
    others = [*(trial for trial in record.trials if trial.value is None), *record.foreign]
    names = [*first, *sorted({name for trial in record.all_trials for name in trial.params} - set(first))]
    unit, best = Unit.of(record), winner(record)
    metric = unit.title
    columns = ["Rank", "Trial", "Configuration", "State", metric, "Epochs", "Training", "Weights", *names]
    rows = []
    for rank, trial in enumerate([*record.ranked(), *others][:MAX_ROWS], start=1):
        params = [_param(trial.params[name]) if name in trial.params else Cell("") for name in names]
        state = STATES[trial.state][0]
        state = state if trial.foreign else _word(record, state)
        rows.append([*_standing(trial, rank, unit, state, is_best=trial == best), *params])
    used = [any(row[i].text for row in rows) or name not in ("Epochs", "Weights") for i, name in enumerate(columns)]
    return list(compress(columns, used)), [list(compress(row, used)) for row in rows]


def _standing(trial: TrialRecord, rank: int, unit: Unit, state: str, *, is_best: bool) -> list[Cell]:
    epochs, seconds, weights = (cost(trial, key) or None for key in ("epochs", "train_seconds", "parameters"))
    seconds = seconds or trial.seconds
    remarks = [trial.label, f"baseline {trial.baseline}" if trial.baseline else "", "winner" if is_best else ""]
    return [
        Cell("", None) if trial.value is None or trial.foreign else Cell(f"{rank}", rank),
        Cell(f"#{trial.number}", trial.number),
        Cell(" · ".join(filter(None, remarks)), trial.label or None),
        Cell(state, state),
        Cell("" if trial.value is None else unit.text(trial.value), trial.value),
        Cell(f"{epochs:g}" if epochs else "", epochs),
        Cell(duration(seconds) if seconds else "", seconds),
        Cell(f"{weights:,.0f}" if weights else "", weights),
    ]


def _param(value: object) -> Cell:
    return Cell(readable(value, digits=4), value if isinstance(value, int | float | str | None) else str(value))


def failures(record: StudyRecord) -> list[dict[str, Any]]:
    """Group failed trials by kind, the most frequent first, with their different messages."""
    kinds: dict[str, dict[str, list[int]]] = {}
    for trial in record.trials:
        if trial.state == TrialState.FAIL:
            messages = kinds.setdefault((trial.failure or "unknown").replace("_", " "), {})
            messages.setdefault((trial.failure_message or "no message")[:2_000], []).append(trial.number)
    groups = [
        {
            "kind": kind,
            "n": sum(map(len, messages.values())),
            "messages": [(text, _numbered(numbers)) for text, numbers in list(messages.items())[:MAX_MESSAGES]],
            "left_out": max(0, len(messages) - MAX_MESSAGES),
        }
        for kind, messages in kinds.items()
    ]
    return sorted(groups, key=lambda group: (-group["n"], group["kind"]))


def _numbered(numbers: Sequence[int], limit: int = 12) -> str:
    shown = ", ".join(f"#{number}" for number in numbers[:limit])
    return shown + (f" and {len(numbers) - limit} more" if len(numbers) > limit else "")


def provenance(record: StudyRecord) -> list[tuple[str, str]]:
    """Return the provenance as (name, text) pairs, without the counts of the classes, which the header describes."""
    values = dict(record.provenance)
    later = {f"command {number}": command for number, command in enumerate(values.pop("later_commands", ()), start=2)}
    values = {"command": values.pop("command", None)} | later | values
    if isinstance(dataset := values.get("dataset"), Mapping):
        values["dataset"] = {name: value for name, value in dataset.items() if name != "classes"}
    return flat(values)


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested mappings to (name, text) pairs; empty values are left out."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            rows += flat(value, f"{name} · ")
        elif isinstance(value, list | tuple):
            rows.append((name, ", ".join(map(str, value))))
        elif value not in (None, ""):
            rows.append((name, readable(value, digits=4)))
    return rows
