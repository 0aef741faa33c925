"""MLflow's pages, the dashboard and the report of finished searches, in a real browser.

`python -m search ui` starts the servers. Every page shows a search that `python -m search` has just finished.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Overheard, Served, chromium, needs_chromium, see_everything, served
from shell import mnist_folder, rows, search

from objectives.data.datasets import load_test_split

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), needs_chromium]

CHART = """() => {
  for (const plot of document.querySelectorAll('.js-plotly-plot')) {
    let card = plot;
    while (card.parentElement?.querySelectorAll('.js-plotly-plot').length === 1) card = card.parentElement;
    if (!card.parentElement || !card.textContent.includes('val/accuracy') || !plot._fullData) continue;
    const drawn = [...plot._fullData].filter(trace => trace.visible === true && trace.type === 'scatter');
    return drawn.map(trace => [trace.name, trace.y.length]);
  }
  return [];
}"""
"""Names and lengths of the lines in MLflow's chart of the validation accuracy."""

IMAGE = "i.src.startsWith('blob:') && i.naturalWidth > 300"
"""An artifact that MLflow's page has loaded."""

COUNT = """id => {
  const plot = document.querySelector(`#${id}.js-plotly-plot, #${id} .js-plotly-plot`);
  return plot ? plot.querySelectorAll('.point').length : 0;
}"""
"""Number of dots or bars that a figure of the dashboard has drawn."""


