"""A small coordinator: it answers a function's questions from a trial of a study in memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import optuna

from objectives.base import Task
from objectives.spec import ObjectiveSpec
from search.executors.base import Answer, Asked, Executor, Failed, Lost, Returned, SlotEvent, Unusable
from search.executors.inline import InlineExecutor
from search.executors.local import LocalExecutor

EVENTS: dict[str, Any] = {}
"""What a function of a test and the test itself share in this process."""
OURS = {"seed", "log", "log_artifact", "log_model", "save_checkpoint", "set_system_attr", "output"}


def function_spec(function: Callable[[Any], Any]) -> ObjectiveSpec:
    """A function of a test, sent as a notebook's function is."""
    return ObjectiveSpec("__main__:objective", pickled=cloudpickle.dumps(function))


@dataclass
class Call:
    """What one call asked, and how it ended."""

    trial: optuna.Trial
    asked: list[Asked] = field(default_factory=list)
    end: SlotEvent | None = None

    def all(self, method: str) -> list[tuple[Any, ...]]:
        """The arguments of every question of that kind."""
        return [asked.arguments for asked in self.asked if asked.method == method]

    @property
    def output(self) -> str:
        (text,) = self.all("output")[-1]
        return str(text)


class Asker:
    """Runs functions in an executor, and answers them."""

    def __init__(self, executor: Executor, study: optuna.Study) -> None:
        self.executor, self.study = executor, study
        executor.ready()

    def start(self, checkpoint: bytes | None = None) -> Call:
        call = Call(self.study.ask())
        self.executor.start(0, Task(call.trial.number, {}, 7, 1, checkpoint))
        return call

    def event(self) -> SlotEvent:
        while True:
            for _, event in self.executor.wait(1.0):
                return event

    def run(self, *, until: str = "", checkpoint: bytes | None = None) -> Call:
        """One call to its end, or to its question `until`, which is not answered."""
        call = self.start(checkpoint)
        while True:
            event = self.event()
            if not isinstance(event, Asked):
                call.end = event
                return self._told(call)
            call.asked.append(event)
            if event.method == until:
                return call
            self.executor.answer(0, answered(call.trial, event))

    def _told(self, call: Call) -> Call:
        if isinstance(call.end, Returned) and call.end.value is not None:
            self.study.tell(call.trial, call.end.value)
        elif isinstance(call.end, Returned):
            self.study.tell(call.trial, state=optuna.trial.TrialState.PRUNED)
        elif isinstance(call.end, Failed | Lost | Unusable):
            self.study.tell(call.trial, state=optuna.trial.TrialState.FAIL)
        return call


def answered(trial: optuna.Trial, asked: Asked) -> Answer:
    if asked.method in OURS:
        return Answer(7 if asked.method == "seed" else None)
    owner: Any = trial
    name = asked.method
    if name.startswith("study."):
        owner, name = trial.study, name.removeprefix("study.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value, error = None, None
        try:
            value = getattr(owner, name)
            if callable(value):
                value = value(*asked.arguments, **asked.keywords)
        except Exception as raised:
            error = raised
    if error is None and name == "suggest_categorical":
        value = trial.distributions[asked.arguments[0]].to_internal_repr(value)
    return Answer(value, error, tuple((str(warning.message), warning.category) for warning in caught))


@contextmanager
def asker(
    objective: Callable[[Any], Any] | ObjectiveSpec, engine: str = "inline", study: optuna.Study | None = None
) -> Iterator[Asker]:
    """An executor with one worker that calls a function."""
    spec = objective if isinstance(objective, ObjectiveSpec) else function_spec(objective)
    executor = InlineExecutor(spec, "cpu") if engine == "inline" else LocalExecutor(spec, "cpu", 1)
    with closing(executor):
        yield Asker(executor, study or optuna.create_study())


def file_spec(folder: Path, text: str, name: str = "train.py", attribute: str = "objective") -> ObjectiveSpec:
    """A file of the user's, named as on the command line."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return ObjectiveSpec(f"{path}:{attribute}")
