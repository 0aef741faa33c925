"""The worker: the process, or the Ray actor, in which trainings run.

A `Worker` holds one training at a time and answers every command with one message. `objectives.worker.__main__` serves
it over a socket. Nothing here imports Optuna, MLflow or the search.
"""

import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn, cast

import numpy as np

from objectives.base import CaptureError, Capturing, Diverged, EpochResult, Objective, Outcome, Task, Timed, Training
from objectives.devices import (
    BrokenDeviceError,
    check_device,
    choose_device,
    device_name,
    free_device_memory,
    is_out_of_memory,
    may_have_gpu,
    select_device,
)
from objectives.failures import describe_error, describe_value
from objectives.functions.call import FunctionCall
from objectives.functions.objective import FunctionObjective
from objectives.functions.output import Output, StreamOutput
from objectives.worker import messages
from objectives.worker.messages import Answer, Asked, Failed, Reply, WorkerReady, WorkerSettings


def skip_compiler_import() -> None:
    """Avoid the import of torch's compiler, which takes 2.5 s of processor time and is not used here.

    Optimizers import it only to exclude methods from compilation, unless a method has the mark that is set here.
    If torch changes this, nothing breaks. Source: torch/_compile.py.
    """
    import torch

    if "torch._dynamo" in sys.modules:
        return
    for method in vars(torch.optim.Optimizer).values():
        if (wrapped := getattr(method, "__wrapped__", None)) is not None:
            wrapped.__dynamo_disable = wrapped


def prepare_torch(threads: int) -> None:
    """Set torch up for trainings of this project's kind. A user's function gets torch as a script does."""
    import torch

    skip_compiler_import()
    torch.set_num_threads(threads)
    # The moments of units that stopped learning decay to denormal numbers, which are ten times slower: an Adam
    # step of 150,000 weights took 1.8 ms instead of 0.16.
    torch.set_flush_denormal(True)


