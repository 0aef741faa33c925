"""Charts, bars, the format of values and the choice of trials, shared by all parts of the report."""

import html
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from optuna.trial import TrialState

from objectives.metrics import metric_of
from search.reports.style import Figure, as_values
from search.study.records import StudyRecord, TrialRecord
from search.study.texts.presenter import Decimals

Span = tuple[float, float]
"""The smallest and the largest value on an axis."""


@dataclass(frozen=True)
class Chart:
    """One figure of the page, or the reason why it is missing."""

    key: str
    """Unique on the page; letters, digits and dashes."""
    title: str
    caption: str
    figure: Figure | None = None
    note: str = ""
    """Shown instead of a figure, with the reason."""
    height_px: int = 340
    min_width_px: int = 0
    """On narrower screens the figure scrolls sideways inside its frame."""
    wide: bool = False
    """Takes the whole width of the page."""

    def drawn(self, figure: Any) -> Self:
        """Return a copy that shows a plotly figure."""
        return replace(self, figure=as_values(figure))

    def missing(self, note: str) -> Self:
        """Return a copy that shows a note."""
        return replace(self, note=note)


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
class Unit(Decimals):
    """Formats values of the study's metric."""

    name: str
    percent: bool
    decimals: bool = False
    """Whether values have four decimals: those of a log loss."""

    @classmethod
    def of(cls, record: StudyRecord) -> Self:
        """Choose percent for an accuracy, precision, recall or F1 score between 0 and 1."""
        is_share = any(word in record.metric.lower() for word in ("acc", "precision", "recall", "f1"))
        values = [trial.value for trial in record.trials if trial.value is not None]
        name = record.metric.replace("_", " ").replace("macro f1", "macro F1")
        name = f"validation {name.removeprefix('val ')}" if name.startswith("val ") else name
        return cls(name, is_share and all(0 <= value <= 1 for value in values), metric_of(record.metric) == "log_loss")

    @property
    def title(self) -> str:
        """The name at the beginning of a sentence or of a column."""
        return self.name[:1].upper() + self.name[1:]

    def axis(self, span: Span | None) -> dict[str, Any]:
        """Format an axis of values, in plotly's terms."""
        if not self.percent:
            return {"tickformat": "~g", "range": span}
        # Around one value alone, plotly would choose a range up to 150%.
        return {"tickformat": ".2~%", "range": span, "minallowed": -0.03, "maxallowed": 1.03}

    def text(self, value: float | None) -> str:
        """Format one value; an en dash for None."""
        if value is None or not math.isfinite(value):
            return "–" if value is None else str(value)
        if self.decimals:
            return super().text(value)
        return f"{value:.2%}" if self.percent else f"{value:.5g}"

    def gain(self, value: float, half: float | None = None) -> str:
        """Format a difference with its sign, and the half-width of its interval if known."""
        if self.decimals:
            return super().gain(value, half)
        if half is None:
            return f"{100 * value:+.2f} points" if self.percent else f"{value:+.4g}"
        return f"{100 * value:+.2f} ± {100 * half:.2f} points" if self.percent else f"{value:+.4g} ± {half:.2g}"

    def half_width(self, value: float | None) -> str:
        """Format a half-width or a standard deviation; empty for None."""
        if self.decimals:
            return super().half_width(value)
        return "" if value is None else f"{100 * value:.2f} points" if self.percent else f"{value:.2g}"


def winner(record: StudyRecord) -> TrialRecord | None:
    """Return the trial that the summary names, or the best completed trial so far."""
    if record.summary:
        return next((trial for trial in record.trials if trial.number == record.summary.number), None)
    best = next(iter(record.ranked()), None)
    return best if best and best.state == TrialState.COMPLETE and best.feasible else None


def excerpt(ranked: Sequence[TrialRecord], limit: int) -> list[TrialRecord]:
    """Choose at most `limit` trials of a ranking: half of them from its top, the others spread over the rest."""
    if len(ranked) <= limit:
        return list(ranked)
    top = limit // 2
    rest, n_spread = ranked[top:], limit - top
    return [*ranked[:top], *(rest[i * len(rest) // n_spread] for i in range(n_spread))]


def focus(values: Iterable[float], *, maximize: bool) -> Span | None:
    """Return a range without bad outliers (beyond Tukey's fence), or None if the full range is nearly as short."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 8:
        return None
    first, _, third = statistics.quantiles(finite, n=4)
    fence = 2.0 * (third - first)
    least, most = min(finite), max(finite)
    low, high = (max(least, first - fence), most) if maximize else (least, min(most, third + fence))
    if not low < high or most - least < 1.6 * (high - low):
        return None
    margin = 0.05 * (high - low)
    return low - margin, high + margin


def focus_hint(span: Span | None) -> str:
    """Tell the reader of a shortened axis how to see the whole one."""
    return " Outliers lie outside the axis; double-click to see them." if span else ""


def escaped(text: object, limit: int = 80) -> str:
    """Escape and shorten a text for a plotly label, which plotly reads as HTML."""
    shown = str(text)
    return html.escape(shown if len(shown) <= limit else shown[: limit - 1] + "…", quote=False)


def trial_label(trial: TrialRecord) -> str:
    """Return a trial's number and label for a plotly label."""
    return escaped(f"#{trial.number} {trial.label}".strip(), 60)
