"""The report's own charts: the best curves, what accuracy costs, where the time went, studies side by side."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from optuna.trial import TrialState

from search.limits import Limits
from search.records import FINGERPRINT, StudyRecord, TrialRecord
from search.report_base import (
    STATE_COLOURS,
    STATE_NAMES,
    Chart,
    Steps,
    Unit,
    duration,
    excerpt,
    focus,
    focus_hint,
    plain,
    titled,
    winner,
)
from search.report_plotly import MARGIN, Figure, legend

MAX_POINTS = 1_500
"""Trials drawn in one chart."""


def best_curves(record: StudyRecord, count: int = 10) -> Chart:
    """Intermediate values of the best trials, overlaid; the winner stands out."""
    unit, steps, first = Unit.of(record), Steps.of(record), winner(record)
    best = [trial for trial in record.ranked() if trial.intermediate][:count]
    span = focus([value for t in best for value in t.intermediate.values()], maximize=record.maximize)
    chart = Chart("best-curves", f"The best {len(best)} trials", f"{unit.name.capitalize()} by {steps.name}."
                  + focus_hint(span), wide=True, height_px=400)  # fmt: skip
    if not best:
        return replace(chart, note="No trial has reported a value yet.")
    traces = [_curve(trial, rank, steps, is_first=trial == first) for rank, trial in enumerate(best)]
    layout = _axes(steps.name, unit.name, ytick=unit.tick) | {"legend": {"traceorder": "reversed"}}
    if span:
        layout["yaxis"]["range"] = list(span)
    return _drawn(chart, traces[::-1], layout)


def _curve(trial: TrialRecord, rank: int, steps: Steps, *, is_first: bool) -> Figure:
    points = sorted(trial.intermediate.items())
    return {
        "type": "scatter", "mode": "lines" if len(points) > 1 else "markers", "name": titled(trial),
        "x": [steps.at(step) for step, _ in points], "y": [value for _, value in points],
        "line": {"color": "@accent" if is_first else f"@s{max(4, 9 - rank)}", "width": 3.2 if is_first else 1.6},
        "marker": {"color": "@accent" if is_first else f"@s{max(4, 9 - rank)}"},
        "hovertemplate": f"{titled(trial)}<br>%{{y}} at {steps.name} %{{x:.3~g}}<extra></extra>",
    }  # fmt: skip


def against_cost(record: StudyRecord, key: str, title: str, axis: str) -> Chart:
    """Values over a cost in `TrialRecord.metrics`; the Pareto front is drawn, the winner ringed, baselines named."""
    unit, first = Unit.of(record), winner(record)
    done = [t for t in record.trials if t.state == TrialState.COMPLETE and t.value is not None and cost(t, key)]
    span = _with_baselines(focus([t.value for t in done if t.value is not None], maximize=record.maximize), done)
    limit = Limits.of(record.attrs.get(FINGERPRINT, {})).as_dict().get(key)
    caption = "The line joins the trials that no other beats at lower cost." + _limit_words(record, key, limit)
    caption += focus_hint(span)
    chart = Chart(f"cost-{key.replace('_', '-')}", title, caption, height_px=380)
    if not done:
        return replace(chart, note=f"No completed trial has recorded {axis}.")
    within = [t for t in done if t.feasible]
    front = pareto_front(within, key, maximize=record.maximize)
    done = excerpt(record.ranked(done), MAX_POINTS)
    others = [t for t in done if t not in front and not t.baseline and t.feasible]
    above = [t for t in done if not t.feasible]
    traces = [
        _points("trials", others, key, {"color": "@soft", "size": 6}),
        _points("above a limit", above, key, {"color": "@bad", "size": 8, "symbol": "x"}),
        _points("baselines", [t for t in done if t.baseline], key, {"color": "@prune", "size": 9, "symbol": "diamond"}),
        _points("Pareto front", front, key, {"color": "@accent", "size": 8})
        | {"mode": "lines+markers", "line": {"color": "@accent", "width": 1.6, "shape": "hv"}},
    ]
    if first in done and first is not None:
        ring = {"color": "rgba(0,0,0,0)", "size": 15, "line": {"color": "@accent", "width": 2}}
        traces.append(_points("winner", [first], key, ring) | {"hoverinfo": "skip", "hovertemplate": None})
    layout = _axes(axis, unit.name, ytick=unit.tick) | {"legend": legend()}
    layout["xaxis"] |= _cost_axis([cost(t, key) for t in done])
    if limit is not None:
        traces.append(_limit_line(limit, [t.value for t in done if t.value is not None]))
    if span:
        layout["yaxis"]["range"] = list(span)
    return _drawn(chart, [trace for trace in traces if trace["x"]], layout)


def _limit_words(record: StudyRecord, key: str, limit: float | None) -> str:
    """What to tell the reader about a limit: where it lies, and what was refused for it before it was trained."""
    if limit is None:
        return ""
    refused = sum(t.value is None and t.constraints.get(key, 0.0) > 0 for t in record.trials)
    return f" The dashed line is the limit, {limit:,g}." + (
        f" Refused above it, before training: {refused}." if refused else ""
    )


def _limit_line(limit: float, values: Sequence[float]) -> Figure:
    """A trace, and not one of plotly's shapes: on a logarithmic axis those are not placed by their values."""
    return {"type": "scatter", "mode": "lines", "name": "limit", "x": [limit] * 2, "y": [min(values), max(values)],
            "line": {"color": "@bad", "width": 1.5, "dash": "dash"}, "hoverinfo": "skip"}  # fmt: skip


