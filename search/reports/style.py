"""The colours, fonts and margins of all charts, in one plotly template.

Charts are drawn in the colours of the light scheme. In the dark scheme, `report.css` inverts whole charts, so Optuna's
figures need no change. Colours and font follow `report.css`.
"""

import json
from typing import Any

from optuna.trial import TrialState

Figure = dict[str, Any]
"""`data` and `layout` of a plotly figure, as JSON values."""

INK, GREY, RULE, PAPER, CLEAR = "#16181d", "#565c67", "#d8d8d1", "#fcfcfa", "rgba(0,0,0,0)"
ACCENT, PRUNE, BAD, GOOD, SOFT = "#2459c7", "#b07a1c", "#c2412d", "#1c7f5c", "#8f96a3"
ACCENT_SHADES = ("#4372cd", "#5d88d6", "#769bdd", "#8fade3")
"""From strong to weak."""

STATES = {
    TrialState.COMPLETE: ("complete", ACCENT),
    TrialState.PRUNED: ("pruned", PRUNE),
    TrialState.FAIL: ("failed", BAD),
    TrialState.RUNNING: ("running", GOOD),
    TrialState.WAITING: ("waiting", SOFT),
}
"""Name and colour of each state. The name is also a class of `report.css`."""

_TEXT, _TICKS = {"color": GREY, "size": 12}, {"color": GREY, "size": 11}
_COLOUR_BAR = {"thickness": 10, "outlinewidth": 0, "len": 0.9, "tickfont": _TICKS}
_TITLE = {"font": _TEXT, "standoff": 10}
_LINES = {"gridcolor": RULE, "linecolor": RULE, "zeroline": False, "automargin": True}
_AXIS = _LINES | {"exponentformat": "e", "minorloglabels": "none", "tickfont": _TICKS, "title": _TITLE}
TEMPLATE: Figure = {
    "layout": {
        "font": {"family": "Inter, -apple-system, Segoe UI, Roboto, Arial, sans-serif", "color": INK, "size": 12},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "colorway": (ACCENT, "#c9722e", GOOD, "#8a4fb5", "#b03a5b", "#5d7a1f"),
        "xaxis": _AXIS | {"showgrid": False},
        "yaxis": _AXIS,
        "margin": {"l": 64, "r": 18, "t": 14, "b": 48},
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": SOFT, "align": "left", "font": {"color": INK, "size": 12}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": _TEXT, "bgcolor": CLEAR},
    },
    "data": {"contour": [{"colorbar": _COLOUR_BAR}], "scatter": [{"marker": {"colorbar": _COLOUR_BAR}}]},
}
"""The plotly template of every chart."""


def as_values(figure: Any) -> Figure:
    """Convert a plotly figure to JSON values, without what the page decides: title, size, background, template."""
    values: Figure = json.loads(figure.to_json())
    for name in ("title", "width", "height", "plot_bgcolor", "template"):
        values["layout"].pop(name, None)
    return values