@dataclass(frozen=True)
class Study:
    """A finished study as the databases store it."""

    folder: Path
    name: str

    @property
    def trials(self) -> dict[str, str]:
        """State by name of the run, such as `#003 cnn-3x24 adamw 1.0e-2`."""
        query = (
            "SELECT r.name, s.value FROM runs r JOIN experiments e USING (experiment_id) JOIN tags k USING (run_uuid) "
            "JOIN tags s USING (run_uuid) WHERE e.name = ? AND k.key = 'kind' AND k.value = 'trial' "
            "AND s.key = 'optuna.state'"
        )
        return dict(rows(self.folder / "mlflow.db", query, self.name))

    @property
    def drawable(self) -> dict[str, str]:
        """Trials with at least one report; a trial may diverge before its first."""
        return {name: state for name, state in self.trials.items() if state != "FAIL"}

    @property
    def winner(self) -> str:
        """MLflow's id of the winner's run."""
        query = (
            "SELECT run_uuid FROM runs JOIN experiments e USING (experiment_id) JOIN tags t USING (run_uuid) "
            "WHERE e.name = ? AND t.key = 'winner' AND t.value = 'true'"
        )
        ((run,),) = rows(self.folder / "mlflow.db", query, self.name)
        return str(run)

    @property
    def experiment(self) -> str:
        """MLflow's id of its experiment."""
        query = "SELECT experiment_id FROM experiments WHERE name = ?"
        ((number,),) = rows(self.folder / "mlflow.db", query, self.name)
        return str(number)

    @property
    def study_id(self) -> int:
        """Optuna's id of the study."""
        ((number,),) = rows(self.folder / "optuna.db", "SELECT study_id FROM studies WHERE study_name = ?", self.name)
        return int(number)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of 9 trials of digits, and one of 3 quick trials of MNIST images if its files are there."""
    folder, mnist = tmp_path_factory.mktemp("searched"), mnist_folder()
    quick = ("--trials", 3, "--epochs", 2, "--fix", "family=mlp", "--confirm", 1, "--confirm-seeds", 1)
    searches = []
    if mnist:
        np.savez(folder / "mnist.npz", **few_mnist(mnist))
        searches = [("npz:mnist.npz", "--study", "mnist", "--register", "mnist", *quick)]
    for words in [*searches, ("digits", "--trials", 9, "--epochs", 4, "--confirm", 2)]:
        result = search("--dataset", *words, cwd=folder)
        assert result.returncode == 0, result.stderr
    return folder


def few_mnist(data: Path) -> dict[str, Any]:
    """Real images of MNIST, so few that a search takes seconds."""
    images, labels = load_test_split("mnist", data, None)
    return {"images": images[:2000, 0], "labels": labels[:2000]}


@pytest.fixture(scope="module")
def opened(searched: Path) -> Path:
    """The file to which the browser of `ui --open` writes each address, one a line."""
    return searched / "opened"


@pytest.fixture(scope="module")
def ui(searched: Path, opened: Path) -> Iterator[Served]:
    """Both servers, open at the latest study, digits."""
    scribe = searched / "scribe"
    scribe.write_text(f'#!/bin/sh\necho "$1" >> "{opened}"\n')
    scribe.chmod(0o755)
    with served(searched, "--open", env={"BROWSER": f"{scribe} %s"}) as servers:
        yield servers


@pytest.fixture(params=["digits", "mnist"])
def study(request: pytest.FixtureRequest, searched: Path) -> Study:
    """Each of the two studies."""
    if request.param == "mnist" and mnist_folder() is None:
        pytest.skip("needs the MNIST files: name their folder with SEARCH_DATA_DIR")
    return Study(searched, str(request.param))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One window for all tests."""
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A new tab."""
    tab = browser.new_page()
    yield tab
    tab.close()


def test_ui_is_ready_soon_and_opens_both_links(ui: Served, opened: Path) -> None:
    print(f"\nui: both servers ready in {ui.ready_s:.1f} s (15 s promised on two idle cores)")
    assert ui.ready_s < (15 if os.getloadavg()[0] < 1.5 else 60)  # a busy machine takes longer
    deadline = time.monotonic() + 10
    while not (opened.exists() and len(opened.read_text().split()) == 2) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert opened.read_text().split() == [ui.mlflow_link, ui.dashboard_link]


def test_the_deep_link_shows_every_trials_curves(ui: Served, page: Any, study: Study) -> None:
    latest = Study(study.folder, "digits").experiment
    page.goto(ui.mlflow_link.replace(f"experiments/{latest}/", f"experiments/{study.experiment}/"))
    trials = study.drawable
    page.wait_for_function(f"({CHART})().length >= {len(trials)}")
    lines = dict(page.evaluate(CHART))
    assert lines.keys() == trials.keys()
    complete = [name for name, state in trials.items() if state == "COMPLETE"]
    assert all(lines[name] > 1 for name in complete), "one point is no curve"
    listed = page.locator(".ag-center-cols-container, .ag-pinned-left-cols-container").all_inner_texts()
    assert "".join(listed).count("★") == 1
    assert "".join(listed).count("✂") == sum(state == "PRUNED" for state in trials.values())
    assert "".join(listed).count("✕") == len(study.trials) - len(trials)


def test_the_winners_run_shows_its_images_and_note(ui: Served, page: Any, study: Study) -> None:
    run = f"{ui.mlflow}/#/experiments/{study.experiment}/runs/{study.winner}"
    page.goto(f"{run}/artifacts")
    shown = {""}
    for name in ("confusion_matrix", "sample_predictions", "test_predictions"):
        page.get_by_text(f"{name}.png").first.click()
        loaded = f"[...document.images].find(i => {IMAGE} && !{sorted(shown)}.includes(i.src))"
        shown.add(page.wait_for_function(f"{loaded}?.src").json_value())
    page.get_by_role("tab", name="Overview").click()
    page.get_by_text(f"Winner of {study.name}").wait_for()
    page.get_by_text(re.compile(rf"{study.name}\S* \(")).wait_for()  # the dataset with its digest
    page.locator(f"a[href*='/models/{study.name}/versions/1']").first.wait_for()


def test_the_registry_shows_the_champion(ui: Served, page: Any, study: Study) -> None:
    page.goto(f"{ui.mlflow}/#/models/{study.name}")
    version = page.get_by_role("row", name="Version 1")
    version.wait_for()
    assert "champion" in version.inner_text()
    page.goto(f"{ui.mlflow}/#/models/{study.name}/versions/1")
    page.get_by_text("measured once").wait_for()


def test_the_dashboard_shows_history_importances_and_timeline(ui: Served, page: Any, study: Study) -> None:
    page.goto(f"{ui.dashboard_link.rpartition('/')[0]}/{study.study_id}")
    n = len(study.trials)
    page.wait_for_function(f"({COUNT})('plot-history') >= {len(study.drawable)}")
    page.wait_for_function(f"({COUNT})('graph-timeline') >= {n}")
    page.wait_for_function(f"({COUNT})('graph-hyperparameter-importances') >= 3")


def test_the_report_opens_from_disk_without_network(study: Study, browser: Any) -> None:
    report = study.folder / "mlruns" / "reports" / f"{study.name}.html"
    assert report.stat().st_size < 8_000_000
    scheme = "light" if study.name == "digits" else "dark"
    offline = browser.browser.new_context(offline=True, color_scheme=scheme)
    page = offline.new_page()
    heard = Overheard.on(page)
    for width in (1_400, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(report.as_uri())
        see_everything(page, at_least=10)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.querySelectorAll('#samples img')].map(i => i.naturalWidth > 300)") == [True]
    offline.close()
    assert heard.complaints == []
    assert heard.of_network() == []
