"""Messages between a worker and the coordinator, except commands. Plain data; imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from objectives.base import EpochResult, ObjectiveError, Outcome
from objectives.functions.questions import Answer as Answer
from objectives.functions.questions import Asked as Asked
from objectives.functions.questions import Returned as Returned
from objectives.functions.questions import Unusable as Unusable
from objectives.spec import ObjectiveSpec

BROKEN_DEVICE = 70
"""Exit status of a worker process whose GPU computes nothing any more in it."""


@dataclass(frozen=True)
class WorkerSettings:
    """How one worker is set up. Sent by the coordinator, as is an `Answer`; the worker sends all other messages."""

    objective: ObjectiveSpec
    device: str
    """`auto`, `cpu`, `cuda`, `cuda:I` or `mps`."""
    index: int
    """Number of the worker, from 0; spreads workers over several GPUs."""
    threads: int
    """CPU threads of a training while others run."""
    threads_alone: int
    """CPU threads of a training that has the machine to itself."""
    capture: bool = True
    """Whether trainings may be captured as CUDA graphs."""
    delay_s: float = 0.0
    """How long a worker process waits before it is set up, because others failed."""


@dataclass(frozen=True)
class WorkerReady:
    """The worker is set up."""

    device: str
    """The device in use, for instance the one that `auto` selected."""
    gpus: int = 0
    """Number of GPUs that workers are spread over; 0 without a GPU."""
    free_bytes: int = 0
    """Free memory of its GPU after the worker was set up."""
    name: str = ""
    """The name of its GPU or processor."""
    notice: str | None = None
    """Why `auto` selected the CPU although the machine has a GPU, and what to do."""


@dataclass(frozen=True)
class EpochDone:
    """One pull gave a result."""

    result: EpochResult


@dataclass(frozen=True)
class Checkpointed:
    """The state to resume from."""

    state: bytes = field(repr=False)


@dataclass(frozen=True)
class Finished:
    """The training ended or was stopped."""

    outcome: Outcome = field(repr=False)


@dataclass(frozen=True)
class Failed:
    """The training ended with an error; the worker is free for another one."""

    kind: Literal["diverged", "out_of_memory", "crashed", "error"]
    message: str
    traceback: str = field(default="", repr=False)


@dataclass(frozen=True)
class CaptureFailed:
    """The training cannot be captured as a CUDA graph. It must begin again in a worker that captures nothing."""

    reason: str


@dataclass(frozen=True)
class Refused:
    """The training did not begin because its network is slower than the task allows."""

    metrics: Mapping[str, float]
    """The measured latency."""


def transferable(error: ObjectiveError) -> ObjectiveError:
    """The error, or one with the same text in place of a class of the objective's own, which may not be picklable."""
    return error if type(error).__module__ == ObjectiveError.__module__ else ObjectiveError(str(error))


Reply = EpochDone | Checkpointed | Finished | Asked | Returned | Unusable | Failed | CaptureFailed | Refused
