"""The display of a search in a notebook: one output, which is redrawn in place and stays as a short line.

It is shown before the libraries are imported, so nothing heavy is imported here.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from search.common.text import duration, printable
from search.python.pages import TEMPLATES

if TYPE_CHECKING:
    from search.coordinator.progress import SearchProgress, Standing
    from search.study.records import TrialRecord

REDRAW_S = 0.4  # a notebook over a network would fall behind with more


def in_notebook() -> bool:
    """True in a kernel of Jupyter, also while a notebook is executed without a browser."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None  # a terminal's IPython has none


def import_progress_bars() -> None:
    """Import what Optuna draws progress bars with. In a notebook it warns that ipywidgets is missing, unneeded here."""
    with suppress(ImportError), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        import tqdm.auto  # type: ignore[import-untyped, unused-ignore]  # noqa: F401


class NotebookDisplay:
    """A block of HTML with the headline, a bar, the running trials and the notices."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._title, self._busy = "", ""
        self._progress: SearchProgress | None = None
        self._started = time.monotonic()
        self._shown_at = -REDRAW_S
        self._handle: Any = None
        self._thread = threading.current_thread()

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Show `text` until the block ends."""
        self._busy = text
        self._show()
        try:
            yield
        finally:
            self._busy = ""

    def begin(self, title: str, target: int, done: int, unit: str = "trials") -> None:
        self._title = title
        self._show()

    def refresh(self, progress: SearchProgress) -> None:
        self._progress = progress
        if time.monotonic() - self._shown_at >= REDRAW_S:
            self._show()

    def trial_ended(self, trial: TrialRecord, standing: Standing) -> None:
        """Keep a line for a trial that failed; the table shows the others."""
        from search.cli.progress import describe_end

        if trial.state.name == "FAIL":
            self.notice(f"#{trial.number:03d} {trial.label} {describe_end(trial)}".replace("  ", " "))

    def notice(self, text: str) -> None:
        """Keep a line. Another thread may call this, so it is shown with the next change."""
        self._lines.append(printable(text))
        if threading.current_thread() is self._thread:
            self._show()

    def end(self) -> None:
        self._progress = None

    def close(self, text: str) -> None:
        """Leave one line, above what was noticed on the way."""
        self._title, self._busy, self._progress = text, "", None
        self._show(is_over=True)

    def _show(self, *, is_over: bool = False) -> None:
        from IPython.display import display

        self._shown_at = time.monotonic()
        page = TEMPLATES.get_template("progress.html.j2").render(**self._content(), is_over=is_over)
        plain = "\n".join([self._headline(), *self._lines])
        bundle = {"text/html": page, "text/plain": plain}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)

    def _headline(self) -> str:
        return self._busy or self._title or "search"

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = {"headline": self._headline(), "lines": self._lines, "running": [], "details": []}
        if (progress := self._progress) is None:
            return content
        from search.cli.progress import sparkline

        standing = progress.standing
        content["share"] = 100 * min(1.0, standing.finished / max(1, standing.target))
        content["details"] = list(self._details(progress))
        content["running"] = [
            {
                "number": f"#{trial.number:03d}",
                "label": trial.label,
                "position": trial.position,
                "value": f"{trial.curve[-1]:.4f}" if trial.curve else "-",
                "curve": sparkline(trial.curve),
            }
            for trial in progress.running
        ]
        return content

    def _details(self, progress: SearchProgress) -> Iterator[str]:
        from optuna.trial import TrialState

        from search.cli.progress import time_left

        standing = progress.standing
        if standing.target > 1:
            yield f"{standing.finished} of {standing.target} {standing.unit}"
        for state, name in ((TrialState.PRUNED, "pruned"), (TrialState.FAIL, "failed")):
            if standing.counts[state]:
                yield f"{standing.counts[state]} {name}"
        if (best := standing.best) is not None and best.value is not None:
            yield f"best {best.value:.4f} (#{best.number:03d})"
        yield time_left(standing.left_s) if standing.left_s is not None else duration(time.monotonic() - self._started)
        if progress.tracking_error:
            yield f"tracking is out of reach, nothing is lost: {progress.tracking_error}"
