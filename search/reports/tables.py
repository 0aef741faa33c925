"""The words and numbers of the report: its first screen, leaderboard, failures, provenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState

from search.common.text import duration
from search.reports.charts import cost
from search.reports.elements import STATE_NAMES, Part, Unit, winner
from search.study.presenter import accuracy_on_test, gain_rows
from search.study.records import StudyRecord, TrialRecord
from search.study.summary import Gain

MAX_ROWS = 1_000
SHARES = ("accuracy", "low", "high")
"""Keys of the test score that are shares of images."""


@dataclass(frozen=True)
class Cell:
    """One cell of a sortable table."""

    text: str
    sort: float | str | None = None
    """What it is sorted by; None sorts last in both directions."""


@dataclass(frozen=True)
class Dot:
    """One row of the dot plot that compares the winner with the baselines; positions in percent of the width."""

    label: str
    text: str
    gain: str
    at: float
    low: float | None = None
    high: float | None = None
    kind: str = "baseline"
    is_doubtful: bool = False
    """The winner is behind, or the gain may be chance."""


# First screen -----------------------------------------------------------------------------------------------------


def dots(record: StudyRecord) -> list[Dot]:
    """Test accuracy, then the winner and the baselines on the validation split, best first, with their intervals."""
    first, unit, test = winner(record), Unit.of(record), _test(record)
    if first is None or first.value is None:
        return []
    summary = record.summary
    value, interval = (summary.score, summary.interval) if summary else (first.value, None)
    gains = _gains(record, first, value)
    at = _positions([value, *(interval or ()), *(gain.value for gain in gains), *(test[key] for key in SHARES if test)])
    rows = []
    if test:
        ends = at(test["low"]), at(test["high"])
        rows.append(Dot("Winner, test", f"{test['accuracy']:.2%}", "", at(test["accuracy"]), *ends, "test"))
    name = "Winner, confirmed" if summary and summary.confirmed else "Winner, validation"
    low, high = map(at, interval) if interval else (None, None)
    rows.append(Dot(name, unit.text(value), "", at(value), low, high, "winner"))
    for gain in gain_rows(gains, unit):
        position = at(gain.source.value)
        rows.append(Dot(gain.source.baseline, gain.value, gain.gain, position, is_doubtful=gain.is_doubtful))
    return rows


def _gains(record: StudyRecord, first: TrialRecord, value: float) -> list[Gain]:
    """The gain over each completed baseline, best baseline first; without an interval if the summary lacks it."""
    known = {gain.number: gain for gain in (record.summary.gains if record.summary else ())}
    sign = 1 if record.maximize else -1
    gains = [
        known.get(trial.number) or Gain(trial.baseline, trial.number, trial.value, sign * (value - trial.value))
        for trial in record.trials
        if trial.baseline and trial.state == TrialState.COMPLETE and trial.value is not None and trial != first
    ]
    return sorted(gains, key=lambda gain: -sign * gain.value)


def _positions(ends: Sequence[float]) -> Callable[[float], float]:
    """Return a function that gives a value's place between the smallest and the largest, in percent of the width."""
    low, high = min(ends), max(ends)
    low, span = low - 0.06 * (high - low), 1.12 * (high - low) or 1.0
    return lambda value: round(100 * (value - low) / span, 2)


def _test(record: StudyRecord) -> Mapping[str, float]:
    return (record.summary.test if record.summary else None) or {}


def headline(record: StudyRecord) -> Mapping[str, str]:
    """The big number of the page: `value`, what it is (`name`), and what it rests on (`detail`)."""
    first, unit = winner(record), Unit.of(record)
    if test := accuracy_on_test(record, record.summary):
        detail = f"95% interval {test.interval} on {test.images} test images, {test.reads}"
        return {"value": test.accuracy, "name": "test accuracy", "detail": detail}
    if first is None:
        return {"value": "–", "name": unit.name, "detail": _nothing(record)}
    detail = "no test split" if record.summary else "best so far, not yet tested"
    return {"value": unit.text(first.value), "name": unit.name, "detail": detail}


def _nothing(record: StudyRecord) -> str:
    if not record.trials:
        return "The search has not started a trial yet."
    failed, pruned = record.count(TrialState.FAIL), record.count(TrialState.PRUNED)
    if failed == len(record.trials):
        return f"All {failed} trials failed; see Failures below."
    if pruned == len(record.trials):
        return f"All {pruned} trials were pruned."
    return "No trial has completed yet."


