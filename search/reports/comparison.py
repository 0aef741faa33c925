"""Several studies side by side: their best values over trials and over time, and one row for each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from optuna.trial import TrialState

from search.common.text import duration
from search.reports.elements import Chart, Unit, focus, plain, winner
from search.reports.style import SERIES, Figure, axes
from search.reports.tables import Cell
from search.reports.timing import SearchTime, training_s, wall_s
from search.study.records import StudyRecord, TrialRecord

Position = Callable[[TrialRecord], float]
"""Where a trial lies on the axis; called once for each trial, in order of their ends."""


def best_by_trials(records: Sequence[StudyRecord]) -> Chart:
    """Draw the best value so far over the number of finished trials, one line per study."""

    def counting(_: StudyRecord) -> Position:
        numbers = itertools.count(1)
        return lambda _: next(numbers)

    return _compared("compared-trials", "Best value by trials", "finished trials", records, counting)


def best_by_time(records: Sequence[StudyRecord]) -> Chart:
    """Draw the best value so far over minutes of search, one line per study."""

    def timing(record: StudyRecord) -> Position:
        time = SearchTime.of(record.trials)
        return lambda trial: time.at(trial.ended) / 60 if trial.ended else 0.0

    return _compared("compared-time", "Best value by time", "minutes of search, without pauses", records, timing)


def _compared(
    key: str, title: str, axis: str, records: Sequence[StudyRecord], position: Callable[[StudyRecord], Position]
) -> Chart:
    unit = Unit.of(records[0])
    colours = itertools.cycle(SERIES)
    traces = [_best_so_far(record, next(colours), position(record)) for record in records]
    chart = Chart(key, title, f"Best {unit.name} so far.")
    if not any(trace["x"] for trace in traces):
        return replace(chart, note="No trial of these studies has completed yet.")
    span = focus([y for trace in traces for y in trace["y"]], maximize=records[0].maximize)
    layout = axes(axis, unit.name, ytick=unit.tick, yrange=span) | {"showlegend": True}
    return replace(chart, figure={"data": traces, "layout": layout})


def _best_so_far(record: StudyRecord, colour: str, position: Position) -> Figure:
    better = max if record.maximize else min
    ended = sorted((t for t in record.trials if t.ended), key=lambda t: (t.ended or datetime.min, t.number))
    x: list[float] = []
    y: list[float] = []
    for trial in ended:
        at = position(trial)
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            x.append(at)
            y.append(better(trial.value, y[-1]) if y else trial.value)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(record.name, 40),
        "x": x,
        "y": y,
        "line": {"color": colour, "width": 2.4, "shape": "hv"},
        "hovertemplate": f"{plain(record.name, 40)}: %{{y}}<extra></extra>",
    }


def comparison(records: Sequence[StudyRecord]) -> list[list[Cell]]:
    """One row per study: name, trials, winner, validation, test, wall time, training time."""
    return [_row(record) for record in records]


def _row(record: StudyRecord) -> list[Cell]:
    best, summary = winner(record), record.summary
    test = (summary.test if summary else None) or {}
    tested = f"{test['accuracy']:.2%} ({test['low']:.2%} – {test['high']:.2%})" if test else "–"
    score = summary.score if summary else best.value if best else None
    return [
        Cell(record.name, record.name),
        Cell(f"{record.finished:,}", record.finished),
        Cell(f"#{best.number} {best.label}" if best else "–", best.label if best else None),
        Cell(Unit.of(record).text(score), score),
        Cell(tested, test.get("accuracy")),
        Cell(duration(wall_s(record)), wall_s(record)),
        Cell(duration(training_s(record)), training_s(record)),
    ]
