"""What people read on MLflow's pages: names of runs, and the view that the deep link opens."""

from __future__ import annotations

import json
from collections.abc import Mapping

from optuna.trial import TrialState

WINNER = "★"
MARKS = {TrialState.PRUNED: "✂", TrialState.FAIL: "✕"}
"""Seen in every list and legend; MLflow's own states know nothing of pruning."""

RUN_NAME = "mlflow.runName"
NOTE = "mlflow.note.content"
VIEW = "trials"
"""Key of the view in an experiment's tags and in links."""

WIDTHS_PX = {"run": 300, "metric": 125, "other": 110}


def run_name(number: int, label: str, mark: str = "") -> str:
    """Such as `#017 cnn-3x32 adamw 3.1e-3`, with a mark behind the number where there is one."""
    return " ".join(part for part in (f"#{number:03d}", mark, label) if part)


def readable(value: object, *, digits: int = 6) -> str:
    """A parameter as people compare it; every digit of it is in Optuna's storage and the run's `params.json`."""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def experiment_tags(study: str, metric: str, *, maximize: bool) -> dict[str, str]:
    """Tags that give an experiment its note and its view of all trials, best first."""
    note = (
        f"Search `{study}`: {WINNER} the winner, {MARKS[TrialState.PRUNED]} pruned, {MARKS[TrialState.FAIL]} failed. "
        f"The run `search {study}` carries the summary, the report and the leaderboard."
    )
    return {NOTE: note, f"mlflow.sharedViewState.{VIEW}": json.dumps(_view(metric, maximize=maximize))}


def _view(metric: str, *, maximize: bool) -> Mapping[str, object]:
    """What MLflow's page stores when a person shares a view of it (read off MLflow 3.17's page).

    A link can ask for a filter and an order, but only a view can show more than the first ten runs, put validation
    before training, and choose the table's columns.
    """
    best = f"metrics.`{metric}`"
    columns = {
        "attributes.`Run Name`": WIDTHS_PX["run"], best: WIDTHS_PX["metric"],
        **dict.fromkeys(("tags.`optuna.state`", "runDateAndNestInfo", "duration", "metrics.`train_seconds`",
                         "metrics.`parameters`", "attributes.`Models`", "attributes.`Dataset`"), WIDTHS_PX["other"]),
    }  # fmt: skip
    sections = [
        {"uuid": name, "name": name, "display": True, "isReordered": False, "deleted": False, "isGenerated": True}
        for name in ("val", "train", "Model metrics", "System metrics")
    ]
    return {
        "searchFilter": "tags.kind = 'trial'",
        "orderByKey": best,
        "orderByAsc": not maximize,
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": [name for name in columns if "." in name],
        "columnOrder": list(columns),
        "columnWidths": columns,
        "compareRunCharts": [],  # the page adds one for each metric it finds
        "compareRunSections": sections,
        "isAccordionReordered": True,
    }
