"""The report of a study: one HTML file that needs no network.

plotly's JavaScript (4.8 MB) is embedded once, and figures are drawn as they scroll into view. All data comes from
Optuna's storage, none from MLflow.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import optuna
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from objectives.files import write_atomic
from search.reports import comparison, tables, timing
from search.reports.charts import against_cost, best_curves
from search.reports.elements import Chart, Unit, winner
from search.reports.optuna_charts import OptunaCharts
from search.reports.style import TEMPLATE
from search.study.records import StudyRecord, json_values
from search.study.state import State
from search.study.texts.classes import class_rows
from search.study.texts.presenter import present, state_text
from search.study.texts.setting import Row, describe_dataset, unequal_classes

TEMPLATES = Path(__file__).parent / "templates"
MAX_RECALLS = 30
"""Classes in the table of recalls, worst first."""
MAX_IMAGE_BYTES = 1_200_000
"""Room for images in a file that stays under 8 MB."""
COSTS = {
    "train_seconds": ("Against training time", "seconds of training"),
    "parameters": ("Against model size", "weights in the model"),
    "latency_ms": ("Against latency", "milliseconds for one prediction"),
}
"""Title and axis of the chart of each cost."""


def write_report(
    study: optuna.Study, output: Path, *, others: Sequence[optuna.Study] = (), images: Mapping[str, bytes] | None = None
) -> Path:
    """Write the report of `study` to `output` and return its path.

    The page compares `study` with `others`, and shows `images` (PNG files by title) as sample predictions. The study
    may be in any state: empty, running, all failed. Raises OSError when the file cannot be written.
    """
    return write_atomic(output, render(study, others=others, images=images or {}).encode())


def render(
    study: optuna.Study,
    *,
    others: Sequence[optuna.Study],
    images: Mapping[str, bytes],
    record: StudyRecord | None = None,
) -> str:
    """Return the page as text. `record` is the study as it is shown, by default as it is stored."""
    record = record or StudyRecord.of(study)
    compared = [record, *map(StudyRecord.of, others)] if others else []
    optuna_charts = OptunaCharts.of(study, record)
    charts = _charts(optuna_charts, record)
    if others:
        drawn = comparison.comparable(compared)
        alike = [other for other, study_record in zip(others, compared[1:], strict=True) if study_record in drawn]
        by_trials, by_time = comparison.best_by_trials(drawn), comparison.best_by_time(drawn)
        charts["compared"] = [by_trials, by_time, optuna_charts.edf(alike, compared=True)]
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html.j2").render(
        record=record,
        setting=_setting(record),
        unit=Unit.of(record),
        state=state_text(record) if record.state in (State.RUNNING, State.STOPPED) else None,
        stopped=record.stop_reason,
        winner=winner(record),
        outcome=present(record, record.summary, Unit.of(record)) if record.summary else None,
        recalls=class_rows(record.summary, MAX_RECALLS) if record.summary else (),
        leaderboard=tables.leaderboard(record, optuna_charts.varying),
        compared=comparison.table(compared) if others else None,
        left_out=comparison.left_out(compared) if others else "",
        charts=charts,
        figures={chart.key: _script(chart.figure) for section in charts.values() for chart in section if chart.figure},
        template=_script(TEMPLATE),
        images=_embedded(images),
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "report.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        written=timing.moment(datetime.now()),
        tables=tables,
        timing=timing,
    )


def _setting(record: StudyRecord) -> list[Row]:
    """The data and the devices of the study, in words."""
    dataset = record.provenance.get("dataset") or {}
    rows = describe_dataset(dataset)
    if unequal := unequal_classes(dataset, record.metric):
        rows.append(Row("note", unequal))
    workers = record.provenance.get("hardware", {}).get("workers")
    return [*rows, *([Row("device", workers)] if workers else [])]


def _charts(optuna_charts: OptunaCharts, record: StudyRecord) -> dict[str, list[Chart]]:
    """Make the charts of one study, by the section of the page that shows them."""
    plots, metrics = optuna_charts, set().union(*(trial.metrics for trial in record.trials))
    usual = {"train_seconds", "parameters"} if not record.is_function else set()
    costs = [key for key in COSTS if key in metrics | usual]
    return {
        "progress": [plots.history(), plots.edf(), best_curves(record), plots.intermediate(), plots.timeline()],
        "parameters": [plots.importance(), plots.slice(), plots.rank(), plots.contour(), plots.parallel()],
        "cost": [*(against_cost(record, key, *COSTS[key]) for key in costs), timing.workers_over_time(record)],
    }


def _script(values: Any) -> str:
    """Return JSON that cannot end the script element around it."""
    text = json.dumps(json_values(values), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _embedded(images: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """Return (title, base64) of each image, with an empty text for those that do not fit."""
    room, shown = MAX_IMAGE_BYTES, []
    for title, content in images.items():
        encoded = base64.b64encode(content).decode()
        shown.append((title, encoded if len(encoded) <= room else ""))
        room -= len(shown[-1][1])
    return shown
