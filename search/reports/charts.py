"""The report's own charts of trials: the best curves, and what good values cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optuna.trial import TrialState

from search.reports.elements import Chart, Steps, Unit, excerpt, focus, focus_hint, plain, titled, winner
from search.reports.style import ACCENT, BAD, CLEAR, PRUNE, SHADES, SOFT, Figure, axes
from search.study.records import FINGERPRINT, StudyRecord, TrialRecord
from search.study.space.limits import Limits

MAX_POINTS = 1_500
"""Trials drawn in one chart."""


def best_curves(record: StudyRecord, count: int = 10) -> Chart:
    """Overlay the reports of the best trials; the winner stands out."""
    unit, steps, first = Unit.of(record), Steps.of(record), winner(record)
    best = [trial for trial in record.ranked() if trial.intermediate][:count]
    span = focus([value for t in best for value in t.intermediate.values()], maximize=record.maximize)
    caption = f"{unit.name.capitalize()} by {steps.name}." + focus_hint(span)
    chart = Chart("best-curves", f"The best {len(best)} trials", caption, wide=True, height_px=400)
    if not best:
        return replace(chart, note="No trial has reported a value yet.")
    traces = [_curve(trial, rank, steps, is_first=trial == first) for rank, trial in enumerate(best)]
    layout = axes(steps.name, unit.name, ytick=unit.tick, yrange=span)
    layout["legend"] = {"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top", "traceorder": "reversed"}
    return replace(chart, figure={"data": traces[::-1], "layout": layout})


def _curve(trial: TrialRecord, rank: int, steps: Steps, *, is_first: bool) -> Figure:
    points = sorted(trial.intermediate.items())
    colour = ACCENT if is_first else SHADES[min(rank // 2, len(SHADES) - 1)]
    return {
        "type": "scatter",
        "mode": "lines" if len(points) > 1 else "markers",
        "name": titled(trial),
        "x": [steps.at(step) for step, _ in points],
        "y": [value for _, value in points],
        "line": {"color": colour, "width": 3.2 if is_first else 1.6},
        "marker": {"color": colour},
        "hovertemplate": f"{titled(trial)}<br>%{{y}} at {steps.name} %{{x:.3~g}}<extra></extra>",
    }


def against_cost(record: StudyRecord, key: str, title: str, axis: str) -> Chart:
    """Draw values over a cost in `TrialRecord.metrics`, with Pareto front, winner, baselines and limit."""
    unit = Unit.of(record)
    done = [t for t in record.trials if t.state == TrialState.COMPLETE and t.value is not None and cost(t, key)]
    span = _with_baselines(focus([t.value for t in done if t.value is not None], maximize=record.maximize), done)
    limit = Limits.of(record.attrs.get(FINGERPRINT, {})).as_dict().get(key)
    caption = "The line joins the trials that no other beats at lower cost." + _limit_words(record, key, limit)
    chart = Chart(f"cost-{key.replace('_', '-')}", title, caption + focus_hint(span), height_px=380)
    if not done:
        return replace(chart, note=f"No completed trial has recorded {axis}.")
    front = pareto_front([t for t in done if t.feasible], key, maximize=record.maximize)
    done = excerpt(record.ranked(done), MAX_POINTS)
    traces = [*_groups(done, front, key), *_ring(winner(record), done, key)]
    if limit is not None:
        traces.append(_limit_line(limit, [t.value for t in done if t.value is not None]))
    layout = axes(axis, unit.name, ytick=unit.tick, yrange=span)
    layout["xaxis"] |= _cost_axis([cost(t, key) for t in done])
    return replace(chart, figure={"data": [trace for trace in traces if trace["x"]], "layout": layout})


def _groups(done: Sequence[TrialRecord], front: Sequence[TrialRecord], key: str) -> list[Figure]:
    """One trace for each kind of trial, the Pareto front above the others."""
    others = [t for t in done if t not in front and not t.baseline and t.feasible]
    above = [t for t in done if not t.feasible]
    baselines = [t for t in done if t.baseline]
    line = {"mode": "lines+markers", "line": {"color": ACCENT, "width": 1.6, "shape": "hv"}}
    return [
        _points("trials", others, key, {"color": SOFT, "size": 6}),
        _points("above a limit", above, key, {"color": BAD, "size": 8, "symbol": "x"}),
        _points("baselines", baselines, key, {"color": PRUNE, "size": 9, "symbol": "diamond"}),
        _points("Pareto front", front, key, {"color": ACCENT, "size": 8}) | line,
    ]


def _ring(first: TrialRecord | None, done: Sequence[TrialRecord], key: str) -> list[Figure]:
    """A ring around the winner, if it is among the trials."""
    if first is None or first not in done:
        return []
    ring = {"color": CLEAR, "size": 15, "line": {"color": ACCENT, "width": 2}}
    return [_points("winner", [first], key, ring) | {"hoverinfo": "skip", "hovertemplate": None}]


def _points(name: str, trials: Sequence[TrialRecord], key: str, marker: Figure) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "marker": marker,
        "text": [f"{titled(t)}{f'<br>baseline {plain(t.baseline)}' if t.baseline else ''}" for t in trials],
        "x": [cost(t, key) for t in trials],
        "y": [t.value for t in trials],
        "hovertemplate": "%{text}<br>%{y} at %{x:.3s}<extra></extra>",
    }


def _limit_words(record: StudyRecord, key: str, limit: float | None) -> str:
    """Explain the limit's line, and count the trials that were above it before training."""
    if limit is None:
        return ""
    rejected = sum(t.value is None and t.constraints.get(key, 0.0) > 0 for t in record.trials)
    more = f" {rejected} more above it, not trained." if rejected else ""
    return f" The dashed line is the limit, {limit:,g}.{more}"


def _limit_line(limit: float, values: Sequence[float]) -> Figure:
    """Draw a limit as a trace: on a logarithmic axis, plotly does not place its shapes by value."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "limit",
        "x": [limit] * 2,
        "y": [min(values), max(values)],
        "line": {"color": BAD, "width": 1.5, "dash": "dash"},
        "hoverinfo": "skip",
    }


def _with_baselines(span: tuple[float, float] | None, trials: Sequence[TrialRecord]) -> tuple[float, float] | None:
    """Widen a range so that it contains the baselines."""
    known = [t.value for t in trials if t.baseline and t.value is not None]
    if span is None or not known:
        return span
    spare = 0.04 * (max(span[1], *known) - min(span[0], *known))
    return min(span[0], min(known) - spare), max(span[1], max(known) + spare)


def _cost_axis(costs: Sequence[float]) -> Figure:
    """Use a logarithmic axis from a factor of five on, with ticks that leave room for their labels."""
    ratio = max(costs) / min(costs)
    if ratio < 5:
        return {"tickformat": "~s"}
    return {"type": "log", "tickformat": "~s", "dtick": "D2" if ratio < 100 else 1}


def cost(trial: TrialRecord, key: str) -> float:
    """Return a positive number from the trial's metrics, or 0."""
    value = trial.metrics.get(key)
    return float(value) if isinstance(value, int | float) and value > 0 else 0.0


def pareto_front(trials: Sequence[TrialRecord], key: str, *, maximize: bool) -> list[TrialRecord]:
    """Return the trials that no other beats in value at equal or lower cost, cheapest first."""
    sign = 1.0 if maximize else -1.0
    front: list[TrialRecord] = []
    for trial in sorted(trials, key=lambda t: (cost(t, key), -sign * (t.value or 0.0))):
        if not front or sign * (trial.value or 0.0) > sign * (front[-1].value or 0.0):
            front.append(trial)
    return front