def _with_baselines(span: tuple[float, float] | None, trials: Sequence[TrialRecord]) -> tuple[float, float] | None:
    """Widen the shown range so that baselines are on it."""
    known = [t.value for t in trials if t.baseline and t.value is not None]
    if span is None or not known:
        return span
    spare = 0.04 * (max(span[1], *known) - min(span[0], *known))
    return min(span[0], min(known) - spare), max(span[1], max(known) + spare)


def _cost_axis(costs: Sequence[float]) -> Figure:
    """Logarithmic from a factor of five on, with ticks that leave room for their labels."""
    ratio = max(costs) / min(costs)
    if ratio < 5:
        return {"tickformat": "~s"}
    return {"type": "log", "tickformat": "~s", "dtick": "D2" if ratio < 100 else 1}


def cost(trial: TrialRecord, key: str) -> float:
    """A positive figure from the trial's metrics, else 0."""
    value = trial.metrics.get(key)
    return float(value) if isinstance(value, int | float) and value > 0 else 0.0


def pareto_front(trials: Sequence[TrialRecord], key: str, *, maximize: bool) -> list[TrialRecord]:
    """The trials that no other one beats in value at equal or lower cost, cheapest first."""
    sign = 1.0 if maximize else -1.0
    front: list[TrialRecord] = []
    for trial in sorted(trials, key=lambda t: (cost(t, key), -sign * (t.value or 0.0))):
        if not front or sign * (trial.value or 0.0) > sign * (front[-1].value or 0.0):
            front.append(trial)
    return front


def _points(name: str, trials: Sequence[TrialRecord], key: str, marker: Figure) -> Figure:
    texts = [f"{titled(t)}{f'<br>baseline {plain(t.baseline)}' if t.baseline else ''}" for t in trials]
    return {
        "type": "scatter", "mode": "markers", "name": name, "marker": marker, "text": texts,
        "x": [cost(t, key) for t in trials], "y": [t.value for t in trials],
        "hovertemplate": "%{text}<br>%{y} at %{x:.3s}<extra></extra>",
    }  # fmt: skip


# Time -------------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds of search, with the pauses between sessions cut out."""

    def __init__(self, trials: Sequence[TrialRecord]) -> None:
        """Find the stretches in which at least one of `trials` ran."""
        spans = sorted((t.started, t.ended or t.started) for t in trials if t.started)
        self.blocks: list[tuple[datetime, datetime, float]] = []
        self.total_s = 0.0
        busy = sum((ended - started).total_seconds() for started, ended in spans)
        self.pause_s = max(30.0, 0.05 * busy)
        for started, ended in spans:
            self._add(started, ended)

    def _add(self, started: datetime, ended: datetime) -> None:
        if self.blocks and (started - self.blocks[-1][1]).total_seconds() <= self.pause_s:
            first, last, offset = self.blocks[-1]
            self.blocks[-1] = (first, max(last, ended), offset)
        else:
            self.blocks.append((started, ended, self.total_s))
        first, last, offset = self.blocks[-1]
        self.total_s = offset + (last - first).total_seconds()

    def stretches(self, trials: Sequence[TrialRecord]) -> list[list[int]]:
        """Numbers of the trials that started within each stretch without a pause."""
        begun = [(t.number, t.started) for t in trials if t.started]
        return [[number for number, at in begun if first <= at <= last] for first, last, _ in self.blocks]

    def __call__(self, moment: datetime) -> float:
        """Seconds of search before `moment`."""
        first, last, offset = next((b for b in reversed(self.blocks) if b[0] <= moment), self.blocks[0])
        return offset + max(0.0, (min(moment, last) - first).total_seconds())


