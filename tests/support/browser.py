"""A headless Chromium with MLflow's pages, the dashboard's and the report's in it, and the servers behind them."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from shell import alive, begin, children

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NO_ASSISTANT = """
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
"""
"""MLflow's page opens a panel for its assistant on a first visit, which takes a quarter of the window."""

needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium: apt-get install chromium")


@contextmanager
def chromium(*, width_px: int = 1_400, height_px: int = 900, **context: Any) -> Iterator[Any]:
    """A browser context of Playwright; `context` is what `new_context` takes."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        opened = browser.new_context(viewport={"width": width_px, "height": height_px}, **context)
        opened.add_init_script(NO_ASSISTANT)
        opened.set_default_timeout(30_000)
        yield opened
        browser.close()


@dataclass(frozen=True)
class Overheard:
    """What a page complained of and asked for."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @classmethod
    def on(cls, page: Any) -> Overheard:
        """Listen from now on."""
        heard = cls()
        page.on("console", lambda message: heard.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: heard.complaints.append(str(error)))
        page.on("request", lambda request: heard.requests.append(request.url))
        return heard

    def of_network(self) -> list[str]:
        """Requests for anything that is not in the file itself."""
        return [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))]


# The servers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """Both servers of `python -m search ui`, which answer."""

    mlflow_link: str
    dashboard_link: str
    ready_s: float

    @property
    def mlflow(self) -> str:
        """Address of MLflow's pages."""
        return self.mlflow_link.split("/#", 1)[0]


@contextmanager
def served(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> Iterator[Served]:
    """`python -m search ui` in `folder`, ended by Ctrl-C, which leaves no process."""
    started = time.monotonic()
    process = begin("ui", *words, cwd=folder, env=env)
    assert process.stdout
    try:
        links = [process.stdout.readline().strip().partition(": ")[2] for _ in range(2)]
        if not all(links):
            raise RuntimeError(f"ui did not start: {process.communicate(timeout=30)}")
        servers = children(process.pid)
        yield Served(links[0], links[1], time.monotonic() - started)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert not [pid for pid in servers if alive(pid)]
    finally:
        process.kill()  # its servers end with it


# The report ---------------------------------------------------------------------------------------------------------

PLOTS = "[...document.querySelectorAll('[data-figure]')]"
ALL_DRAWN = f"{PLOTS}.every(plot => plot.dataset.state === 'drawn')"
MARKS = "'.trace, .bars path, .contour path, .contourlayer *'"

HERE = """(() => {
  const link = document.querySelector('nav a.here').getBoundingClientRect();
  return document.querySelector('nav a.here').hash !== '#top' && link.left >= 0 && link.right <= innerWidth;
})()"""
"""The link to the section in view can be seen."""


def see_everything(page: Any, *, at_least: int) -> None:
    """Scroll to every figure of a report; assert that all are drawn, with something in them, `at_least` so many."""
    figures = page.locator("[data-figure]")
    assert figures.count() >= at_least
    for index in range(figures.count()):
        figures.nth(index).scroll_into_view_if_needed()
    page.wait_for_function(ALL_DRAWN, timeout=30_000)
    empty = page.evaluate(f"{PLOTS}.filter(p => !p.querySelector({MARKS})).map(p => p.dataset.figure)")
    assert empty == []
    page.wait_for_function(HERE)