def states(record: StudyRecord) -> list[Part]:
    """Trials by state."""
    colours = {"complete": "accent", "pruned": "prune", "failed": "bad", "running": "good", "waiting": "soft"}
    counts = [(name, record.count(state)) for state, name in STATE_NAMES.items()]
    n = max(1, len(record.trials))
    return [Part(name, f"{count:,}", 100 * count / n, colours[name]) for name, count in counts if count]


# Tables -----------------------------------------------------------------------------------------------------------


def leaderboard(record: StudyRecord, first: Sequence[str] = ()) -> tuple[list[str], list[list[Cell]]]:
    """Return column names and at most `MAX_ROWS` rows: best trials first, trials without a value last.

    The parameters in `first` come first, the others after them by name.
    """
    rest = [trial for trial in record.trials if trial.value is None]
    names = list(first) + sorted({name for trial in record.trials for name in trial.params} - set(first))
    unit, best = Unit.of(record), winner(record)
    metric = unit.name.capitalize()
    columns = ["Rank", "Trial", "Configuration", "State", metric, "Epochs", "Training", "Weights", *names]
    rows = []
    for rank, trial in enumerate([*record.ranked(), *rest][:MAX_ROWS], start=1):
        placed = rank if trial.value is not None else None
        rows.append([*_standing(trial, placed, unit, is_best=trial == best), *_params(trial, names)])
    return columns, rows


def _standing(trial: TrialRecord, rank: int | None, unit: Unit, *, is_best: bool) -> list[Cell]:
    epochs, seconds, weights = (cost(trial, key) or None for key in ("epochs", "train_seconds", "parameters"))
    seconds = seconds or trial.seconds
    label = trial.label + (f" · baseline {trial.baseline}" if trial.baseline else "") + (" · winner" if is_best else "")
    return [
        Cell(f"{rank}" if rank else "", rank),
        Cell(f"#{trial.number}", trial.number),
        Cell(label.removeprefix(" · "), trial.label or None),
        Cell(STATE_NAMES[trial.state], STATE_NAMES[trial.state]),
        Cell(unit.text(trial.value) if trial.value is not None else "", trial.value),
        Cell(f"{epochs:g}" if epochs else "", epochs),
        Cell(duration(seconds) if seconds else "", seconds),
        Cell(amount(weights), weights),
    ]


def _params(trial: TrialRecord, names: Sequence[str]) -> list[Cell]:
    return [
        Cell(short(trial.params[name]), _sort_key(trial.params[name])) if name in trial.params else Cell("")
        for name in names
    ]


def _sort_key(value: object) -> float | str | None:
    return value if value is None or isinstance(value, int | float | str) else str(value)


def short(value: object) -> str:
    """Format a parameter in a few characters; exponents have no padding, as in `3.1e-3`."""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    if value != 0 and (abs(value) < 1e-2 or abs(value) >= 1e5):
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def amount(count: float | None) -> str:
    """Format a number of weights, as in `421 k`."""
    if not count:
        return ""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:g}"


def failures(record: StudyRecord) -> list[dict[str, Any]]:
    """Group failed trials by kind, the most frequent first, with their different messages."""
    kinds: dict[str, list[TrialRecord]] = {}
    for trial in record.trials:
        if trial.state == TrialState.FAIL:
            kinds.setdefault(trial.failure or "unknown", []).append(trial)
    ordered = sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
    return [{"kind": kind.replace("_", " "), "n": len(failed), **_messages(failed)} for kind, failed in ordered]


def _messages(failed: Sequence[TrialRecord], limit: int = 20) -> dict[str, Any]:
    by_message: dict[str, list[int]] = {}
    for trial in failed:
        by_message.setdefault((trial.failure_message or "no message")[:2_000], []).append(trial.number)
    shown = [
        {"text": text, "n": len(numbers), "trials": numbered(numbers)}
        for text, numbers in list(by_message.items())[:limit]
    ]
    return {"messages": shown, "left_out": len(by_message) - len(shown)}


def numbered(numbers: Sequence[int], limit: int = 12) -> str:
    """List trial numbers, and count those beyond the limit."""
    shown = ", ".join(f"#{number}" for number in numbers[:limit])
    return shown + (f" and {len(numbers) - limit} more" if len(numbers) > limit else "")


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
            rows.append((name, short(value)))
    return rows
