"""Where the time of a search went: its wall time, its workers and its starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import plotly.graph_objects as go  # type: ignore[import-untyped]

from search.common.text import duration
from search.reports.charts import MAX_POINTS, cost
from search.reports.elements import Chart, Part, trial_label
from search.reports.style import PAPER, STATES
from search.study.records import EXTRA_TRAININGS, METRICS, StudyRecord, TrialRecord


@dataclass(frozen=True)
class SearchTime:
    """Seconds of search, without the pauses between its starts."""

    periods: Sequence[tuple[float, float]]
    """Starts and ends of the periods without a pause, in order, in seconds since 1970."""

    @classmethod
    def of(cls, trials: Sequence[TrialRecord]) -> SearchTime:
        """Find the periods in which trials ran. Only gaps above 30 s and 5% of all training count as pauses."""
        spans = sorted((t.started.timestamp(), t.started.timestamp() + (t.seconds or 0.0)) for t in trials if t.started)
        pause_s = max(30.0, 0.05 * sum(end - start for start, end in spans))
        periods: list[tuple[float, float]] = []
        for start, end in spans:
            if periods and start - periods[-1][1] <= pause_s:
                periods[-1] = periods[-1][0], max(periods[-1][1], end)
            else:
                periods.append((start, end))
        return cls(periods)

    @property
    def total_s(self) -> float:
        """Seconds of search in all."""
        return sum(end - start for start, end in self.periods)

    def at(self, moment: datetime) -> float:
        """Return the seconds of search before `moment`."""
        return sum(max(0.0, min(moment.timestamp(), end) - start) for start, end in self.periods)


def workers_over_time(record: StudyRecord) -> Chart:
    """Draw each worker's trials over time."""
    finished = [t for t in record.trials if t.slot is not None and t.started and t.ended][-MAX_POINTS:]
    slots = sorted({t.slot for t in finished if t.slot is not None})
    caption, height_px = "One row per worker, one bar per trial; gaps are idle time.", 110 + 40 * max(1, len(slots))
    chart = Chart("workers", "Workers over time", caption, height_px=height_px, wide=True)
    if not finished:
        return chart.missing("No finished trial names its worker.")
    time = SearchTime.of(finished)
    busy_s = {slot: sum(t.seconds or 0.0 for t in finished if t.slot == slot) for slot in slots}
    rows = {slot: f"{slot} · {min(1.0, busy_s[slot] / (time.total_s or 1.0)):.0%} busy" for slot in slots}
    unit_s, unit = (60.0, "minutes") if time.total_s > 180 else (1.0, "seconds")
    figure = go.Figure(layout={"barmode": "overlay", "bargap": 0.35})
    for state, (name, colour) in STATES.items():
        trials = [t for t in finished if t.state == state]
        starts = [time.at(t.started) / unit_s for t in trials if t.started]
        ends = [time.at(t.ended) / unit_s for t in trials if t.ended]
        if trials:
            figure.add_bar(
                orientation="h",
                name=name,
                y=[rows[t.slot or 0] for t in trials],
                base=starts,
                x=[end - start for start, end in zip(starts, ends, strict=True)],
                marker={"color": colour, "line": {"color": PAPER, "width": 0.7}},
                text=[f"{trial_label(t)}, {duration(t.seconds)}" for t in trials],
                textposition="none",
                hovertemplate="%{text}<extra></extra>",
            )
    figure.update_xaxes(title=f"{unit} of search{', without pauses' if len(time.periods) > 1 else ''}")
    order = {"type": "category", "categoryorder": "array", "categoryarray": list(rows.values())}
    return chart.drawn(figure.update_yaxes(order, autorange="reversed", showgrid=False))


def wall_s(record: StudyRecord) -> float | None:
    """Return the seconds that the search ran, summed over its starts."""
    return _total(record, "wall_s") or SearchTime.of(record.trials).total_s or None


def training_s(record: StudyRecord) -> float:
    """Return the seconds of training, summed over workers."""
    return sum(cost(trial, "train_seconds") or trial.seconds or 0.0 for trial in record.trials)


def confirming_s(record: StudyRecord) -> float:
    """Return the seconds of training that confirmed and refitted the winner, summed over workers."""
    trainings = record.attrs.get(EXTRA_TRAININGS, {}).values()
    return sum(training["attrs"].get(METRICS, {}).get("train_seconds") or 0.0 for training in trainings)


def _total(record: StudyRecord, key: str) -> float:
    """Sum a figure over the starts of the search."""
    return sum(session.get(key) or 0.0 for session in record.sessions)


def costs(record: StudyRecord) -> list[tuple[str, str]]:
    """Return what the search cost, as (name, amount)."""
    training, confirming = training_s(record), confirming_s(record)
    ended = [trial.seconds for trial in record.trials if trial.seconds]
    rows = [("wall time", duration(wall_s(record))), ("training of trials, all workers", duration(training or None))]
    if confirming:
        rows.append(("training to confirm and refit", duration(confirming)))
    if ended:
        rows.append(("a trial, on average", duration(sum(ended) / len(ended))))
    return rows + ([("starts of the search", f"{len(record.sessions)}")] if record.sessions else [])


def time_parts(record: StudyRecord) -> list[tuple[str, str, list[Part]]]:
    """Split the time of the workers and of the coordinator: (name, total, parts)."""
    wall = wall_s(record)
    if not wall:
        return []
    n_workers = max(1, len({trial.slot for trial in record.trials if trial.slot is not None}))
    offered = sum((s.get("wall_s") or 0.0) * (s.get("slots") or n_workers) for s in record.sessions)
    rows = [_of_workers(record, offered or wall * n_workers)]
    search, tracking = _total(record, "search_s"), _total(record, "tracking_s")
    if search or tracking:
        total = max(wall, search + tracking)  # tracking has its own thread
        waiting = ("waiting for workers", total - search - tracking, "rule")
        parts = _parts(total, ("search", search, "accent"), ("tracking", tracking, "prune"), waiting)
        rows.append(("Coordinator and tracking", duration(total), parts))
    return rows


def _of_workers(record: StudyRecord, total: float) -> tuple[str, str, list[Part]]:
    busy = min(total, sum(trial.seconds or 0.0 for trial in record.trials))
    training = min(busy, training_s(record))
    confirming = min(total - busy, confirming_s(record))
    parts = _parts(
        total,
        ("training", training, "accent"),
        ("between epochs", busy - training, "prune"),
        ("confirming and refitting", confirming, "good"),
        ("idle", total - busy - confirming, "rule"),
    )
    return "Workers", duration(total), parts


def _parts(total: float, *parts: tuple[str, float, str]) -> list[Part]:
    return [
        Part(f"{name} {seconds / total:.0%}", duration(seconds), 100 * seconds / total, colour)
        for name, seconds, colour in parts
        if seconds > 0.001 * total
    ]


def sessions(record: StudyRecord) -> list[tuple[str, str, str]]:
    """Return one row for each start of the search: started, ran for, workers."""
    return [
        (
            moment(datetime.fromisoformat(s["started"]).astimezone()),
            duration(s["wall_s"] or None),
            f"{s.get('slots', '–')}",
        )
        for s in record.sessions
    ]


def moment(time: datetime) -> str:
    """Format a time, as in `27 November 2025, 09:05`."""
    return time.strftime("%-d %B %Y, %H:%M")
