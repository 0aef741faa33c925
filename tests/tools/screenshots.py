"""Update the screenshots in docs/: `python tests/tools/screenshots.py FOLDER STUDY` after a search in FOLDER.

Starts `python -m search ui` there, opens its pages and the report in headless Chromium, and writes small PNGs. Look at
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
"""MLflow's pages have a menu for language models and one for everything else."""
SETTLE_MS = 2_500
"""Charts move into place after their data has come."""


def main(folder: Path, study: str) -> None:
    """Write all screenshots of one study."""
    shown = json.loads(search("show", study, "--json", cwd=folder).stdout)
    run = next(trial["run_id"] for trial in shown["trials"] if trial["number"] == shown["summary"]["number"])
    report = folder / "mlruns" / "reports" / f"{study}.html"
    with served(folder, "--study", study) as ui, chromium() as browser:
        mlflow_pages(browser.new_page(), ui, run, shown["summary"]["model"]["name"])
        dashboard(browser.new_page(), ui)
        report_on_a_desk(browser.new_page(), report)
    with chromium(width_px=390, color_scheme="dark") as phone:
        report_on_a_phone(phone.new_page(), report)
    predictions(folder, shown["summary"]["model"]["name"])


def predictions(folder: Path, model: str) -> None:
    """The first test images with the predictions of the registered model."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "predictions.png"
        data = {"SEARCH_DATA_DIR": os.environ["SEARCH_DATA_DIR"]} if "SEARCH_DATA_DIR" in os.environ else {}
        done = search("predict", f"{model}:0-24", "--show", out, cwd=folder, env=data)
        if done.returncode:
            sys.exit(done.stderr)
        keep(out.read_bytes(), "predictions.png")


def mlflow_pages(page: Any, ui: Served, run: str, model: str) -> None:
    """All curves, the winner's sample predictions, the registered model."""
    page.goto(ui.mlflow_link)
    page.wait_for_selector(".js-plotly-plot .trace")
    page.wait_for_timeout(SETTLE_MS)
    keep(page.screenshot(), "mlflow-curves.png")
    experiment = ui.mlflow_link.split("experiments/")[1].split("/")[0]
    page.goto(f"{ui.mlflow}/#/experiments/{experiment}/runs/{run}/artifacts/sample_predictions.png?{TRAINING}")
    page.wait_for_function("[...document.images].some(i => i.src.startsWith('blob:') && i.naturalWidth > 300)")
    page.wait_for_timeout(SETTLE_MS)
    page.get_by_text("file://").first.evaluate("line => line.style.visibility = 'hidden'")  # of one machine alone
    keep(page.screenshot(), "mlflow-winner.png")
    page.goto(f"{ui.mlflow}/#/models/{model}/versions/1?{TRAINING}")
    page.get_by_text("measured once").wait_for()
    page.wait_for_timeout(SETTLE_MS)
    keep(page.screenshot(), "mlflow-registry.png")


def dashboard(page: Any, ui: Served) -> None:
    """Optuna's dashboard: history, importances, timeline."""
    page.set_viewport_size({"width": 1_400, "height": 1_180})
    page.goto(ui.dashboard_link)
    page.wait_for_selector("#graph-timeline .point")
    page.wait_for_timeout(SETTLE_MS)
    keep(page.screenshot(), "dashboard.png")


def report_on_a_desk(page: Any, report: Path) -> None:
    """The summary, and the section on cost."""
    page.set_viewport_size({"width": 1_400, "height": 1_000})
    see_report(page, report, "top")
    keep(page.screenshot(), "report.png")
    see_report(page, report, "cost")
    keep(page.screenshot(), "report-cost.png")


def report_on_a_phone(page: Any, report: Path) -> None:
    """Three screens side by side: the summary, the best curves, sample predictions."""
    wall = Image.new("RGB", (1_400, 1_000), "#d9dbe0")
    for place, part in enumerate(("top", "chart-best-curves", "samples")):
        see_report(page, report, part)
        screen = Image.open(io.BytesIO(page.screenshot()))
        wall.paste(screen, (58 + place * (390 + 57), 50))
    content = io.BytesIO()
    wall.save(content, "png")
    keep(content.getvalue(), "report-phone.png")


def see_report(page: Any, report: Path, part: str) -> None:
    """Open the report, wait until all charts are drawn, and scroll to one part."""
    page.goto(report.as_uri())
    see_everything(page, at_least=10)
    page.evaluate(f"document.documentElement.style.scrollBehavior = 'auto'; location.hash = '#{part}'")
    page.wait_for_timeout(SETTLE_MS)


def keep(png: bytes, name: str) -> None:
    """Write an image to docs/ with as many colours as its size allows. Raises ValueError if it stays too large."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in COLOURS:
        content = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(content, "png", optimize=True)
        if len(content.getvalue()) <= MAX_BYTES:
            (DOCS / name).write_bytes(content.getvalue())
            print(f"{name}: {len(content.getvalue()):,} bytes, {colours} colours")
            return
    raise ValueError(f"{name} stays above {MAX_BYTES:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).absolute(), sys.argv[2])
