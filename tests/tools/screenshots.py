"""Update the screenshots in docs/: `python tests/tools/screenshots.py FOLDER STUDY` after a search in FOLDER.

Starts `python -m search ui` there, opens its pages and the report in headless Chromium, and writes small PNGs. Check
each one before you commit it.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from browser import Served, chromium, see_everything, served
from PIL import Image
from shell import search

DOCS = Path(__file__).parents[2] / "docs"
MAX_BYTES = 150_000
COLOURS = (256, 128, 64, 32)
TRAINING = "workflowType=machine_learning"
"""Selects MLflow's menu for models that are not language models."""
SETTLE_MS = 2_500
"""Charts still move after their data has arrived."""


def main(folder: Path, study: str) -> None:
    """Write all screenshots of one study."""
    shown = json.loads(search("show", study, "--json", cwd=folder).stdout)
    run = next(trial["run_id"] for trial in shown["trials"] if trial["number"] == shown["summary"]["number"])
    report = folder / "mlruns" / "reports" / f"{study}.html"
    with served(folder, "--study", study) as ui, chromium() as browser:
        mlflow_pages(browser.new_page(), ui, run, shown["summary"]["model"]["name"])
        dashboard(browser.new_page(), ui)
        summary_of_report(browser.new_page(), report)
    predictions(folder, shown["summary"]["model"]["name"])


def predictions(folder: Path, model: str) -> None:
    """Save the first test images with the predictions of the registered model."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "predictions.png"
        data = {"SEARCH_DATA_DIR": os.environ["SEARCH_DATA_DIR"]} if "SEARCH_DATA_DIR" in os.environ else {}
        done = search("predict", f"{model}:0-24", "--show", out, cwd=folder, env=data)
        if done.returncode:
            sys.exit(done.stderr)
        keep(out.read_bytes(), "predictions.png")


def mlflow_pages(page: Any, ui: Served, run: str, model: str) -> None:
    """Save all curves, the winner's sample predictions and the registered model."""
    page.goto(ui.mlflow_link)
    page.wait_for_selector(".js-plotly-plot .trace")
    page.wait_for_timeout(SETTLE_MS)
    keep(page.screenshot(), "mlflow-curves.png")
    experiment = ui.mlflow_link.split("experiments/")[1].split("/")[0]
    page.goto(f"{ui.mlflow}/#/experiments/{experiment}/runs/{run}/artifacts/sample_predictions.png?{TRAINING}")
    page.wait_for_function("[...document.images].some(i => i.src.startsWith('blob:') && i.naturalWidth > 300)")
    page.wait_for_timeout(SETTLE_MS)
    keep(page.screenshot(), "mlflow-winner.png")
    page.goto(f"{ui.mlflow}/#/models/{model}/versions/1?{TRAINING}")
    page.get_by_text("measured once").wait_for()
    page.wait_for_timeout(SETTLE_MS)
    keep(page.screenshot(), "mlflow-registry.png")


def dashboard(page: Any, ui: Served) -> None:
    """Save Optuna's dashboard: history, importances, timeline."""
    page.set_viewport_size({"width": 1_400, "height": 1_220})
    page.goto(ui.dashboard_link)
    page.wait_for_selector("#graph-timeline .point")
    page.wait_for_timeout(SETTLE_MS)
    keep(page.screenshot(), "dashboard.png")


def summary_of_report(page: Any, report: Path) -> None:
    """Save the first screen of the report, after all its charts have been drawn."""
    page.set_viewport_size({"width": 1_400, "height": 1_000})
    page.goto(report.as_uri())
    see_everything(page, at_least=10)
    page.evaluate("document.documentElement.style.scrollBehavior = 'auto'; scrollTo(0, 0)")
    page.wait_for_timeout(SETTLE_MS)
    keep(page.screenshot(), "report.png")


def keep(png: bytes, name: str) -> None:
    """Write an image to docs/ with as many colours as its size allows. Raises ValueError if it stays too large."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in COLOURS:
        content = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(content, "png", optimize=True)
        if len(content.getvalue()) <= MAX_BYTES:
            (DOCS / name).write_bytes(content.getvalue())
            print(f"{name}: {len(content.getvalue()):,} bytes, {colours} colours")
            return
    raise ValueError(f"{name} stays above {MAX_BYTES:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).absolute(), sys.argv[2])
