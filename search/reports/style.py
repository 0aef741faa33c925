"""How the report's charts look: one set of colours, fonts and margins for all of them.

Charts are drawn in the colours of the light scheme. In the dark scheme, `report.css` inverts whole charts, so figures
from elsewhere need no change. Colours and font follow `report.css`.
"""

from __future__ import annotations

import json
from typing import Any

from optuna.trial import TrialState

Figure = dict[str, Any]
"""`data` and `layout` of a plotly figure, as plain JSON values."""

INK, SECOND, RULE, PAPER = "#16181d", "#565c67", "#d8d8d1", "#fcfcfa"
ACCENT, PRUNE, BAD, GOOD, SOFT = "#2459c7", "#b07a1c", "#c2412d", "#1c7f5c", "#8f96a3"
CLEAR = "rgba(0,0,0,0)"
SERIES = (ACCENT, "#c9722e", "#1c7f5c", "#8a4fb5", "#b03a5b", "#5d7a1f")
SHADES = ("#4372cd", "#5d88d6", "#769bdd", "#8fade3")
"""Of the accent, from strong to weak."""

STATE_COLOURS = {
    TrialState.COMPLETE: ACCENT,
    TrialState.PRUNED: PRUNE,
    TrialState.FAIL: BAD,
    TrialState.RUNNING: GOOD,
    TrialState.WAITING: SOFT,
}

_TICKS = {"color": SECOND, "size": 11}
_COLOUR_BAR = {"thickness": 10, "outlinewidth": 0, "len": 0.9, "tickfont": _TICKS}
_AXIS = {
    "gridcolor": RULE,
    "linecolor": RULE,
    "zeroline": False,
    "automargin": True,
    "exponentformat": "power",
    "minorloglabels": "none",
    "tickfont": _TICKS,
    "title": {"font": {"color": SECOND, "size": 12}, "standoff": 10},
}
TEMPLATE: Figure = {
    "layout": {
        "font": {"family": "Inter, -apple-system, Segoe UI, Roboto, Arial, sans-serif", "color": INK, "size": 12},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "colorway": SERIES,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "margin": {"l": 64, "r": 18, "t": 14, "b": 48},
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": SOFT, "align": "left", "font": {"color": INK, "size": 12}},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"color": SECOND, "size": 12},
            "bgcolor": CLEAR,
        },
    },
    "data": {"contour": [{"colorbar": _COLOUR_BAR}], "scatter": [{"marker": {"colorbar": _COLOUR_BAR}}]},
}
"""The plotly template of every chart."""


def as_values(figure: Any) -> Figure:
    """Turn a plotly figure into plain values, without what the page decides: title, size, background, template."""
    values: Figure = json.loads(figure.to_json())
    for name in ("title", "width", "height", "plot_bgcolor", "template"):
        values["layout"].pop(name, None)
    return values


def axes(x: str, y: str, *, ytick: str = "", yrange: tuple[float, float] | None = None) -> Figure:
    """Make a layout with titled axes; `ytick` is a number format of d3."""
    yaxis: Figure = {"title": {"text": y}, "tickformat": ytick}
    if yrange:
        yaxis["range"] = list(yrange)
    return {"xaxis": {"title": {"text": x}, "showgrid": False}, "yaxis": yaxis}