def trainers(record: StudyRecord) -> Chart:
    """What each trainer did when."""
    ran = [t for t in record.trials if t.slot is not None and t.started and t.ended][-MAX_POINTS:]
    slots = sorted({t.slot for t in ran if t.slot is not None})
    chart = Chart("trainers", "Trainers over time", "One row per trainer, one bar per trial; gaps are idle time.",
                  height_px=110 + 40 * max(1, len(slots)), wide=True)  # fmt: skip
    if not ran:
        return replace(chart, note="No finished trial says which trainer ran it.")
    clock = Clock(ran)
    unit_s, name = (60.0, "minutes") if clock.total_s > 180 else (1.0, "seconds")
    rows = {slot: _row(slot, [t for t in ran if t.slot == slot], clock.total_s) for slot in slots}
    traces = [_bars(state, [t for t in ran if t.state == state], rows, clock, unit_s) for state in STATE_COLOURS]
    cut = ", pauses cut out" if len(clock.blocks) > 1 else ""
    layout = _axes(f"{name} of search{cut}", "") | {"barmode": "overlay", "bargap": 0.35, "legend": legend()}
    layout["yaxis"] = {"showgrid": False, "autorange": "reversed", "type": "category",
                       "categoryarray": list(rows.values()), "categoryorder": "array"}  # fmt: skip
    return _drawn(chart, [trace for trace in traces if trace["y"]], layout)


def _row(slot: int, ran: Sequence[TrialRecord], total_s: float) -> str:
    busy_s = sum(t.seconds or 0.0 for t in ran)
    return f"{slot} · {min(1.0, busy_s / total_s):.0%} busy" if total_s else f"{slot}"


def _bars(
    state: TrialState, trials: Sequence[TrialRecord], rows: dict[int, str], clock: Clock, unit_s: float
) -> Figure:
    starts = [clock(t.started) for t in trials if t.started]
    ends = [clock(t.ended) for t in trials if t.ended]
    return {
        "type": "bar", "orientation": "h", "name": STATE_NAMES[state], "y": [rows[t.slot or 0] for t in trials],
        "base": [start / unit_s for start in starts],
        "x": [(end - start) / unit_s for start, end in zip(starts, ends, strict=True)],
        "marker": {"color": STATE_COLOURS[state], "line": {"color": "@paper", "width": 0.7}},
        "text": [f"{titled(t)}, {duration(t.seconds)}" for t in trials], "textposition": "none",
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


# Studies side by side ---------------------------------------------------------------------------------------------


def compared_by_trials(records: Sequence[StudyRecord]) -> Chart:
    """Best value so far over the number of finished trials, one line per study."""

    def counted(_: StudyRecord) -> Callable[[TrialRecord], float]:
        numbers = itertools.count(1)
        return lambda _: next(numbers)

    return _compared("compared-trials", "Best value by trials", "finished trials", records, counted)


def compared_by_time(records: Sequence[StudyRecord]) -> Chart:
    """Best value so far over minutes of search, one line per study."""

    def clocked(record: StudyRecord) -> Callable[[TrialRecord], float]:
        clock = Clock(record.trials)
        return lambda trial: clock(trial.ended) / 60 if trial.ended else 0.0

    return _compared("compared-time", "Best value by time", "minutes of search, pauses cut out", records, clocked)


def _compared(
    key: str, title: str, axis: str, records: Sequence[StudyRecord],
    position: Callable[[StudyRecord], Callable[[TrialRecord], float]],
) -> Chart:  # fmt: skip
    unit = Unit.of(records[0])
    traces = [_best_so_far(record, f"@c{i % 6}", position(record)) for i, record in enumerate(records)]
    chart = Chart(key, title, f"Best {unit.name} so far.")
    if not any(trace["x"] for trace in traces):
        return replace(chart, note="No trial of these studies has completed yet.")
    span = focus([y for trace in traces for y in trace["y"]], maximize=records[0].maximize)
    layout = _axes(axis, unit.name, ytick=unit.tick) | {"legend": legend(), "showlegend": True}
    if span:
        layout["yaxis"]["range"] = list(span)
    return _drawn(chart, traces, layout)


def _best_so_far(record: StudyRecord, colour: str, position: Callable[[TrialRecord], float]) -> Figure:
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
        "type": "scatter", "mode": "lines", "name": plain(record.name, 40), "x": x, "y": y,
        "line": {"color": colour, "width": 2.4, "shape": "hv"},
        "hovertemplate": f"{plain(record.name, 40)}: %{{y}}<extra></extra>",
    }  # fmt: skip


def _axes(x: str, y: str, *, ytick: str = "") -> Figure:
    return {
        "xaxis": {"title": {"text": x}, "showgrid": False},
        "yaxis": {"title": {"text": y}, "tickformat": ytick},
        "margin": MARGIN,
        "hovermode": "closest",
    }


def _drawn(chart: Chart, data: list[Figure], layout: Figure) -> Chart:
    return replace(chart, figure={"data": data, "layout": layout})
