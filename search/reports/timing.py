"""Where the time of a search went: its wall time, its workers and its starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from optuna.trial import TrialState

from search.common.text import duration
from search.reports.charts import MAX_POINTS, cost
from search.reports.elements import STATE_NAMES, Chart, Part, titled
from search.reports.style import PAPER, STATE_COLOURS, Figure, axes
from search.study.records import EXTRA_TRAININGS, METRICS, StudyRecord, TrialRecord


@dataclass(frozen=True)
class Stretch:
    """A time in which the search ran without a pause."""

    first: datetime
    last: datetime
    before_s: float
    """Seconds of search before it."""

    @property
    def total_s(self) -> float:
        """Seconds of search up to its end."""
        return self.before_s + (self.last - self.first).total_seconds()


@dataclass(frozen=True)
class SearchTime:
    """Seconds of search, without the pauses between its starts."""

    stretches: Sequence[Stretch]

    @classmethod
    def of(cls, trials: Sequence[TrialRecord]) -> SearchTime:
        """Find the stretches in which at least one of `trials` ran; only longer gaps count as pauses."""
        spans = sorted((t.started, t.ended or t.started) for t in trials if t.started)
        pause_s = max(30.0, 0.05 * sum((ended - started).total_seconds() for started, ended in spans))
        stretches: list[Stretch] = []
        for started, ended in spans:
            if stretches and (started - stretches[-1].last).total_seconds() <= pause_s:
                stretches[-1] = replace(stretches[-1], last=max(stretches[-1].last, ended))
            else:
                stretches.append(Stretch(started, ended, stretches[-1].total_s if stretches else 0.0))
        return cls(stretches)

    @property
    def total_s(self) -> float:
        """Seconds of search in all."""
        return self.stretches[-1].total_s if self.stretches else 0.0

    def at(self, moment: datetime) -> float:
        """Return the seconds of search before `moment`."""
        begun = [stretch for stretch in self.stretches if stretch.first <= moment] or self.stretches[:1]
        return begun[-1].before_s + max(0.0, (min(moment, begun[-1].last) - begun[-1].first).total_seconds())


def workers_over_time(record: StudyRecord) -> Chart:
    """Draw what each worker did when."""
    ran = [t for t in record.trials if t.slot is not None and t.started and t.ended][-MAX_POINTS:]
    slots = sorted({t.slot for t in ran if t.slot is not None})
    caption, height = "One row per worker, one bar per trial; gaps are idle time.", 110 + 40 * max(1, len(slots))
    chart = Chart("workers", "Workers over time", caption, height_px=height, wide=True)
    if not ran:
        return replace(chart, note="No finished trial names its worker.")
    time = SearchTime.of(ran)
    unit_s, name = (60.0, "minutes") if time.total_s > 180 else (1.0, "seconds")
    rows = {slot: _row(slot, [t for t in ran if t.slot == slot], time.total_s) for slot in slots}
    traces = [_bars(state, [t for t in ran if t.state == state], rows, time, unit_s) for state in STATE_COLOURS]
    layout = axes(f"{name} of search{', without pauses' if len(time.stretches) > 1 else ''}", "")
    layout |= {"barmode": "overlay", "bargap": 0.35}
    layout["yaxis"] = {
        "showgrid": False,
        "autorange": "reversed",
        "type": "category",
        "categoryarray": list(rows.values()),
        "categoryorder": "array",
    }
    return replace(chart, figure={"data": [trace for trace in traces if trace["y"]], "layout": layout})


def _row(slot: int, ran: Sequence[TrialRecord], total_s: float) -> str:
    busy_s = sum(t.seconds or 0.0 for t in ran)
    return f"{slot} · {min(1.0, busy_s / total_s):.0%} busy" if total_s else f"{slot}"


def _bars(
    state: TrialState, trials: Sequence[TrialRecord], rows: Mapping[int, str], time: SearchTime, unit_s: float
) -> Figure:
    starts = [time.at(t.started) / unit_s for t in trials if t.started]
    ends = [time.at(t.ended) / unit_s for t in trials if t.ended]
    return {
        "type": "bar",
        "orientation": "h",
        "name": STATE_NAMES[state],
        "y": [rows[t.slot or 0] for t in trials],
        "base": starts,
        "x": [end - start for start, end in zip(starts, ends, strict=True)],
        "marker": {"color": STATE_COLOURS[state], "line": {"color": PAPER, "width": 0.7}},
        "text": [f"{titled(t)}, {duration(t.seconds)}" for t in trials],
        "textposition": "none",
        "hovertemplate": "%{text}<extra></extra>",
    }


def wall_s(record: StudyRecord) -> float | None:
    """Return the seconds that the search ran, all its starts together."""
    known = [_number(session, "wall_s") for session in record.sessions]
    return sum(known) or SearchTime.of(record.trials).total_s or None


def training_s(record: StudyRecord) -> float:
    """Return the seconds of training, summed over workers."""
    return sum(cost(trial, "train_seconds") or trial.seconds or 0.0 for trial in record.trials)


def confirming_s(record: StudyRecord) -> float:
    """Return the seconds of training that confirmed and refitted the winner, summed over workers."""
    ended = record.attrs.get(EXTRA_TRAININGS, {}).values()
    return sum(_number(extra["attrs"].get(METRICS, {}), "train_seconds") for extra in ended)


def time_parts(record: StudyRecord) -> list[tuple[str, str, list[Part]]]:
    """Split the time of the workers and of the coordinator: (name, total, parts)."""
    wall = wall_s(record)
    if not wall:
        return []
    slots = max(1, len({trial.slot for trial in record.trials if trial.slot is not None}))
    available = sum(_number(s, "wall_s") * (_number(s, "slots") or slots) for s in record.sessions) or wall * slots
    rows = [("Workers", duration(available), _of_workers(record, available))]
    search, tracking = (sum(_number(s, key) for s in record.sessions) for key in ("search_s", "tracking_s"))
    if search or tracking:
        waiting = max(0.0, wall - search - tracking)
        known = [
            ("search", search, "accent"),
            ("tracking", tracking, "prune"),
            ("waiting for workers", waiting, "rule"),
        ]
        rows.append(("Coordinator", duration(wall), _parts(wall, known)))
    return rows


def _of_workers(record: StudyRecord, available: float) -> list[Part]:
    occupied = min(available, sum(trial.seconds or 0.0 for trial in record.trials))
    training = min(occupied, training_s(record))
    confirming = min(available - occupied, confirming_s(record))
    known = [
        ("training", training, "accent"),
        ("between epochs", occupied - training, "prune"),
        ("confirming and refitting", confirming, "good"),
        ("idle", available - occupied - confirming, "rule"),
    ]
    return _parts(available, known)


def _parts(total: float, parts: Iterable[tuple[str, float, str]]) -> list[Part]:
    return [
        Part(f"{name} {seconds / total:.0%}", duration(seconds), 100 * seconds / total, colour)
        for name, seconds, colour in parts
        if seconds > 0.001 * total
    ]


def sessions(record: StudyRecord) -> list[list[str]]:
    """One row for each start of the search: started, ran for, workers."""
    return [
        [_moment(session.get("started")), duration(_number(session, "wall_s") or None), f"{session.get('slots', '–')}"]
        for session in record.sessions
    ]


def _moment(stored: object) -> str:
    """Format a time given as ISO text; other text stays as it is."""
    try:
        return datetime.fromisoformat(str(stored)).strftime("%-d %B %Y, %H:%M")
    except ValueError:
        return "–" if stored is None else str(stored)


def _number(values: Mapping[str, Any], key: str) -> float:
    value = values.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
