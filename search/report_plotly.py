"""Figures of plotly: what all in the report have in common, and what is done to those that somebody else made."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from search.report_base import plain

Figure = dict[str, Any]
MARGIN = {"l": 64, "r": 18, "t": 14, "b": 48}
BAR_MARGIN = MARGIN | {"r": 84}
"""With room for a colour bar."""


def as_values(figure: Any) -> Figure:
    """A plotly figure as plain values, without the template that is repeated in each."""
    values: Figure = json.loads(figure.to_json())
    for name in ("template", "title", "width", "height"):  # the page decides these
        values["layout"].pop(name, None)
    values["data"] = [trace for trace in values["data"] if trace]
    return values


def with_margin(figure: Figure) -> Figure:
    """The same figure, with the usual margin where it has none of its own."""
    figure["layout"].setdefault("margin", MARGIN)
    return figure


def legend() -> Figure:
    """A legend in one line above the figure."""
    return {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"}


def colour_bar(tickformat: str = "") -> Figure:
    """A thin colour bar; `tickformat` in d3's language."""
    return {"thickness": 10, "outlinewidth": 0, "len": 0.9, "tickformat": tickformat}


def calm_axes(figure: Figure) -> None:
    """Few ticks: whole powers of ten on long log axes, five on others."""
    for name, axis in figure["layout"].items():
        if name.startswith(("xaxis", "yaxis")):
            axis.update(nticks=5, tickangle=0)
            if axis.get("type") == "log":
                decades = _decades(figure, name)
                axis["dtick"] = "D2" if decades < 1.3 else 1 if decades < 3 else 2
                axis["tickformat"] = "~g" if decades < 1.3 else ""


def _decades(figure: Figure, name: str) -> float:
    """Powers of ten that a log axis spans, from its range or from what is drawn on it."""
    stored = figure["layout"][name].get("range")
    if stored:
        return float(stored[1] - stored[0])
    short = name.replace("axis", "")
    drawn = [t[short[0]] for t in figure["data"] if t.get(f"{short[0]}axis", short[0]) == short]
    known = [v for values in drawn if isinstance(values, list) for v in values if isinstance(v, int | float) and v > 0]
    return math.log10(max(known) / min(known)) if known else 1.0


def name_diagonal(figure: Figure, names: Sequence[str]) -> Figure:
    """Finish a grid of parameter pairs: the diagonal, which has nothing to show, names the parameter."""
    layout, n = figure["layout"], len(names)
    calm_axes(figure)
    layout.update(margin=BAR_MARGIN, showlegend=False)
    if n < 3:
        return figure
    notes = []
    for place, name in enumerate(names):
        index = str(place * n + place + 1) if place else ""
        for axis in (f"xaxis{index}", f"yaxis{index}"):
            layout[axis].update(showgrid=False)
        notes.append({"text": plain(name, 20), "showarrow": False, "x": 0.5, "y": 0.5, "font": {"color": "@second"},
                      "xref": f"x{index} domain", "yref": f"y{index} domain"})  # fmt: skip
        for trace in figure["data"]:
            if trace.get("xaxis", "x") == f"x{index}":
                trace.update(x=[None], y=[None], hovertext=None, hoverinfo="skip")
    layout["annotations"] = notes
    return figure
