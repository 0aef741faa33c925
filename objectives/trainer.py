"""The process, or the actor, in which trainings run: it trains and does nothing else.

`Trainer` holds one training at a time and answers every command with one plain value. `main` serves it over a socket
for a local coordinator: `python -m objectives FD`. Nothing here knows of Optuna, MLflow or the search.

A trainer lives no longer than its coordinator: its standard input is a pipe that nobody writes to, and the end of
that pipe, which the operating system brings about however the coordinator dies, ends the process.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any, Literal

from objectives.base import (
    DeviceError,
    Diverged,
    EpochResult,
    ObjectiveError,
    ObjectiveSpec,
    Outcome,
    Task,
    Timed,
    Training,
)
from objectives.memory import claim, free_device_memory, is_out_of_memory

FailureKind = Literal["diverged", "out_of_memory", "crashed", "error"]


@dataclass(frozen=True)
class Settings:
    """How a trainer is set up, once."""

    objective: ObjectiveSpec
    device: str
    """`auto`, `cpu`, `cuda`, `cuda:I` or `mps`."""
    index: int
    """Which of the trainers this is; spreads them over several GPUs."""
    threads: int
    """CPU threads of a training that has others beside it."""
    threads_alone: int
    """CPU threads of one that has the machine to itself."""


@dataclass(frozen=True)
class Hello:
    """A trainer is ready."""

    device: str
    """The one that `auto` became."""
    gpus: int = 0
    """Over how many GPUs trainers are spread; 0 on anything else."""
    free_bytes: int = 0
    """Memory of that GPU that nobody uses, this trainer set up."""


@dataclass(frozen=True)
class EpochDone:
    """A pull gave a result."""

    result: EpochResult


@dataclass(frozen=True)
class Checkpointed:
    """The state to resume from."""

    state: bytes = field(repr=False)


@dataclass(frozen=True)
class Finished:
    """The training ended, by itself or because it was stopped."""

    outcome: Outcome = field(repr=False)


@dataclass(frozen=True)
class Failed:
    """The training ended with an error; the trainer is ready for another."""

    kind: FailureKind
    message: str
    traceback: str = field(default="", repr=False)


@dataclass(frozen=True)
class Refused:
    """The training was not begun: it is slower than its task allows."""

    metrics: Mapping[str, float]
    """What was measured."""


@dataclass(frozen=True)
class Probed:
    """How a trial was trained for a moment."""

    began: float
    pulled: tuple[float, ...]
    """When each pull came. Like `began` in seconds of the machine's monotonic clock, which its processes share."""
    notices: tuple[str, ...] = ()
    """What the training had to say; it says so once, and this was it."""


Reply = Hello | EpochDone | Checkpointed | Finished | Failed | Refused | Probed


def resolve_device(wanted: str, index: int) -> str:
    """The device that trainer number `index` uses. Raises DeviceError when it is not there."""
    import torch

    if wanted == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("--device mps: this machine has no Metal GPU; type --device auto or cpu")
    return place(wanted, index, torch.cuda.device_count() if torch.cuda.is_available() else 0)


def place(wanted: str, index: int, gpus: int) -> str:
    """Spread trainers over a machine's `gpus`: one on each, then a second, and so on.

    Raises DeviceError when `wanted` is a GPU that is not there.
    """
    if wanted == "auto":
        return f"cuda:{index % gpus}" if gpus else "cpu"
    kind, _, number = wanted.partition(":")
    if kind != "cuda":
        return wanted
    if not (gpus if not number else int(number) < gpus):
        raise DeviceError(f"--device {wanted}: this machine offers {gpus} CUDA devices; type --device auto or cpu")
    return wanted if number else f"cuda:{index % gpus}"


def leave_compiler_out() -> None:
    """Spare this process the import of torch's compiler: 2.5 s of processor time for what nothing here uses.

    An optimizer imports it when it is made, only to keep it from compiling some of its methods. Each of those asks
    first whether that has been seen to, and is told here that it has. Where torch does it in another way, nothing
    changes. Source: torch/_compile.py.
    """
    import torch

    if "torch._dynamo" in sys.modules:
        return
    for method in vars(torch.optim.Optimizer).values():
        if (plain := getattr(method, "__wrapped__", None)) is not None:
            plain.__dynamo_disable = plain


