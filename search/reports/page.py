"""The report of a study: one HTML file that needs no network.

plotly's JavaScript (4.8 MB) is embedded once, and figures are drawn as they scroll into view. All data comes from
Optuna's storage, none from MLflow.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import optuna
from optuna.trial import TrialState
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from objectives.files import write_atomic
from search.common.text import duration
from search.reports import comparison, tables, timing
from search.reports.charts import against_cost, best_curves
from search.reports.elements import Chart, Unit, winner
from search.reports.optuna_charts import OptunaCharts
from search.reports.style import TEMPLATE
from search.study.presenter import present
from search.study.records import StudyRecord, json_values

TEMPLATES = Path(__file__).parent / "templates"
PICTURE_BYTES = 1_200_000
"""Room for images in a file that stays under 8 MB."""
COSTS = {
    "train_seconds": ("Against training time", "seconds of training"),
    "parameters": ("Against model size", "weights in the model"),
    "latency_ms": ("Against latency", "milliseconds for one prediction"),
}
"""Title and axis of a chart by the cost that it shows."""


def write_report(
    study: optuna.Study,
    output: Path,
    *,
    others: Sequence[optuna.Study] = (),
    pictures: Mapping[str, bytes] | None = None,
) -> Path:
    """Write the report of `study` to `output` and return its path.

    The page compares `study` with `others`, and shows `pictures` (PNG files by title) as sample predictions. The study
    may be in any state: empty, running, all failed. Raises OSError when the file cannot be written.
    """
    return write_atomic(output, render(study, others=others, pictures=pictures or {}).encode())


def render(study: optuna.Study, *, others: Sequence[optuna.Study], pictures: Mapping[str, bytes]) -> str:
    """Return the page as text."""
    record = StudyRecord.of(study)
    compared = [record, *map(StudyRecord.of, others)]
    of_optuna = OptunaCharts.of(study, record)
    charts = _charts(of_optuna, record) | {"compared": _comparing(of_optuna, others, compared)}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(
        **_words(record, compared, of_optuna.varying),
        charts=charts,
        figures={chart.key: _script(chart.figure) for section in charts.values() for chart in section if chart.figure},
        template=_script(TEMPLATE),
        pictures=_embedded(pictures),
        style=(TEMPLATES / "report.css").read_text(),
        script=(TEMPLATES / "report.js").read_text(),
        plotly=get_plotlyjs(),
    )


def _charts(of_optuna: OptunaCharts, record: StudyRecord) -> dict[str, list[Chart]]:
    """Make the charts of one study, by the section of the page that shows them."""
    timed = any("latency_ms" in trial.metrics for trial in record.trials)
    costs = [key for key in COSTS if timed or key != "latency_ms"]
    return {
        "progress": [
            of_optuna.history(),
            of_optuna.edf(),
            best_curves(record),
            of_optuna.intermediate(),
            of_optuna.timeline(),
        ],
        "parameters": [
            of_optuna.importance(),
            of_optuna.slice(),
            of_optuna.rank(),
            of_optuna.contour(),
            of_optuna.parallel(),
        ],
        "cost": [*(against_cost(record, key, *COSTS[key]) for key in costs), timing.workers_over_time(record)],
    }


def _comparing(of_optuna: OptunaCharts, others: Sequence[optuna.Study], compared: Sequence[StudyRecord]) -> list[Chart]:
    if not others:
        return []
    return [
        comparison.best_by_trials(compared),
        comparison.best_by_time(compared),
        of_optuna.edf(others),
    ]


def _words(record: StudyRecord, compared: Sequence[StudyRecord], varying: Sequence[str]) -> dict[str, Any]:
    columns, rows = tables.leaderboard(record, varying)
    best = winner(record)
    return {
        "record": record,
        "unit": Unit.of(record),
        "winner": best,
        "winner_params": tables.flat(best.params) if best else [],
        "headline": tables.headline(record),
        "dots": tables.dots(record),
        "outcome": present(record, record.summary, Unit.of(record)) if record.summary else None,
        "states": tables.states(record),
        "running": record.count(TrialState.RUNNING),
        "costs": _costs(record),
        "time_parts": timing.time_parts(record),
        "columns": columns,
        "rows": rows,
        "left_out": len(record.trials) - len(rows),
        "failures": tables.failures(record),
        "provenance": tables.flat(record.provenance),
        "sessions": timing.sessions(record),
        "comparison": comparison.comparison(compared) if len(compared) > 1 else [],
        "written": datetime.now().strftime("%-d %B %Y, %H:%M"),
    }


def _costs(record: StudyRecord) -> list[tuple[str, str]]:
    """What the search cost: (name, amount)."""
    training, confirming = timing.training_s(record), timing.confirming_s(record)
    ended = [trial.seconds for trial in record.trials if trial.seconds]
    rows = [
        ("wall time", duration(timing.wall_s(record))),
        ("training of trials, all workers", duration(training or None)),
    ]
    if confirming:
        rows.append(("training to confirm and refit", duration(confirming)))
    if ended:
        rows.append(("a trial, on average", duration(sum(ended) / len(ended))))
    if record.sessions:
        rows.append(("starts of the search", f"{len(record.sessions)}"))
    return rows


def _script(values: Any) -> str:
    """Return JSON that cannot end the script element around it."""
    text = json.dumps(json_values(values), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _embedded(pictures: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """Return (title, base64) of each image, with an empty text for those that do not fit."""
    room, shown = PICTURE_BYTES, []
    for name, content in pictures.items():
        encoded = base64.b64encode(content).decode()
        fits = len(encoded) <= room
        room -= len(encoded) if fits else 0
        shown.append((name, encoded if fits else ""))
    return shown
