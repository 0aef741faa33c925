"""Displays of a search: a live table in a terminal, plain lines anywhere else, JSON for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any

from optuna.trial import TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.common.text import duration
from search.coordinator.progress import TRIALS, SearchProgress, Standing
from search.study.records import TrialRecord
from search.study.space.limits import describe

SPARKS = "▁▂▃▄▅▆▇█"


class PlainDisplay:
    """One line per trial, for pipes, logs and CI."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._trouble: str | None = None

    def busy(self, text: str) -> AbstractContextManager[object]:
        """Print nothing."""
        return nullcontext()

    def begin(self, title: str, target: int, done: int, unit: str = TRIALS) -> None:
        """Print what begins."""
        if target > 1 or unit == TRIALS:
            self.notice(f"{title}: {done} of {target} {unit} done")
        elif done < target:
            self.notice(title)

    def refresh(self, progress: SearchProgress) -> None:
        """Print a line when tracking fails or recovers."""
        trouble = progress.tracking_error
        if (trouble is None) != (self._trouble is None):
            self.tracking(trouble)
        self._trouble = trouble

    def tracking(self, trouble: str | None) -> None:
        """Print why tracking fails, or that it works again."""
        self.notice(f"tracking is out of reach ({trouble}); the search goes on" if trouble else "tracking is back")

    def trial_ended(self, trial: TrialRecord, standing: Standing) -> None:
        """Print one line about the trial."""
        best = standing.best
        parts = [f"[{standing.finished}/{standing.target}]", f"trial {trial.number}", f"{trial.label or '-'}"]
        parts.append(describe_end(trial))
        if best is not None and best.value is not None:
            parts.append(f"best {best.value:.4f} (trial {best.number})")
        self.notice("  ".join(parts))

    def notice(self, text: str) -> None:
        """Print the text unwrapped, so that grep finds whole lines."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        """Nothing to clean up."""


class JsonDisplay(PlainDisplay):
    """One JSON object per line, for programs."""

    def event(self, event: str, **values: Any) -> None:
        """Print one object: the event, its time and its values."""
        line = json.dumps({"event": event, "time": datetime.now().isoformat(timespec="milliseconds"), **values})
        super().notice(line)

    def begin(self, title: str, target: int, done: int, unit: str = TRIALS) -> None:
        """Print what begins."""
        self.event("begin", title=title, unit=unit, target=target, finished=done)

    def tracking(self, trouble: str | None) -> None:
        """Print why tracking fails; null when it works again."""
        self.event("tracking", trouble=trouble)

    def trial_ended(self, trial: TrialRecord, standing: Standing) -> None:
        """Print all data of the trial and the progress of the search."""
        best = standing.best and {"number": standing.best.number, "value": standing.best.value}
        event = "trial" if standing.unit == TRIALS else "training"
        self.event(event, trial=trial.as_dict(), finished=standing.finished, target=standing.target, best=best)

    def notice(self, text: str) -> None:
        """Print a message."""
        self.event("notice", text=text)


class LiveDisplay:
    """A table that is redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._title, self._started, self._done_before = "", time.monotonic(), 0

    def busy(self, text: str) -> AbstractContextManager[object]:
        """Show a spinner."""
        return self._console.status(text)

    def begin(self, title: str, target: int, done: int, unit: str = TRIALS) -> None:
        """Start drawing."""
        self._title, self._started, self._done_before = title, time.monotonic(), done
        self._live.start()

    def refresh(self, progress: SearchProgress) -> None:
        """Draw."""
        self._live.update(self._render(progress), refresh=True)

    def trial_ended(self, trial: TrialRecord, standing: Standing) -> None:
        """Print a line above the table for a new best trial, and for every training that is not a trial."""
        is_best = standing.best is not None and standing.best.number == trial.number
        if is_best or standing.unit != TRIALS:
            mark = ("★ ", "yellow") if is_best else ("· ", "dim")
            line = Text.assemble(mark, f"#{trial.number:03d} {trial.label}  ", describe_end(trial))
            self._live.console.print(line)

    def notice(self, text: str) -> None:
        """Print a message above the table."""
        self._live.console.print(text, markup=False, highlight=False)

    def end(self) -> None:
        """Remove the table."""
        self._live.stop()

    def _render(self, progress: SearchProgress) -> Group:
        bar = Table.grid(expand=True)  # a bare ProgressBar does not end its line
        bar.add_row(ProgressBar(total=progress.standing.target, completed=progress.standing.finished))
        parts: list[Table | Text] = [self._headline(progress), bar]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("trial", "configuration", "epoch", progress.metric, "curve"):
            table.add_column(name, justify="right" if name in ("epoch", progress.metric) else "left", no_wrap=True)
        for trial in progress.running:
            value = f"{trial.curve[-1]:.4f}" if trial.curve else "-"
            epoch = f"{trial.epoch:g}/{trial.epochs}"
            table.add_row(f"#{trial.number:03d}", trial.label, epoch, value, sparkline(trial.curve))
        parts.append(table)
        if progress.tracking_error:
            parts.append(Text(f"tracking is out of reach, nothing is lost: {progress.tracking_error}", style="yellow"))
        return Group(*parts)

    def _headline(self, progress: SearchProgress) -> Text:
        counts, standing = [], progress.standing
        if standing.target > 1:
            counts = [f"{standing.finished}/{standing.target} {standing.unit}"]
        for state, word in ((TrialState.PRUNED, "pruned"), (TrialState.FAIL, "failed")):
            if n := standing.counts[state]:
                counts.append(f"{n} {word}")
        best = standing.best
        if best is not None and best.value is not None:
            counts.append(f"best {best.value:.4f} (#{best.number:03d})")
        counts.append(self._time_left(standing))
        return Text.assemble((self._title, "bold"), "  ", " · ".join(counts))

    def _time_left(self, standing: Standing) -> str:
        elapsed = time.monotonic() - self._started
        done = standing.finished - self._done_before
        if done < 3:
            return f"{duration(elapsed)} so far"
        return f"about {duration(elapsed / done * (standing.target - standing.finished))} left"


def describe_end(trial: TrialRecord) -> str:
    """Describe in a few words how a trial ended."""
    seconds = f" in {duration(trial.seconds)}" if trial.seconds is not None else ""
    value = f"{trial.value:.4f}" if trial.value is not None else "-"
    name = f" [{trial.baseline}]" if trial.baseline else ""
    above = "" if trial.feasible else f" ({describe(trial.metrics)}: above the limit)"
    match trial.state:
        case TrialState.COMPLETE if trial.value is None:  # trained on all data but the test split
            return f"trained{seconds}"
        case TrialState.COMPLETE:
            return f"{value}{seconds}{name}{above}"
        case TrialState.PRUNED if trial.value is None:
            return f"refused{above}{name}"
        case TrialState.PRUNED:
            return f"pruned at {value} after {_epochs(trial.metrics.get('epochs', 0))}{seconds}{name}"
        case _:
            first = (trial.failure_message or "").splitlines()[:1]
            return f"failed ({trial.failure}): {''.join(first)}{name}"


def _epochs(n: float) -> str:
    return f"{n:g} epoch{'' if n == 1 else 's'}"


def sparkline(curve: Sequence[float], width: int = 20) -> str:
    """Draw a curve with block characters, scaled between its lowest and highest point."""
    points = list(curve)[-width:]
    if not points:
        return ""
    low, high = min(points), max(points)
    span = (high - low) or 1.0
    return "".join(SPARKS[round((point - low) / span * (len(SPARKS) - 1))] for point in points)
