"""One self-contained HTML file about a study: open it anywhere, with the network off.

plotly's JavaScript (4.8 MB) is embedded once and figures are drawn as they scroll into view. Everything is read from
Optuna's storage through `search.records`; nothing is asked of MLflow.
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
from search import report_charts, report_tables
from search.records import StudyRecord, json_values
from search.report_base import Chart, Unit, duration, winner
from search.report_confirmation import confirmation
from search.report_optuna import OptunaCharts

TEMPLATES = Path(__file__).parent / "templates"
PICTURE_BYTES = 1_200_000
"""Room for pictures in a file that stays under 8 MB."""


def write_report(
    study: optuna.Study,
    output: Path,
    *,
    others: Sequence[optuna.Study] = (),
    pictures: Mapping[str, bytes] | None = None,
) -> Path:
    """Write the report of `study` to `output` and return its path.

    `others` are compared with it side by side; `pictures` are PNG files by title, shown as sample predictions. Works
    for a study in any state: empty, running, all failed. Raises OSError when the file cannot be written.
    """
    return write_atomic(output, render(study, others=others, pictures=pictures or {}).encode())


def render(study: optuna.Study, *, others: Sequence[optuna.Study], pictures: Mapping[str, bytes]) -> str:
    """The page as text."""
    record = StudyRecord.of(study)
    compared = [record, *(StudyRecord.of(other) for other in others)]
    of_optuna = OptunaCharts(study, record)
    charts = _charts(of_optuna, record, others, compared)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(
        **_words(record, compared, of_optuna.varying()),
        charts=charts,
        figures={chart.key: _script(chart.figure) for section in charts.values() for chart in section if chart.figure},
        pictures=_pictures(pictures),
        style=(TEMPLATES / "report.css").read_text(),
        script=(TEMPLATES / "report.js").read_text(),
        plotly=get_plotlyjs(),
    )


def _charts(
    of_optuna: OptunaCharts, record: StudyRecord, others: Sequence[optuna.Study], compared: Sequence[StudyRecord]
) -> dict[str, list[Chart]]:
    """Charts by the section of the page they belong to."""
    sections = {
        "progress": [of_optuna.history(), of_optuna.edf(), report_charts.best_curves(record), of_optuna.intermediate(),
                     of_optuna.timeline()],
        "parameters": [of_optuna.importance(), of_optuna.slice(), of_optuna.rank(), of_optuna.contour(),
                       of_optuna.parallel()],
        "cost": [
            report_charts.against_cost(record, "train_seconds", "Against training time", "seconds of training"),
            report_charts.against_cost(record, "parameters", "Against model size", "weights in the model"),
            *([report_charts.against_cost(record, "latency_ms", "Against latency", "milliseconds for one prediction")]
              if any("latency_ms" in trial.metrics for trial in record.trials) else []),
            report_charts.trainers(record),
        ],
        "compared": [],
    }  # fmt: skip
    if others:
        sections["compared"] = [report_charts.compared_by_trials(compared), report_charts.compared_by_time(compared),
                                of_optuna.edf(others)]  # fmt: skip
    return sections


def _words(record: StudyRecord, compared: Sequence[StudyRecord], varying: Sequence[str]) -> dict[str, Any]:
    columns, rows = report_tables.leaderboard(record, varying)
    best = winner(record)
    return {
        "record": record,
        "unit": Unit.of(record),
        "winner": best,
        "winner_params": report_tables.flat(best.params) if best else [],
        "headline": report_tables.headline(record),
        "dots": report_tables.dots(record),
        "confirmation": confirmation(record),
        "states": report_tables.states(record),
        "running": record.count(TrialState.RUNNING),
        "costs": _costs(record),
        "time_parts": report_tables.time_parts(record),
        "columns": columns,
        "rows": rows,
        "left_out": len(record.trials) - len(rows),
        "failures": report_tables.failures(record),
        "provenance": report_tables.flat(record.provenance),
        "sessions": report_tables.sessions(record),
        "comparison": report_tables.comparison(compared) if len(compared) > 1 else [],
        "written": datetime.now().strftime("%-d %B %Y, %H:%M"),
    }


def _costs(record: StudyRecord) -> list[tuple[str, str]]:
    """What the search cost: (name, amount)."""
    wall, training = report_tables.wall_s(record), report_tables.training_s(record)
    ended = [trial.seconds for trial in record.trials if trial.seconds]
    rows = [("wall time", duration(wall)), ("training of trials, all trainers", duration(training or None))]
    if confirming := report_tables.confirming_s(record):
        rows.append(("training to confirm and refit", duration(confirming)))
    if ended:
        rows.append(("a trial, on average", duration(sum(ended) / len(ended))))
    if record.sessions:
        rows.append(("starts of the search", f"{len(record.sessions)}"))
    return rows


def _script(figure: dict[str, Any] | None) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(json_values(figure), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _pictures(pictures: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """(title, base64) of the pictures that fit; one that does not has an empty text."""
    room, shown = PICTURE_BYTES, []
    for name, content in pictures.items():
        encoded = base64.b64encode(content).decode()
        fits = len(encoded) <= room
        room -= len(encoded) if fits else 0
        shown.append((name, encoded if fits else ""))
    return shown
