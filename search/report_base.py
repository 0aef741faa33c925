"""What every chart of the report shares: its frame, its numbers, its colours.

A chart is a plotly figure as plain JSON values. Colours are names such as `@accent`, which the page replaces by the
colours of the light or the dark scheme; `@s0`..`@s10` run from worst to best along one scale.
"""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState

from search.records import STEPS_PER_EPOCH, StudyRecord, TrialRecord

STATE_COLOURS = {
    TrialState.COMPLETE: "@accent",
    TrialState.PRUNED: "@prune",
    TrialState.FAIL: "@bad",
    TrialState.RUNNING: "@good",
    TrialState.WAITING: "@soft",
}
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
    figure: dict[str, Any] | None = None
    """`data` and `layout` of plotly."""
    note: str = ""
    """Why there is no figure."""
    height_px: int = 340
    min_width_px: int = 0
    """On narrower screens the figure scrolls sideways inside its frame."""
    wide: bool = False
    """Takes the whole width of the page."""


@dataclass(frozen=True)
class Unit:
    """How values of the study's metric are written."""

    name: str
    percent: bool

    @classmethod
    def of(cls, record: StudyRecord) -> Unit:
        """A fraction called accuracy (or the like) is shown in percent."""
        shares = any(word in record.metric.lower() for word in ("acc", "precision", "recall", "f1"))
        values = [trial.value for trial in record.trials if trial.value is not None]
        name = record.metric.replace("_", " ")
        name = name.replace("val ", "validation ", 1) if name.startswith("val ") else name
        return cls(name=name, percent=shares and all(0 <= value <= 1 for value in values))

    @property
    def tick(self) -> str:
        """Number format of an axis, in d3's language."""
        return ".2~%" if self.percent else "~g"

    def text(self, value: float | None) -> str:
        """One value; an en dash when there is none."""
        if value is None or not math.isfinite(value):
            return "–" if value is None else str(value)
        return f"{value:.2%}" if self.percent else f"{value:.5g}"

    def gain(self, value: float, half: float | None = None) -> str:
        """A difference, with its sign and half of its interval."""
        if half is None:
            return f"{100 * value:+.2f} points" if self.percent else f"{value:+.4g}"
        return f"{100 * value:+.2f} ± {100 * half:.2f} points" if self.percent else f"{value:+.4g} ± {half:.2g}"

    def half(self, value: float | None) -> str:
        """Half of an interval, or a spread; nothing when it is not known."""
        if value is None:
            return ""
        return f"{100 * value:.2f} points" if self.percent else f"{value:.2g}"


@dataclass(frozen=True)
class Steps:
    """What one reported step is."""

    per_epoch: int | None

    @classmethod
    def of(cls, record: StudyRecord) -> Steps:
        """As the study's attributes have it."""
        stored = record.attrs.get(STEPS_PER_EPOCH)
        return cls(stored if isinstance(stored, int) and stored > 0 else None)

    @property
    def name(self) -> str:
        """The word for it on an axis."""
        return "epoch" if self.per_epoch else "step"

    def at(self, step: float) -> float:
        """The step as shown."""
        return step / self.per_epoch if self.per_epoch else step


def winner(record: StudyRecord) -> TrialRecord | None:
    """The trial that the summary names, else the best one so far that completed."""
    if record.summary:
        return next((trial for trial in record.trials if trial.number == record.summary.number), None)
    best = record.ranked()[:1]
    return best[0] if best and best[0].state == TrialState.COMPLETE and best[0].feasible else None


def excerpt(ranked: Sequence[Any], limit: int) -> list[Any]:
    """At most `limit` of the items, ranked best first: the better half of them from the top, the rest evenly spread."""
    if len(ranked) <= limit:
        return list(ranked)
    top = limit // 2
    rest, spread = ranked[top:], limit - top
    return [*ranked[:top], *(rest[i * len(rest) // spread] for i in range(spread))]


def focus(values: Iterable[float], *, maximize: bool) -> tuple[float, float] | None:
    """The range that leaves out failures far from all others (Tukey's fence), or None when nothing would be gained."""
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
    """What to tell the reader about a shortened axis."""
    return " The axis leaves out what lies far off; double-click to see all." if span else ""


def shade(value: float, low: float, high: float, *, maximize: bool) -> str:
    """The name of the colour for `value` between the worst and the best."""
    share = min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 1.0
    return f"@s{2 + round(8 * (share if maximize else 1 - share))}"


def plain(text: object, limit: int = 80) -> str:
    """Text from outside for a plotly label, which would otherwise read it as HTML."""
    shown = str(text)
    return html.escape(shown if len(shown) <= limit else shown[: limit - 1] + "…", quote=False)


def titled(trial: TrialRecord) -> str:
    """Number and label of a trial, safe in a plotly label."""
    return plain(f"#{trial.number} {trial.label}".strip(), 60)


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, hours = seconds / 60, seconds / 3600
    if hours < 1:
        return f"{int(minutes)} min {int(seconds % 60):02d} s"
    return f"{int(hours)} h {int(minutes % 60):02d} min"
