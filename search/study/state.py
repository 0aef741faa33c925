"""Whether a study's search runs, has stopped or is finished, and what it does at present.

`StudyRecord.state` decides it, from the lock, the trials and the summary. Every page and command shows that.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Self

from optuna.trial import FrozenTrial


class State(StrEnum):
    """The state of a study's search."""

    RUNNING = "running"  # a process holds the study's lock
    STOPPED = "stopped"  # something is left to do, and no process does it
    FINISHED = "finished"


@dataclass(frozen=True)
class Holder:
    """The process that holds the lock of a study, as far as it can be seen from here."""

    pid: int | None = None
    host: str | None = None
    since: str | None = None

    def __str__(self) -> str:
        if self.pid is None:
            return "another process"
        return f"process {self.pid} on {self.host}" + (f" since {self.since}" if self.since else "")


@dataclass(frozen=True)
class Phase:
    """A part of a search, as its study stores it when it begins. After the last one, the study stores none."""

    kind: Literal["trials", "confirm", "refit", "finish"]
    title: str
    jobs: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    """By run, the trial and the label of each training that confirms or refits."""
    slots: int = 1
    epochs: int = 1  # of each whole training in it
    confirmations: int = 0  # trainings that confirm the best and follow it, at most
    refit_epochs: int = 0  # epochs of the refit that follows it
    until: str | None = None  # no trial begins after this time

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain JSON values, as stored in the study."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        return cls(**{**stored, "jobs": {run: (number, label) for run, (number, label) in stored["jobs"].items()}})


def measured(sessions: Sequence[Mapping[str, Any]], trials: Sequence[FrozenTrial]) -> Iterator[Mapping[str, Any]]:
    """Add durations, latest session first. A session that was killed or still runs lasts until its last trial event.

    Seconds since 1970 are compared: a later session may have another time zone.
    """
    events = [at.timestamp() for trial in trials for at in (trial.datetime_start, trial.datetime_complete) if at]
    end = math.inf
    for session in reversed(sessions):
        start = datetime.fromisoformat(session["started"]).timestamp()
        last = max((at for at in events if start <= at < end), default=start)
        yield {"wall_s": last - start, **session}
        end = start
