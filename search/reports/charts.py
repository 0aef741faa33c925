"""The report's own charts of trials: the best curves, and what good values cost."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]
from optuna.trial import TrialState

from search.common.direction import Direction
from search.reports.elements import Chart, Span, Unit, escaped, excerpt, focus, focus_hint, trial_label, winner
from search.reports.style import ACCENT, ACCENT_SHADES, BAD, CLEAR, PRUNE, SOFT, Figure
from search.study.records import FINGERPRINT, STEPS_PER_EPOCH, StudyRecord, TrialRecord
from search.study.space.limits import Limits

MAX_POINTS = 1_500
"""Trials drawn in one chart."""


def best_curves(record: StudyRecord, count: int = 10) -> Chart:
    """Overlay the reports of the best trials; the winner stands out."""
    unit, best = Unit.of(record), winner(record)
    steps_per_epoch = None if record.is_function else record.attrs.get(STEPS_PER_EPOCH)
    axis = "epoch" if steps_per_epoch else "step"
    trials = [trial for trial in record.ranked() if trial.intermediate][:count]
    span = focus([value for t in trials for value in t.intermediate.values()], maximize=record.maximize)
    caption = f"{unit.title} by {axis}." + focus_hint(span)
    chart = Chart("best-curves", f"The best {len(trials)} trials", caption, wide=True, height_px=400)
    if not trials:
        return chart.missing("No trial has reported a value yet.")
    curves = [_curve(t, rank, steps_per_epoch or 1, is_winner=t == best) for rank, t in enumerate(trials)]
    figure = go.Figure(curves[::-1]).update_xaxes(title=axis).update_yaxes(unit.axis(span), title=unit.name)
    legend = {"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top", "traceorder": "reversed"}
    return chart.drawn(figure.update_layout(legend=legend))


def _curve(trial: TrialRecord, rank: int, steps_per_epoch: int, *, is_winner: bool) -> go.Scatter:
    steps = sorted(trial.intermediate)
    return go.Scatter(
        x=[step / steps_per_epoch for step in steps],
        y=[trial.intermediate[step] for step in steps],
        mode="lines" if len(steps) > 1 else "markers",
        name=trial_label(trial),
        line={"width": 3.2 if is_winner else 1.6},
        marker={"color": ACCENT if is_winner else ACCENT_SHADES[min(rank // 2, len(ACCENT_SHADES) - 1)]},
        hovertemplate="%{fullData.name}<br>%{y} at %{x:.3~g}<extra></extra>",
    )


def against_cost(record: StudyRecord, key: str, title: str, axis: str) -> Chart:
    """Draw values over a cost in `TrialRecord.metrics`, with Pareto front, winner, baselines and limit."""
    unit = Unit.of(record)
    completed = [t for t in record.trials if t.state == TrialState.COMPLETE and t.value is not None and cost(t, key)]
    span = _with_baselines(focus([t.value or 0.0 for t in completed], maximize=record.maximize), completed)
    limit = Limits.of(record.attrs.get(FINGERPRINT, {})).as_dict().get(key)
    caption = "The line joins the trials that no other trial beats at lower cost." + _limit_text(record, key, limit)
    chart = Chart(f"cost-{key.replace('_', '-')}", title, caption + focus_hint(span), height_px=380)
    if not completed:
        return chart.missing(f"No completed trial has recorded {axis}.")
    drawn = excerpt(record.ranked(completed), MAX_POINTS)
    figure = go.Figure([*_groups(record, drawn, completed, key), *_limit_line(limit, drawn)])
    figure.update_xaxes(_cost_axis([cost(t, key) for t in drawn]), title=axis)
    return chart.drawn(figure.update_yaxes(unit.axis(span), title=unit.name))


def _groups(
    record: StudyRecord, drawn: Sequence[TrialRecord], completed: Sequence[TrialRecord], key: str
) -> list[go.Scatter]:
    """Make one trace for each kind of trial, the Pareto front and the winner's ring above the others."""
    direction, best = record.direction, winner(record)
    front = pareto_front([t for t in completed if t.feasible], key, direction)
    others = [t for t in drawn if t not in front and not t.baseline and t.feasible]
    ring = {"color": CLEAR, "size": 15, "line": {"color": ACCENT, "width": 2}}
    steps = {"mode": "lines+markers", "line": {"color": ACCENT, "width": 1.6, "shape": "hv"}}
    groups = [
        _points("trials", others, key, {"color": SOFT, "size": 6}),
        _points("above a limit", [t for t in drawn if not t.feasible], key, {"color": BAD, "size": 8, "symbol": "x"}),
        _points("baselines", [t for t in drawn if t.baseline], key, {"color": PRUNE, "size": 9, "symbol": "diamond"}),
        _points("Pareto front", front, key, {"color": ACCENT, "size": 8}, **steps),
        _points("winner", [t for t in drawn if t == best], key, ring, hoverinfo="skip", hovertemplate=None),
    ]
    return [group for group in groups if group.x]


