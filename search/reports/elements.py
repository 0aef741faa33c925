"""The elements of the report: charts, parts of bars, how values and steps are written, and which trials are shown."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState

from search.reports.style import Figure
from search.study.records import STEPS_PER_EPOCH, StudyRecord, TrialRecord

STATE_NAMES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class Chart:
    """One figure of the page, or the reason why it is missing."""

    key: str
    """Unique on the page; letters, digits and dashes."""
    title: str
    caption: str
    """How to read it, in one or two sentences."""
    figure: Figure | None = None
    note: str = ""
    """Why there is no figure."""
    height_px: int = 340
    min_width_px: int = 0
    """On narrower screens the figure scrolls sideways inside its frame."""
    wide: bool = False
    """Takes the whole width of the page."""


@dataclass(frozen=True)
class Part:
    """One part of a stacked bar."""

    name: str
    text: str
    share: float
    """In percent of the bar."""
    colour: str
    """A class of `report.css`."""


@dataclass(frozen=True)
class Unit:
    """How values of the study's metric are written."""

    name: str
    percent: bool

    @classmethod
    def of(cls, record: StudyRecord) -> Unit:
        """Choose percent for an accuracy, precision, recall or F1 score between 0 and 1."""
        shares = any(word in record.metric.lower() for word in ("acc", "precision", "recall", "f1"))
        values = [trial.value for trial in record.trials if trial.value is not None]
        name = record.metric.replace("_", " ")
        name = name.replace("val ", "validation ", 1) if name.startswith("val ") else name
        return cls(name=name, percent=shares and all(0 <= value <= 1 for value in values))

    @property
    def tick(self) -> str:
        """The number format of an axis, as d3 writes it."""
        return ".2~%" if self.percent else "~g"

    def text(self, value: float | None) -> str:
        """Format one value; an en dash for None."""
        if value is None or not math.isfinite(value):
            return "–" if value is None else str(value)
        return f"{value:.2%}" if self.percent else f"{value:.5g}"

    def gain(self, value: float, half: float | None = None) -> str:
        """Format a difference with its sign, and half the width of its interval if that is known."""
        if half is None:
            return f"{100 * value:+.2f} points" if self.percent else f"{value:+.4g}"
        return f"{100 * value:+.2f} ± {100 * half:.2f} points" if self.percent else f"{value:+.4g} ± {half:.2g}"

    def half_width(self, value: float | None) -> str:
        """Format half the width of an interval, or a spread; empty for None."""
        if value is None:
            return ""
        return f"{100 * value:.2f} points" if self.percent else f"{value:.2g}"


@dataclass(frozen=True)
class Steps:
    """How the steps of reports are shown: as epochs if the study knows how many make one."""

    per_epoch: int | None

    @classmethod
    def of(cls, record: StudyRecord) -> Steps:
        """Read the steps of an epoch from the study's attributes."""
        stored = record.attrs.get(STEPS_PER_EPOCH)
        return cls(stored if isinstance(stored, int) and stored > 0 else None)

    @property
    def name(self) -> str:
        """The title of an axis of steps."""
        return "epoch" if self.per_epoch else "step"

    def at(self, step: float) -> float:
        """Convert a step to what the axis shows."""
        return step / self.per_epoch if self.per_epoch else step


def winner(record: StudyRecord) -> TrialRecord | None:
    """Return the trial that the summary names, or the best completed trial so far."""
    if record.summary:
        return next((trial for trial in record.trials if trial.number == record.summary.number), None)
    best = record.ranked()[:1]
    return best[0] if best and best[0].state == TrialState.COMPLETE and best[0].feasible else None


def excerpt(ranked: Sequence[Any], limit: int) -> list[Any]:
    """Choose at most `limit` items of a ranking: half of them from its top, the others spread evenly over the rest."""
    if len(ranked) <= limit:
        return list(ranked)
    top = limit // 2
    rest, spread = ranked[top:], limit - top
    return [*ranked[:top], *(rest[i * len(rest) // spread] for i in range(spread))]


def focus(values: Iterable[float], *, maximize: bool) -> tuple[float, float] | None:
    """Return a range without bad outliers (beyond Tukey's fence), or None if the full range is nearly as short."""
    known = [value for value in values if math.isfinite(value)]
    if len(known) < 8:
        return None
    first, _, third = statistics.quantiles(known, n=4)
    fence = 2.0 * (third - first)
    low, high = min(known), max(known)
    kept = (max(low, first - fence), high) if maximize else (low, min(high, third + fence))
    if not kept[0] < kept[1] or high - low < 1.6 * (kept[1] - kept[0]):
        return None
    spare = 0.05 * (kept[1] - kept[0])
    return kept[0] - spare, kept[1] + spare


def focus_hint(span: tuple[float, float] | None) -> str:
    """Tell the reader of a shortened axis how to see the whole one."""
    return " Outliers lie outside the axis; double-click to see them." if span else ""


def plain(text: object, limit: int = 80) -> str:
    """Escape and shorten text from outside for a plotly label, which is read as HTML."""
    shown = str(text)
    return html.escape(shown if len(shown) <= limit else shown[: limit - 1] + "…", quote=False)


def titled(trial: TrialRecord) -> str:
    """Return a trial's number and label, safe in a plotly label."""
    return plain(f"#{trial.number} {trial.label}".strip(), 60)