class Worker:
    """Runs one training at a time. Raises ObjectiveError, such as DeviceError, when it cannot be set up.

    `passes_on` tells the exceptions that end more than a training, such as those of a signal. `make_output` is called
    for an objective that is a function: it says how this process collects what is printed.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        passes_on: Callable[[BaseException], bool] = lambda error: False,
        make_output: Callable[[], Output] = StreamOutput,
    ) -> None:
        self.settings, self._passes_on = settings, passes_on
        self.device, self.notice = "cpu", cast(str | None, None)
        self.objective = self._load_objective()
        self.output = make_output() if isinstance(self.objective, FunctionObjective) else None
        if self.output is None:
            prepare_torch(settings.threads)
        if self.output is None or may_have_gpu(settings.device):
            self.device, self.notice = choose_device(settings.device, settings.index)
        self.training: Training | None = None
        self.call: FunctionCall | None = None
        self.measured: dict[str, float] = {}
        """Metrics of the current task, measured before its training."""
        self._ended: Reply | None = None
        """How a function ended, held back while the coordinator gets what it printed."""

    def _load_objective(self) -> Objective:
        objective = self.settings.objective.load()
        if not self.settings.capture and isinstance(objective, Capturing):
            with suppress(AttributeError):  # it cannot be set; then the next CaptureError fails the trial
                objective.capture = False
        return objective

    def select_device(self) -> WorkerReady:
        """Make the device the default of this process and describe it."""
        name = device_name(self.device)
        if self.device == "cpu":
            return WorkerReady(self.device, name=name, notice=self.notice)
        import torch

        if self.device == "mps":
            return WorkerReady(self.device, 1, torch.mps.recommended_max_memory(), name)
        gpus = 1 if ":" in self.settings.device else torch.cuda.device_count()
        return WorkerReady(self.device, gpus, select_device(self.device), name)

    def do(self, command: str, *arguments: Any) -> Reply:
        """Run the method named `command`. Replies `Failed` when it raises.

        A function's end comes after one more question, which has what it printed. Raises BrokenDeviceError when no
        later training could succeed in this process, which must end then.
        """
        ended, self._ended = self._ended, None
        if ended is not None and command == "answer":
            return ended
        try:
            reply: Reply = getattr(self, command)(*arguments)
        except BaseException as error:  # sys.exit() ends a training, and not the search
            if self._passes_on(error):
                raise
            reply = self._fail(error)
        if self.output is None or isinstance(reply, Asked):
            return reply
        self._ended = reply
        return Asked("output", (self.output.take(),))

    def start(self, task: Task) -> Reply:
        """Begin a training and pull its first result."""
        self.close()
        if self.output is not None:
            self.output.start()
            self.call = cast(FunctionCall, self.objective.start(task, self.device))
            return self._pull_call()
        import torch

        torch.set_num_threads(self.settings.threads_alone if task.refit else self.settings.threads)
        self.measured = {}
        if task.checkpoint is not None:  # a second measurement could give another verdict
            line, _, state = task.checkpoint.partition(b"\n")
            self.measured, task = json.loads(line), replace(task, checkpoint=state)
        elif task.max_latency_ms is not None:
            assert isinstance(self.objective, Timed)
            latency_ms = float(self.objective.latency_ms(task.params, self.device))
            if not math.isfinite(latency_ms):
                raise ValueError(f"latency_ms gave {latency_ms}; give milliseconds")
            self.measured = {"latency_ms": latency_ms}
            if latency_ms > task.max_latency_ms:
                return messages.Refused(self.measured)
        self.training = self.objective.start(task, self.device)
        return self.advance()

    def answer(self, answer: Answer) -> Reply:
        """Answer a function's question and run it until its next one."""
        assert self.call is not None, "the coordinator sent an answer to a worker that asked nothing"
        self.call.answer(answer)
        return self._pull_call()

    def _pull_call(self) -> Reply:
        assert self.call is not None
        assert self.output is not None
        with self.output:
            reply = self.call.pull()
        if not isinstance(reply, Asked):
            self.call = None
        return reply

    def close(self) -> None:
        """Abandon what runs. This frees its memory."""
        self.training = None
        call, self.call = self.call, None
        if call is not None and self.output is not None:
            try:
                with self.output:
                    call.close()
            except BaseException as error:  # the trial has ended already
                if self._passes_on(error):
                    raise

    def advance(self) -> Reply:
        """Pull the next result; `Finished` at the end."""
        try:
            result = next(self._current())
        except StopIteration:
            return self.stop()
        if not isinstance(result, EpochResult):
            raise TypeError(f"a pull gave {describe_value(result)}; give an objectives.base.EpochResult")
        value = None if result.value is None else float(result.value)
        notice = None if result.notice is None else str(result.notice)
        figures = int(result.step), float(result.epoch), value, _as_floats(result.metrics), float(result.train_seconds)
        return messages.EpochDone(EpochResult(*figures, notice))

    def checkpoint(self) -> Reply:
        """Return the state of the current training: a line of JSON with the measured metrics, then its checkpoint."""
        return messages.Checkpointed(json.dumps(self.measured).encode() + b"\n" + self._current().checkpoint())

    def stop(self) -> Reply:
        """End the current training and return its outcome."""
        outcome = self._current().outcome()
        if not isinstance(outcome, Outcome):
            raise TypeError(f"outcome gave {describe_value(outcome)}; give an objectives.base.Outcome")
        if not isinstance(outcome.weights, bytes | None):
            raise TypeError(f"the outcome's weights are a {type(outcome.weights).__name__}; give bytes, or None")
        predictions = None if outcome.predictions is None else np.asarray(outcome.predictions, np.float32)
        self.training = None
        return messages.Finished(Outcome(_as_floats(outcome.metrics) | self.measured, outcome.weights, predictions))

    def _current(self) -> Training:
        assert self.training is not None, "the coordinator sent a command to a worker without a training"
        return self.training

    def _fail(self, error: BaseException) -> Failed | messages.CaptureFailed:
        text = traceback.format_exc()
        self.close()
        if is_out_of_memory(error):
            # Drop the frames first: they hold the network and every activation.
            error.__traceback__ = error.__context__ = error.__cause__ = None
            if self.output is None:
                self.objective = self._load_objective()  # the old one may hold data and graphs on the device
            free_device_memory()
            return Failed("out_of_memory", describe_error(error).removeprefix("MemoryError: "), text)
        check_device(error)
        if isinstance(error, CaptureError) and self.settings.capture:
            return messages.CaptureFailed(str(error))
        if isinstance(error, Diverged):
            return Failed("diverged", describe_error(error).removeprefix("Diverged: "))
        return Failed("error", describe_error(error), text)


def exit_broken(error: BrokenDeviceError) -> NoReturn:
    """End this process, whose GPU is unusable. The executor reads its last lines, and starts another one."""
    cause = error.__cause__
    traceback.print_tb(cause.__traceback__ if cause else None, file=sys.stdout)
    print(error, flush=True)
    os._exit(messages.BROKEN_DEVICE)


def _as_floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Convert numbers of any library to floats, so that the coordinator can unpickle them without that library.

    Anything but a number becomes NaN. The coordinator leaves it out, with a notice.
    """
    if not isinstance(metrics, Mapping):
        raise TypeError(f"the metrics are {describe_value(metrics)}; give a dict of numbers by name")
    return {str(name): _as_float(value) for name, value in metrics.items()}


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except Exception:  # of any library
        return math.nan