def _points(name: str, trials: Sequence[TrialRecord], key: str, marker: Figure, **options: Any) -> go.Scatter:
    x, y = [cost(t, key) for t in trials], [t.value for t in trials]
    text = [trial_label(t) + (f"<br>baseline {escaped(t.baseline)}" if t.baseline else "") for t in trials]
    defaults = {"mode": "markers", "hovertemplate": "%{text}<br>%{y} at %{x:.3s}<extra></extra>"}
    return go.Scatter(x=x, y=y, text=text, name=name, marker=marker, **(defaults | options))


def _limit_text(record: StudyRecord, key: str, limit: float | None) -> str:
    """Explain the limit's line, and count the trials above it, which were not trained."""
    if limit is None:
        return ""
    rejected = sum(t.value is None and t.constraints.get(key, 0.0) > 0 for t in record.trials)
    more = f" {rejected} more above it, not trained." if rejected else ""
    return f" The dashed line is the limit, {limit:,g}.{more}"


def _limit_line(limit: float | None, trials: Sequence[TrialRecord]) -> list[go.Scatter]:
    """Draw a limit as a trace: on a logarithmic axis, plotly does not place its shapes by value."""
    if limit is None:
        return []
    values, line = [t.value or 0.0 for t in trials], {"color": BAD, "width": 1.5, "dash": "dash"}
    y = [min(values), max(values)]
    return [go.Scatter(x=[limit, limit], y=y, mode="lines", name="limit", line=line, hoverinfo="skip")]


def _with_baselines(span: Span | None, trials: Sequence[TrialRecord]) -> Span | None:
    """Widen a range so that it contains the baselines."""
    values = [t.value for t in trials if t.baseline and t.value is not None]
    if span is None or not values:
        return span
    margin = 0.04 * (max(span[1], *values) - min(span[0], *values))
    return min(span[0], min(values) - margin), max(span[1], max(values) + margin)


def _cost_axis(costs: Sequence[float]) -> Figure:
    """Use a logarithmic axis from a factor of five on, with ticks that leave room for their labels."""
    ratio, tickformat = max(costs) / min(costs), "~s" if min(costs) >= 1 else "~g"
    if ratio < 5:
        return {"tickformat": tickformat}
    return {"type": "log", "tickformat": tickformat, "dtick": "D2" if ratio < 100 else 1}


def cost(trial: TrialRecord, key: str) -> float:
    """Return a positive number from the trial's metrics, or 0."""
    value = trial.metrics.get(key)
    return float(value) if isinstance(value, int | float) and value > 0 else 0.0


def pareto_front(trials: Sequence[TrialRecord], key: str, direction: Direction) -> list[TrialRecord]:
    """Return the trials that no other beats in value at equal or lower cost, cheapest first."""
    front: list[TrialRecord] = []
    for trial in sorted(trials, key=lambda t: (cost(t, key), -direction.sign * (t.value or 0.0))):
        if not front or direction.better(trial.value or 0.0, front[-1].value or 0.0):
            front.append(trial)
    return front
