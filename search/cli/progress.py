"""Displays of a search: a live table in a terminal, plain lines anywhere else, JSON for programs."""

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

from search.common.text import duration, printable
from search.coordinator.progress import TRIALS, SearchProgress, Standing
from search.study.records import TrialRecord
from search.study.space.limits import describe

MAX_DRAWN = 1e300
SPARK_CHARACTERS = "▁▂▃▄▅▆▇█"


class PlainDisplay:
    """One line per trial, for pipes, logs and CI."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._outage: str | None = None

    def busy(self, text: str) -> AbstractContextManager[object]:
        return nullcontext()

    def begin(self, title: str, target: int, done: int, unit: str = TRIALS) -> None:
        if target > 1 or unit == TRIALS:
            self.notice(f"{title}: {done} of {target} {unit} done")
        elif done < target:
            self.notice(title)

    def refresh(self, progress: SearchProgress) -> None:
        """Print a line when tracking fails or recovers."""
        if (progress.tracking_error is None) != (self._outage is None):
            self.tracking(progress.tracking_error)
        self._outage = progress.tracking_error

    def tracking(self, outage: str | None) -> None:
        """Print why tracking fails, or that it works again."""
        self.notice(f"tracking is out of reach ({outage}); the search goes on" if outage else "tracking is back")

    def trial_ended(self, trial: TrialRecord, standing: Standing) -> None:
        parts = [f"[{standing.finished}/{standing.target}]", f"trial {trial.number}", trial.label or "-"]
        parts.append(describe_end(trial))
        if (best := standing.best) is not None and best.value is not None:
            parts.append(f"best {best.value:.4f} (trial {best.number})")
        if standing.left_s:
            parts.append(time_left(standing.left_s))
        self.notice("  ".join(parts))

    def notice(self, text: str) -> None:
        """Print the text unwrapped, so that grep finds whole lines."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        pass


class JsonDisplay(PlainDisplay):
    """One JSON object per line, for programs."""

    def event(self, event: str, **values: Any) -> None:
        """Print an object with the event, its time and its values."""
        time_ = datetime.now().isoformat(timespec="milliseconds")
        super().notice(json.dumps({"event": event, "time": time_, **values}))

    def begin(self, title: str, target: int, done: int, unit: str = TRIALS) -> None:
        self.event("begin", title=title, unit=unit, target=target, finished=done)

    def tracking(self, outage: str | None) -> None:
        self.event("tracking", trouble=outage)

    def trial_ended(self, trial: TrialRecord, standing: Standing) -> None:
        best = standing.best and {"number": standing.best.number, "value": standing.best.value}
        event = "trial" if standing.unit == TRIALS else "training"
        counts = {"finished": standing.finished, "target": standing.target, "left_s": standing.left_s}
        self.event(event, trial=trial.as_dict(), **counts, best=best)

    def notice(self, text: str) -> None:
        self.event("notice", text=text)


class LiveDisplay:
    """A table that is redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = self._new_table()
        self._title, self._started = "", time.monotonic()

    def busy(self, text: str) -> AbstractContextManager[object]:
        return self._console.status(text)

    def begin(self, title: str, target: int, done: int, unit: str = TRIALS) -> None:
        self._title, self._started = title, time.monotonic()
        self._live = self._new_table()  # one that starts again would erase as many lines as it had
        self._live.start()

    def refresh(self, progress: SearchProgress) -> None:
        self._live.update(self._render(progress), refresh=True)

    def trial_ended(self, trial: TrialRecord, standing: Standing) -> None:
        """Print a line above the table for a new best trial, a failed one, and every training that is not a trial."""
        is_best = standing.best is not None and standing.best.number == trial.number
        has_failed = trial.state == TrialState.FAIL
        if is_best or has_failed or standing.unit != TRIALS:
            mark = ("★ ", "yellow") if is_best else ("✕ ", "red") if has_failed else ("· ", "dim")
            self._console.print(Text.assemble(mark, f"#{trial.number:03d} {trial.label}  ", describe_end(trial)))

    def notice(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def end(self) -> None:
        self._live.stop()

    def _new_table(self) -> Live:
        return Live(console=self._console, auto_refresh=False, transient=True)

    def _render(self, progress: SearchProgress) -> Group:
        bar = Table.grid(expand=True)  # a bare ProgressBar does not end its line
        bar.add_row(ProgressBar(total=progress.standing.target, completed=progress.standing.finished))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        position = "epoch" if any(trial.epochs for trial in progress.running) else "step"
        for name in ("trial", "configuration", position, progress.metric, "curve"):
            table.add_column(name, justify="right" if name in (position, progress.metric) else "left", no_wrap=True)
        for trial in progress.running:
            value = f"{trial.curve[-1]:.4f}" if trial.curve else "-"
            table.add_row(f"#{trial.number:03d}", trial.label, trial.position, value, sparkline(trial.curve))
        parts: list[Table | Text] = [self._headline(progress), bar, table]
        if progress.tracking_error:
            parts.append(Text(f"tracking is out of reach, nothing is lost: {progress.tracking_error}", style="yellow"))
        return Group(*parts)

    def _headline(self, progress: SearchProgress) -> Text:
        standing = progress.standing
        parts = [f"{standing.finished}/{standing.target} {standing.unit}"] if standing.target > 1 else []
        names = {TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
        parts += [f"{standing.counts[state]} {name}" for state, name in names.items() if standing.counts[state]]
        if (best := standing.best) is not None and best.value is not None:
            parts.append(f"best {best.value:.4f} (#{best.number:03d})")
        parts.append(self._remaining_time(standing))
        return Text.assemble((self._title, "bold"), "  ", " · ".join(parts))

    def _remaining_time(self, standing: Standing) -> str:
        if standing.left_s is not None:
            return time_left(standing.left_s)
        return f"{duration(time.monotonic() - self._started)} so far, estimating the time left"


def time_left(seconds: float) -> str:
    """Write the time that the whole search still takes, confirmation and refit included."""
    return f"about {duration(seconds)} left"


def describe_end(trial: TrialRecord) -> str:
    """Describe in a few words how a trial ended."""
    seconds = f" in {duration(trial.seconds)}" if trial.seconds is not None else ""
    value = f"{trial.value:.4f}" if trial.value is not None else "-"
    name = f" [{trial.baseline}]" if trial.baseline else ""
    limit = "" if trial.feasible else f" ({describe(trial.metrics) or 'a constraint'}: above the limit)"
    match trial.state:
        case TrialState.COMPLETE if trial.value is None:  # a refit, which has no validation split
            return f"trained{seconds}"
        case TrialState.COMPLETE:
            return f"{value}{seconds}{name}{limit}"
        case TrialState.PRUNED if trial.value is None and limit:
            return f"refused{limit}{name}"
        case TrialState.PRUNED:
            epochs = trial.metrics.get("epochs")
            position = "" if epochs is None else f" after {epochs:g} epoch{'' if epochs == 1 else 's'}"
            return f"pruned at {value}{position}{seconds}{name}"
        case _:
            reason = printable("".join((trial.failure_message or "").splitlines()[:1]), limit=300)
            return f"failed ({trial.failure}): {reason}{name}"


def sparkline(curve: Sequence[float], width: int = 20) -> str:
    """Draw the last `width` points of a curve with block characters, scaled from the lowest to the highest."""
    points = [point for point in curve if abs(point) < MAX_DRAWN][-width:]  # neither NaN nor infinite
    low = min(points, default=0.0)
    span = (max(points, default=0.0) - low) or 1.0
    return "".join(SPARK_CHARACTERS[round((point - low) / span * 7)] for point in points)
