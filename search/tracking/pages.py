"""Texts on MLflow's pages: names of runs, notes, and the view that the deep link opens."""

from __future__ import annotations

import json
from collections.abc import Mapping

from optuna.trial import TrialState

WINNER = "★"
MARKS = {TrialState.PRUNED: "✂", TrialState.FAIL: "✕"}
"""Marks in the names of runs, because MLflow has no state for pruned runs."""

RUN_NAME = "mlflow.runName"
NOTE = "mlflow.note.content"
VIEW = "trials"
"""Key of the view in an experiment's tags and in links."""

NARROW_COLUMNS = (
    "tags.`optuna.state`",
    "runDateAndNestInfo",
    "duration",
    "metrics.`train_seconds`",
    "metrics.`parameters`",
    "attributes.`Models`",
    "attributes.`Dataset`",
)


def run_name(number: int, label: str, mark: str = "") -> str:
    """Return a name such as `#017 cnn-3x32 adamw 3.1e-3`, with the mark after the number."""
    return " ".join(part for part in (f"#{number:03d}", mark, label) if part)


def experiment_tags(study: str, metric: str, *, maximize: bool) -> dict[str, str]:
    """Return the tags with an experiment's note and with its view of all trials, best first."""
    note = (
        f"Search `{study}`: {WINNER} the winner, {MARKS[TrialState.PRUNED]} pruned, {MARKS[TrialState.FAIL]} failed. "
        f"The run `search {study}` carries the summary, the report and the leaderboard."
    )
    return {NOTE: note, f"mlflow.sharedViewState.{VIEW}": json.dumps(_view(metric, maximize=maximize))}


def _view(metric: str, *, maximize: bool) -> Mapping[str, object]:
    """Return what MLflow's page stores when a user shares a view (observed in MLflow 3.17).

    Only a view can show more than ten runs, put validation before training, and choose the columns of the table.
    """
    value = f"metrics.`{metric}`"
    widths_px = {"attributes.`Run Name`": 300, value: 125, **dict.fromkeys(NARROW_COLUMNS, 110)}
    section = {"display": True, "isReordered": False, "deleted": False, "isGenerated": True}
    names = ("val", "train", "Model metrics", "System metrics")
    return {
        "searchFilter": "tags.kind = 'trial'",
        "orderByKey": value,
        "orderByAsc": not maximize,
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": [name for name in widths_px if "." in name],
        "columnOrder": list(widths_px),
        "columnWidths": widths_px,
        "compareRunCharts": [],  # the page adds one for each metric
        "compareRunSections": [{"uuid": name, "name": name, **section} for name in names],
        "isAccordionReordered": True,
    }
