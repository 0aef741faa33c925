"""Several studies side by side: their best values over trials and over time, and one row for each."""

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import accumulate

import plotly.graph_objects as go  # type: ignore[import-untyped]
from optuna.trial import TrialState

from search.common.text import duration
from search.reports.elements import Chart, Unit, escaped, focus, winner
from search.reports.tables import Cell
from search.reports.timing import SearchTime, training_s, wall_s
from search.study.records import StudyRecord, TrialRecord
from search.study.texts.tested import common_name, figures_on_test


def comparable(records: Sequence[StudyRecord]) -> list[StudyRecord]:
    """Return the studies whose values can be compared with those of the first: same metric, same direction."""
    return [record for record in records if _measure(record) == _measure(records[0])]


def left_out(records: Sequence[StudyRecord]) -> str:
    """Say which studies the charts leave out, and why; empty if none."""
    drawn = comparable(records)
    others = [f"{record.name} ({_measure(record)})" for record in records if record not in drawn]
    if not others:
        return ""
    return f"The charts show {_measure(records[0])}. They leave out studies of another metric: {', '.join(others)}."


def _measure(record: StudyRecord) -> str:
    return f"{Unit.of(record).name}, {'higher' if record.maximize else 'lower'} is better"


Positions = Callable[[Sequence[TrialRecord]], Sequence[float]]
"""Where finished trials, in order of their ends, lie on the axis."""


def best_by_trials(records: Sequence[StudyRecord]) -> Chart:
    """Draw the best value so far over the number of finished trials, one line per study."""
    key, title = "compared-trials", "Best value by trials"
    return _compared(key, title, "finished trials", records, lambda ended: range(1, len(ended) + 1))


def best_by_time(records: Sequence[StudyRecord]) -> Chart:
    """Draw the best value so far over minutes of search, one line per study."""
    return _compared("compared-time", "Best value by time", "minutes of search, without pauses", records, _minutes)


def _minutes(ended: Sequence[TrialRecord]) -> list[float]:
    time = SearchTime.of(ended)
    return [time.at(trial.ended) / 60 for trial in ended if trial.ended]


def _compared(key: str, title: str, axis: str, records: Sequence[StudyRecord], positions: Positions) -> Chart:
    unit = Unit.of(records[0])
    chart = Chart(key, title, f"Best {unit.name} so far.")
    lines = [_best_so_far(record, positions) for record in records]
    if not any(line.x for line in lines):
        return chart.missing("No trial of these studies has completed yet.")
    span = focus([y for line in lines for y in line.y], maximize=records[0].maximize)
    figure = go.Figure(lines).update_xaxes(title=axis).update_yaxes(unit.axis(span), title=unit.name)
    return chart.drawn(figure)


def _best_so_far(record: StudyRecord, positions: Positions) -> go.Scatter:
    ended = sorted((t for t in record.trials if t.ended), key=lambda t: (t.ended or datetime.min, t.number))
    placed = zip(positions(ended), ended, strict=True)
    points = [(x, t.value) for x, t in placed if t.state == TrialState.COMPLETE and t.value is not None]
    return go.Scatter(
        x=[x for x, _ in points],
        y=list(accumulate((value for _, value in points), max if record.maximize else min)),
        mode="lines",
        name=escaped(record.name, 40),
        line={"width": 2.4, "shape": "hv"},
        hovertemplate="%{fullData.name}: %{y}<extra></extra>",
    )


def table(records: Sequence[StudyRecord]) -> tuple[list[str], list[list[Cell]]]:
    """Return column names and one row for each study. Values of several metrics are named."""
    is_mixed = len(comparable(records)) < len(records)
    value = "Value" if is_mixed else Unit.of(records[0]).title
    name, name_each = common_name(figures_on_test(record, record.summary) for record in records)
    columns = ["Study", "Trials", "Winner", value, f"T{name[1:]} (95% interval)", "Wall time", "Training"]
    return columns, [_row(record, name_metric=is_mixed, name_test=name_each) for record in records]


def _row(record: StudyRecord, *, name_metric: bool, name_test: bool) -> list[Cell]:
    best, summary = winner(record), record.summary
    test = figures_on_test(record, summary)
    name = f" {test.main.name}" if test and name_test else ""
    tested = f"{test.main.value}{name} ({test.main.interval}){test.beside}" if test else "–"
    score = summary.score if summary else best.value if best else None
    return [
        Cell(record.name, record.name),
        Cell(f"{record.finished:,}", record.finished),
        Cell(f"#{best.number} {best.label}" if best else "–", best.label if best else None),
        Cell(f"{Unit.of(record).text(score)} {_measure(record) if name_metric else ''}".strip(), score),
        Cell(tested, test.main.source.value if test else None),
        Cell(duration(wall_s(record)), wall_s(record)),
        Cell(duration(training_s(record)), training_s(record)),
    ]
