"""Can a plain function of an Optuna trial be searched? It is called a few times, outside of any stored study."""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial

from objectives.base import Params, Task
from objectives.failures import describe_error
from objectives.functions.objective import FunctionObjective
from objectives.functions.output import StreamOutput
from objectives.functions.questions import Answer, Asked, Returned, Unusable
from search.study.sampling.function_answers import ask, choice_index
from search.study.space.objective_calls import ContractError, require
from search.testing.findings import Absent, NotTried

CALLS = 3
"""Random configurations that are tried, as far as the time suffices."""

TRIAL_S = 60
"""Seconds after which a call is given up."""

ENOUGH_S = 10.0
"""No further configuration is tried after this time."""


@dataclass
class CallRecord:
    """One call of the function, and what it asked."""

    params: Params = field(default_factory=dict)
    value: float | None = None  # None if it was pruned
    asked: set[str] = field(default_factory=set)
    reports: int = 0


class FunctionSpecimen:
    """A function under test, with the calls that several checks look at."""

    def __init__(self, objective: FunctionObjective, device: str = "cpu") -> None:
        self.objective, self.device = objective, device
        self._study = optuna.create_study(direction=objective.direction, sampler=RandomSampler(seed=0))
        self._calls: list[CallRecord] | None = None
        self._failed = False

    def calls(self) -> list[CallRecord]:
        """A few calls with random parameters. If one fails, raises ContractError once and NotTried from then on."""
        if self._failed:
            raise NotTried("no call gets this far")
        if self._calls is None:
            self._failed = True
            calls, started = [self._call(self._study.ask())], time.monotonic()
            while len(calls) < CALLS and time.monotonic() - started < ENOUGH_S:
                calls.append(self._call(self._study.ask()))
            self._calls, self._failed = calls, False
        return self._calls

    def repeat(self, call: CallRecord) -> CallRecord:
        """Call the function again with the same parameters and the same seed."""
        return self._call(FixedTrial(dict(call.params)))

    def _call(self, trial: optuna.Trial | FixedTrial) -> CallRecord:
        record, output = CallRecord(), StreamOutput()
        running = self.objective.start(Task(trial.number, {}, seed=1, epochs=1), self.device)
        output.start()
        try:
            with _limited(TRIAL_S):
                while isinstance(reply := self._pull(running, output), Asked):
                    running.answer(self._answer(trial, record, reply))
        finally:
            running.close()
        if isinstance(reply, Unusable):
            raise ContractError(reply.message)
        assert isinstance(reply, Returned)
        record.params, record.value = dict(trial.params), reply.value
        return record

    @staticmethod
    def _pull(running: Any, output: StreamOutput) -> Asked | Returned | Unusable:
        try:
            with output:
                pulled: Asked | Returned | Unusable = running.pull()
            return pulled
        except NotTried:
            raise
        except Exception as error:
            raise ContractError(f"the function failed: {describe_error(error)}") from error

    def _answer(self, trial: optuna.Trial | FixedTrial, record: CallRecord, asked: Asked) -> Answer:
        record.asked.add(asked.method)
        record.reports += asked.method == "report"
        try:
            return Answer(self._value(trial, asked.method, asked.arguments, asked.keywords))
        except Exception as error:
            return Answer(error=error)

    def _value(
        self, trial: optuna.Trial | FixedTrial, method: str, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> Any:
        match method:
            case "seed":
                return 1
            case "log" | "log_artifact" | "log_model" | "save_checkpoint" | "output" | "study.stop":
                return None
        if method.startswith("study."):
            part = getattr(self._study, method.removeprefix("study."))
            return part(*arguments, **keywords) if callable(part) else part
        value = ask(trial, method, arguments, keywords)
        return choice_index(arguments[1], value) if method == "suggest_categorical" else value


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """Raise NotTried in the block after some seconds. For the main thread alone."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise NotTried(f"a call takes longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check_value(specimen: FunctionSpecimen) -> str | None:
    """It returns one number."""
    values = [call.value for call in specimen.calls()]
    if all(value is None for value in values):
        return "every call was pruned by the function itself"
    infinite = [value for value in values if value is not None and not math.isfinite(value)]
    return f"a call gave {infinite[0]}" if infinite else None


def check_parameters(specimen: FunctionSpecimen) -> str | None:
    """It suggests parameters, with the same kinds and choices in every call."""
    names = dict.fromkeys(name for call in specimen.calls() for name in call.params)
    require(names, "the function suggested nothing, so there is nothing to search; call trial.suggest_float or others")
    return f"parameters: {', '.join(names)}"


def check_repeats(specimen: FunctionSpecimen) -> str | None:
    """Equal parameters and an equal seed give an equal value."""
    call = specimen.calls()[0]
    again = specimen.repeat(call)
    if call.value == again.value:
        return None
    values = f"it gave {call.value} and then {again.value}"
    if "seed" in call.asked:
        return Absent(f"{values}, so a trial that is killed and runs again may end with another value")
    return Absent(f"{values}; seed what it draws with search.seed()")


def check_reports(specimen: FunctionSpecimen) -> str | None:
    """It reports values, so a trial can be pruned."""
    calls = specimen.calls()
    if not any(call.reports for call in calls):
        return Absent("it never calls trial.report")
    return None if any("should_prune" in call.asked for call in calls) else Absent("it never calls trial.should_prune")


def check_seed(specimen: FunctionSpecimen) -> str | None:
    """Its winner is confirmed on fresh seeds."""
    asks = any("seed" in call.asked for call in specimen.calls())
    return None if asks else Absent("it never calls search.seed")


def check_model(specimen: FunctionSpecimen) -> str | None:
    """Its winner can be registered."""
    logs = any("log_model" in call.asked for call in specimen.calls())
    return None if logs else Absent("it never calls search.log_model")


FUNCTION_CHECKS: tuple[Callable[[FunctionSpecimen], str | None], ...] = (
    *(check_value, check_parameters, check_repeats, check_reports, check_seed, check_model),
)
