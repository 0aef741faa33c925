"""Real notebooks, executed by nbclient: what stays in their cells, and the stop button."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, needs_chromium
from shell import environment, wait_until

nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel: pip install nbclient ipykernel")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel: pip install nbclient ipykernel")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

OWN = """import search
from toy import Toy
class Own(Toy): name = "own"
result = search.run(Own, trials=6, jobs=2, confirm=2)
result"""
LATER = "result = search.run(Own, trials=6, jobs=2, confirm=2)"


class Notebook:
    """A notebook whose kernel runs in a folder."""

    def __init__(self, folder: Path) -> None:
        self.book = nbformat.v4.new_notebook()
        resources = {"metadata": {"path": str(folder)}}
        self.client = nbclient.NotebookClient(self.book, timeout=240, allow_errors=True, resources=resources)

    def run(self, source: str) -> list[Any]:
        """Run a new cell to its end and return its outputs."""
        self.book.cells.append(nbformat.v4.new_code_cell(source))
        return list(self.client.execute_cell(self.book.cells[-1], len(self.book.cells) - 1).outputs)

    def shown(self) -> str:
        """The first output of the last cell, which may still run."""
        outputs = self.book.cells[-1].outputs
        return str(outputs[0]["data"]["text/html"]) if outputs else ""

    def stop(self) -> None:
        """Press the stop button."""
        asyncio.run(self.client.km.interrupt_kernel())


@pytest.fixture
def notebook(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    notebook = Notebook(folder)
    with notebook.client.setup_kernel(cwd=str(folder)):
        yield notebook


def plain(output: Any) -> str:
    return str(output["data"]["text/plain"])


def test_five_lines_run_a_search_and_show_its_winner(notebook: Notebook, tmp_path: Path):
    """A class of the notebook, on two workers. One output is the progress, one the result."""
    assert len(OWN.splitlines()) <= 5
    progress, result = notebook.run(OWN)
    assert progress.output_type == "display_data"
    assert plain(progress).startswith("study own: winner trial ")
    assert result.output_type == "execute_result"
    assert plain(result).startswith("<search.Result of study own: winner trial ")
    assert "95% interval" in result["data"]["text/html"]
    (again,) = notebook.run(LATER)
    assert plain(again).startswith("nothing was left to do: study own: winner trial ")
    (after,) = notebook.run("import threading; print(threading.active_count(), len(result.study.trials))")
    (fresh,) = notebook.run("print(threading.active_count(), len(result.study.trials))")
    assert after["text"] == fresh["text"]
    assert after["text"].endswith(" 6\n")
    (error,) = notebook.run("search.run(Own, trails=5)")
    assert error["evalue"] == "search.run has no setting 'trails'; did you mean trials?"
    (missing,) = notebook.run("search.load_trial('own', 0)")
    assert "exists only in the notebook or program that gave it to search.run" in missing["evalue"]


def test_the_notebook_of_the_documentation_runs(notebook: Notebook):
    """A plain function, in five lines."""
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    cells = re.findall(r"```python\n(.*?)\n```", page, re.S)
    assert len([line for line in cells[0].splitlines() if line]) == 5
    outputs = [notebook.run(cell) for cell in cells]
    assert [[output.output_type for output in cell] for cell in outputs] == [
        ["display_data"],
        ["execute_result"],
        ["display_data"],
        ["display_data"],
        ["execute_result"],
        [],
    ]
    assert plain(outputs[0][0]).startswith("study objective: winner trial ")
    assert ", 30 trials" in plain(outputs[2][0])
    assert plain(outputs[4][0]).startswith("({'x': ")
    (sizes,) = notebook.run(
        "print(len(search.run(objective, trials=30, quiet=True).study.trials), len(figure.data) > 0)"
    )
    assert sizes["text"] == "30 True\n"


def test_the_stop_button_leaves_a_search_that_continues(notebook: Notebook, folder: Path):
    notebook.run("import os; os.environ['TOY_PAUSE_S'] = '0.3'; kept = 7")
    ended: list[Any] = []
    source = OWN.replace("trials=6", "trials=12")
    thread = threading.Thread(target=lambda: ended.extend(notebook.run(source)))
    thread.start()
    wait_until(lambda: "<table>" in notebook.shown(), 60, "a table of the running trials")
    wait_until(lambda: re.search(r"[1-9]\d* of 12 trials · .*best \d", notebook.shown()), 60, "a best trial")
    for _ in range(3):  # impatient
        notebook.stop()
    thread.join(60)
    progress, error = ended
    text = "Stopped. Nothing is lost: run the same call again to continue"
    assert plain(progress).startswith(text)
    assert (error["ename"], error["evalue"]) == ("KeyboardInterrupt", text)
    again = notebook.run(f"os.environ['TOY_PAUSE_S'] = '0'\n{source}")
    assert plain(again[0]).startswith("study own: winner trial ")
    (kept,) = notebook.run("print(kept, len(result.study.trials))")
    assert kept["text"] == "7 12\n"


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_result_can_be_read_in_both_colours(notebook: Notebook, tmp_path: Path, scheme: Any):
    _, result = notebook.run(OWN)
    paper, ink = {"light": ("#fff", "rgb(0, 0, 0)"), "dark": ("#111", "rgb(255, 255, 255)")}[scheme]
    style = f"background: {paper}; color: {ink}"
    page_file = tmp_path / f"{scheme}.html"
    page_file.write_text(f'<meta charset="utf-8"><body style="{style}">{result["data"]["text/html"]}')
    with chromium(width_px=900, height_px=500) as context:
        page = context.new_page()
        page.goto(page_file.as_uri())
        block = page.locator(".search-result")
        assert block.evaluate("e => getComputedStyle(e).color") == ink
        assert block.bounding_box()["height"] < 500
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
