"""Texts on MLflow's pages: names of runs, notes, model cards, and the view that the deep link opens."""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from optuna.trial import TrialState

from objectives.functions.objective import FunctionObjective
from search.study.records import StudyRecord
from search.study.space.mlflow_names import mlflow_name
from search.study.summary import Summary
from search.study.texts.classes import class_rows
from search.study.texts.presenter import Decimals, present
from search.study.texts.setting import describe_dataset
from search.tracking import lengths

WINNER = "★"
MARKS = {TrialState.PRUNED: "✂", TrialState.FAIL: "✕"}  # in the names of runs: MLflow has no state for pruned ones
RUN_NAME = "mlflow.runName"
NOTE = "mlflow.note.content"
VIEW = "trials"  # key of the view in an experiment's tags and in links

MAX_CLASSES = 30  # a larger confusion matrix is left out of the model card
WHOLE = {"matrix": True, "listed": 12, "per_class": MAX_CLASSES, "rows": None, "width": None}
"""All of a page: the confusion matrix, `listed` classes by name and `per_class` in a table, worst recall first, and
`rows` of a list, names up to `width` characters."""
SHORTER: tuple[dict[str, Any], ...] = (
    WHOLE,
    {**WHOLE, "matrix": False},
    {**WHOLE, "matrix": False, "listed": 3},
    {**WHOLE, "matrix": False, "listed": 3, "per_class": 10},
    {"matrix": False, "listed": 3, "per_class": 5, "rows": 10, "width": 60},
    {"matrix": False, "listed": 3, "per_class": 0, "rows": 5, "width": 20},
)
"""Parts of a page, in the order in which they are dropped until MLflow can store it."""


def run_name(number: int, label: str, mark: str = "") -> str:
    """Return a name such as `#017 cnn-3x32 adamw 3.1e-3`, with the mark after the number."""
    return " ".join(part for part in (f"#{number:03d}", mark, label) if part)


def experiment_tags(study: str, metric: str, *, maximize: bool) -> dict[str, str]:
    """Return the tags with an experiment's note and with its view of all trials, best first."""
    note = (
        f"Search `{study}`: {WINNER} the winner, {MARKS[TrialState.PRUNED]} pruned, {MARKS[TrialState.FAIL]} failed. "
        f"The run `search {study}` carries the summary, the report and the leaderboard."
    )
    note = lengths.cut(note, lengths.EXPERIMENT_TAG_VALUE)
    return {NOTE: note, f"mlflow.sharedViewState.{VIEW}": json.dumps(_view(metric, maximize=maximize))}


def _view(metric: str, *, maximize: bool) -> Mapping[str, object]:
    """Return what MLflow's page stores when a user shares a view (observed in MLflow 3.17).

    Only a view can show more than ten runs, put validation before training, and choose the columns of the table.
    """
    value = f"metrics.`{mlflow_name(metric)}`"
    is_function = metric == FunctionObjective.metric
    metrics = () if is_function else ("metrics.`train_seconds`", "metrics.`parameters`")
    columns = ("tags.`optuna.state`", "runDateAndNestInfo", "duration", *metrics)
    narrow = dict.fromkeys((*columns, "attributes.`Models`", "attributes.`Dataset`"), 110)
    widths_px = {"attributes.`Run Name`": 300, value: 125, **narrow}
    section = {"display": True, "isReordered": False, "deleted": False, "isGenerated": True}
    curves = ["intermediate"] if is_function else ["val", "train"]
    names = [*curves, "Model metrics", "System metrics"]
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


def note(study: StudyRecord, summary: Summary) -> str:
    """Write the note shown at the top of the parent run and of the winner's run."""
    outcome = present(study, summary, Decimals())
    return _render("note.md.j2", lengths.RUN_TAG_VALUE, study=study, outcome=outcome, star=WINNER)


def model_card(study: StudyRecord, summary: Summary, metadata: Mapping[str, Any], uri: str) -> str:
    """Write the card of a registered version from its metadata (`version.metadata`) and its URI."""
    return _render(
        "model_card.md.j2",
        lengths.VERSION_DESCRIPTION,
        study=study,
        outcome=present(study, summary, Decimals()),
        confusion=[[str(count or "") for count in counts] for counts in summary.confusion or ()],
        classes_tested=class_rows(summary, len(summary.classes)),
        note=summary.note,
        data=_oddities(study.provenance.get("dataset") or {}),
        metadata={"classes": (), "data": {}, "dtype": "float32", **metadata},
        origin={"command": "", "later_commands": (), "seed": "", "versions": {}, **study.provenance},
        uri=uri,
    )


def _oddities(dataset: Mapping[str, Any]) -> list[str]:
    """Sentences about what is odd in the data."""
    names = ("left out", "note", *(["duplicates"] if dataset.get("duplicates") else []))
    return [row.text for row in describe_dataset(dataset) if row.name in names]


def _render(template: str, limit: int, **values: object) -> str:
    """Render a template, ever shorter until it has at most `limit` characters."""
    for spared in SHORTER:
        text = _environment().get_template(template).render(values, **spared)
        text = re.sub(r"\n{3,}", "\n\n", text).strip()  # paragraphs left out leave blank lines
        if len(text) <= limit:
            break
    return lengths.cut(text, limit)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    strict = jinja2.StrictUndefined
    environment = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=strict)
    environment.filters["cell"] = _table_cell
    environment.filters["short"] = _short
    return environment


@jinja2.pass_context
def _short(context: jinja2.runtime.Context, text: object) -> str:
    """Cut a name that the user chose, if the page must be short."""
    return str(text) if (width := context["width"]) is None else lengths.cut(str(text), width)


def _table_cell(text: str) -> str:
    """Keep bars and newlines inside a table cell from ending it."""
    return " ".join(text.split()).replace("|", "\\|")