class Trainer:
    """Runs one training at a time.

    Raises DeviceError or another ObjectiveError when it cannot be set up.
    """

    def __init__(self, settings: Settings) -> None:
        import torch

        leave_compiler_out()
        torch.set_num_threads(settings.threads)
        # What an optimizer remembers of units that no longer learn fades into denormal numbers, with which a processor
        # is ten times slower: an Adam step of 150,000 weights took 1.8 ms instead of 0.16.
        torch.set_flush_denormal(True)
        self.settings = settings
        self.device = resolve_device(settings.device, settings.index)
        self.objective = settings.objective.load()
        self.training: Training | None = None
        self.measured: dict[str, float] = {}
        """Figures of the current task from before its training."""

    def hello(self) -> Hello:
        """Make the device this process's own, and say which it is."""
        import torch

        if not self.device.startswith("cuda"):
            return Hello(self.device)
        gpus = 1 if ":" in self.settings.device else torch.cuda.device_count()
        return Hello(self.device, gpus, claim(self.device))

    def start(self, task: Task) -> Reply:
        """Begin a training and pull its first result."""
        import torch

        self.training = None  # the one before was left: what it holds is free for this one
        torch.set_num_threads(self.settings.threads_alone if task.refit else self.settings.threads)
        try:
            if task.checkpoint is None:
                self.measured = self._measure(task)
                if self.measured.get("latency_ms", 0.0) > (task.max_latency_ms or 0.0):
                    return Refused(self.measured)
            else:  # measured anew, it would be judged by chance
                self.measured, state = _unpacked(task.checkpoint)
                task = replace(task, checkpoint=state)
            self.training = self.objective.start(task, self.device)
        except Exception as error:
            return self._fail(error)
        return self.advance()

    def _measure(self, task: Task) -> dict[str, float]:
        if task.max_latency_ms is None:
            return {}
        assert isinstance(self.objective, Timed), "the coordinator let a limit pass that cannot be measured"
        return {"latency_ms": float(self.objective.latency_ms(task.params, self.device))}

    def advance(self) -> Reply:
        """Pull the next result; `Finished` at the end."""
        try:
            result = next(self._current())
            value = None if result.value is None else float(result.value)
            return EpochDone(replace(result, value=value, metrics=_floats(result.metrics)))
        except StopIteration:
            return self.stop()
        except Exception as error:
            return self._fail(error)

    def checkpoint(self) -> Reply:
        """The state of the current training."""
        try:
            return Checkpointed(_packed(self.measured, self._current().checkpoint()))
        except Exception as error:
            return self._fail(error)

    def stop(self) -> Reply:
        """End the current training and give what it left."""
        try:
            outcome = self._current().outcome()
            outcome = replace(outcome, metrics=_floats(outcome.metrics) | self.measured)
        except Exception as error:
            return self._fail(error)
        self.training = None
        return Finished(outcome)

    def probe(self, task: Task, seconds: float) -> Reply:
        """Train `task` for about so long and forget it. The first pull, which sets things up, is not counted."""
        try:
            self.training = self.objective.start(task, self.device)
            notices = [next(self.training).notice]
            began, pulled = time.monotonic(), []
            while time.monotonic() - began < seconds:
                try:
                    notices.append(next(self._current()).notice)
                    pulled.append(time.monotonic())
                except StopIteration:
                    self.training = None  # first, so that what it recorded is free to be used again
                    self.training = self.objective.start(task, self.device)
            self.training = None
            return Probed(began, tuple(pulled), tuple(filter(None, notices)))
        except Exception as error:
            return self._fail(error)

    def _current(self) -> Training:
        assert self.training is not None, "the coordinator spoke to a trainer that has no training"
        return self.training

    def _fail(self, error: Exception) -> Failed:
        text = traceback.format_exc()
        self.training = None  # before caches are freed, so that there is something to free
        if is_out_of_memory(error):
            # Its frames hold the network and every activation: freed after they are gone, caches are empty.
            error.__traceback__ = error.__context__ = error.__cause__ = None
            self.objective = self.settings.objective.load()  # the old one may keep data and recordings on the device
            free_device_memory()
            return Failed("out_of_memory", str(error), text)
        if isinstance(error, Diverged):
            return Failed("diverged", str(error))
        return Failed("error", f"{type(error).__name__}: {error}", text)


def _packed(measured: Mapping[str, float], state: bytes) -> bytes:
    """A checkpoint: what was measured before the training, on one line, and its state."""
    return json.dumps(measured).encode() + b"\n" + state


def _unpacked(checkpoint: bytes) -> tuple[dict[str, float], bytes]:
    line, _, state = checkpoint.partition(b"\n")
    return json.loads(line), state


def _floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of any library as Python's own: what a trainer sends must mean something without that library."""
    return {name: float(value) for name, value in metrics.items()}


def serve(connection: Connection) -> None:
    """Answer commands until the other side hangs up."""
    settings: Settings = connection.recv()
    try:
        trainer = Trainer(settings)
        connection.send(trainer.hello())
    except ObjectiveError as error:
        connection.send(error)
        return
    while True:
        try:
            command, *arguments = connection.recv()
        except EOFError:
            return
        reply: Any = getattr(trainer, command)(*arguments)
        connection.send(reply)


def end_with_coordinator() -> None:
    """End this process when its standard input ends."""
    os.read(0, 1)
    os._exit(0)


def main() -> None:
    """Entry point: the only argument is the descriptor of the socket."""
    threading.Thread(target=end_with_coordinator, daemon=True).start()
    serve(Connection(int(sys.argv[1])))
    os._exit(0)  # the coordinator hung up, and waits; taking torch's modules apart takes a second
