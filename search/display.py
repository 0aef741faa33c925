"""What is seen while a search runs: a live table in a terminal, plain lines anywhere else, JSON for programs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from optuna.trial import TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.limits import describe
from search.records import TrialRecord
from search.text import duration

SPARKS = "▁▂▃▄▅▆▇█"
TRIALS = "trials"
"""What the trainings of a search are called; those that confirm its winner and make it are not trials."""


@dataclass(frozen=True)
class RunningTrial:
    """One trial at work."""

    number: int
    label: str
    epoch: float
    epochs: int
    curve: tuple[float, ...]


class Standing:
    """What became of the trials that ended. Each is looked at once: a long study must not slow its search down."""

    def __init__(self, target: int, ended: Iterable[TrialRecord] = (), *, maximize: bool, unit: str = TRIALS) -> None:
        self.target, self.maximize, self.unit = target, maximize, unit
        self.counts: Counter[TrialState] = Counter()
        self._best: TrialRecord | None = None
        for trial in ended:
            self.add(trial)

    def add(self, trial: TrialRecord) -> None:
        """One more."""
        self.counts[trial.state] += 1
        if trial.state == TrialState.COMPLETE and trial.value is not None and trial.feasible:
            sign = 1.0 if self.maximize else -1.0
            if self._best is None or sign * trial.value > sign * (self._best.value or 0.0):
                self._best = trial

    @property
    def finished(self) -> int:
        """How many ended."""
        return sum(n for state, n in self.counts.items() if state.is_finished())

    @property
    def best(self) -> TrialRecord | None:
        """The best completed trial within the limits, the first of several alike.

        Of trainings that confirm something, none is the best: their means count.
        """
        return self._best if self.unit == TRIALS else None


@dataclass(frozen=True)
class Snapshot:
    """Where the search is."""

    standing: Standing
    running: Sequence[RunningTrial]
    metric: str
    trouble: str | None = None
    """Why tracking cannot deliver at the moment."""


class Display(Protocol):
    """Shows a search."""

    def busy(self, text: str) -> AbstractContextManager[object]:
        """Something takes seconds before or after the trials: say so until the block ends."""
        ...

    def begin(self, title: str, target: int, done: int, unit: str = TRIALS) -> None:
        """Trainings begin, or go on with `done` of them; `unit` says what they are."""
        ...

    def refresh(self, snapshot: Snapshot) -> None:
        """Called a few times a second."""
        ...

    def trial_ended(self, trial: TrialRecord, standing: Standing) -> None:
        """A trial ended, and is counted."""
        ...

    def notice(self, text: str) -> None:
        """Something worth a line."""
        ...

    def end(self) -> None:
        """Leave the terminal as it was."""
        ...


class PlainDisplay:
    """One line per trial, for pipes, logs and CI."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._trouble: str | None = None

    def busy(self, text: str) -> AbstractContextManager[object]:
        """Say nothing: a log is not watched."""
        return nullcontext()

    def begin(self, title: str, target: int, done: int, unit: str = TRIALS) -> None:
        """Say what begins."""
        if target > 1 or unit == TRIALS:
            self.notice(f"{title}: {done} of {target} {unit} done")
        elif done < target:
            self.notice(title)

    def refresh(self, snapshot: Snapshot) -> None:
        """Say when tracking fails or recovers."""
        trouble = snapshot.trouble
        if (trouble is None) != (self._trouble is None):
            self.tracking(trouble)
        self._trouble = trouble

    def tracking(self, trouble: str | None) -> None:
        """Say that tracking fails, and why, or that it has recovered."""
        self.notice(f"tracking is out of reach ({trouble}); the search goes on" if trouble else "tracking is back")

    def trial_ended(self, trial: TrialRecord, standing: Standing) -> None:
        """One line."""
        best = standing.best
        parts = [f"[{standing.finished}/{standing.target}]", f"trial {trial.number}", f"{trial.label or '-'}"]
        parts.append(describe_end(trial))
        if best is not None and best.value is not None:
            parts.append(f"best {best.value:.4f} (trial {best.number})")
        self.notice("  ".join(parts))

    def notice(self, text: str) -> None:
        """Print as it is, never wrapped: lines are for grep."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        """Nothing to clean up."""


class JsonDisplay(PlainDisplay):
    """The same as one JSON object a line, for programs."""

    def event(self, event: str, **values: Any) -> None:
        """Print one object: what happened, when, and what belongs to it."""
        line = json.dumps({"event": event, "time": datetime.now().isoformat(timespec="milliseconds"), **values})
        super().notice(line)

    def begin(self, title: str, target: int, done: int, unit: str = TRIALS) -> None:
        """Say what begins."""
        self.event("begin", title=title, unit=unit, target=target, finished=done)

    def tracking(self, trouble: str | None) -> None:
        """Say why tracking fails; null when it has recovered."""
        self.event("tracking", trouble=trouble)

    def trial_ended(self, trial: TrialRecord, standing: Standing) -> None:
        """Everything about the trial, and where the search stands."""
        best = standing.best and {"number": standing.best.number, "value": standing.best.value}
        event = "trial" if standing.unit == TRIALS else "training"
        self.event(event, trial=trial.as_dict(), finished=standing.finished, target=standing.target, best=best)

    def notice(self, text: str) -> None:
        """Something worth a line."""
        self.event("notice", text=text)


class LiveDisplay:
    """A table that follows the search in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._title, self._started, self._done_before = "", time.monotonic(), 0

    def busy(self, text: str) -> AbstractContextManager[object]:
        """A spinner."""
        return self._console.status(text)

    def begin(self, title: str, target: int, done: int, unit: str = TRIALS) -> None:
        """Start drawing."""
        self._title, self._started, self._done_before = title, time.monotonic(), done
        self._live.start()

    def refresh(self, snapshot: Snapshot) -> None:
        """Draw."""
        self._live.update(self._render(snapshot), refresh=True)

    def trial_ended(self, trial: TrialRecord, standing: Standing) -> None:
        """Leave one line above the table for a new best, and for each training that is no trial."""
        is_best = standing.best is not None and standing.best.number == trial.number
        if is_best or standing.unit != TRIALS:
            mark = ("★ ", "yellow") if is_best else ("· ", "dim")
            line = Text.assemble(mark, f"#{trial.number:03d} {trial.label}  ", describe_end(trial))
            self._live.console.print(line)

    def notice(self, text: str) -> None:
        """One line above the table."""
        self._live.console.print(text, markup=False, highlight=False)

    def end(self) -> None:
        """Take the table away."""
        self._live.stop()

    def _render(self, snapshot: Snapshot) -> Group:
        bar = Table.grid(expand=True)  # a bar of its own does not end its line
        bar.add_row(ProgressBar(total=snapshot.standing.target, completed=snapshot.standing.finished))
        parts: list[Table | Text] = [self._headline(snapshot), bar]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("trial", "setting", "epoch", snapshot.metric, "curve"):
            table.add_column(name, justify="right" if name in ("epoch", snapshot.metric) else "left", no_wrap=True)
        for trial in snapshot.running:
            value = f"{trial.curve[-1]:.4f}" if trial.curve else "-"
            epoch = f"{trial.epoch:g}/{trial.epochs}"
            table.add_row(f"#{trial.number:03d}", trial.label, epoch, value, sparkline(trial.curve))
        parts.append(table)
        if snapshot.trouble:
            parts.append(Text(f"tracking is out of reach, nothing is lost: {snapshot.trouble}", style="yellow"))
        return Group(*parts)

    def _headline(self, snapshot: Snapshot) -> Text:
        counts, standing = [], snapshot.standing
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
    """How a trial ended, in a few words."""
    seconds = f" in {duration(trial.seconds)}" if trial.seconds is not None else ""
    value = f"{trial.value:.4f}" if trial.value is not None else "-"
    name = f" [{trial.baseline}]" if trial.baseline else ""
    above = "" if trial.feasible else f" ({describe(trial.metrics)}: above the limit)"
    match trial.state:
        case TrialState.COMPLETE if trial.value is None:  # nothing was left to measure it on
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
    """A curve as a line of blocks, its lowest point the lowest block."""
    points = list(curve)[-width:]
    if not points:
        return ""
    low, high = min(points), max(points)
    span = (high - low) or 1.0
    return "".join(SPARKS[round((point - low) / span * (len(SPARKS) - 1))] for point in points)
