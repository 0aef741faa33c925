"""Answers what a function asks while it runs: its trial's and its study's parts, and what only this project has."""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from objectives.worker.messages import Answer, Asked
from search.coordinator.training import RunningTraining, TrainingRuns
from search.coordinator.work import Work
from search.study import records
from search.study.sampling.live_trials import choice_index

OPTUNA_ERRORS = (TypeError, ValueError, AttributeError, KeyError, RuntimeError, NotImplementedError)
"""Errors of Optuna for what a function did wrong. Errors of a database are others."""

CURVE = "intermediate/value"
"""The curve of what a function reports. Optuna's word; `value` itself is what the function returns."""


@dataclass(frozen=True)
class Questions:
    """Answers the running functions of one piece of work."""

    work: Work
    runs: TrainingRuns

    def answer(self, training: RunningTraining, asked: Asked) -> Answer:
        """Answer one question. What the function did wrong becomes the answer's error."""
        own: Callable[..., Any] | None = getattr(self, f"_{asked.method}", None)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                value = own(training, *asked.arguments) if own else self._ask_optuna(training, asked)
            except OPTUNA_ERRORS as error:
                return Answer(error=error.with_traceback(None))
        return Answer(value, warnings=tuple((str(warning.message), warning.category) for warning in caught))

    def _ask_optuna(self, training: RunningTraining, asked: Asked) -> Any:
        value = self.work.answer(training.job, asked, training.reported)
        if asked.method == "report":
            if value:
                number, step = _arguments(asked, "value", "step")
                training.value = float(number)
                training.curve.append(float(number))
                self.runs.points(training, {CURVE: float(number)}, int(step))
            return None
        if asked.method.startswith("suggest_"):
            (name,) = _arguments(asked, "name")
            self.runs.note_param(training, name, value)
        if asked.method == "suggest_categorical":
            _, choices = _arguments(asked, "name", "choices")
            return choice_index(choices, value)
        if asked.method == "set_user_attr":
            self.runs.note_attr(training.job, *_arguments(asked, "key", "value"))
        return value

    # ---- what only this project has

    def _seed(self, training: RunningTraining) -> int:
        self.work.note(records.SEEDED)
        self.runs.note_seed(training.job)
        return training.job.task.seed

    def _log(self, training: RunningTraining, metrics: Mapping[str, float], step: int) -> None:
        self.runs.points(training, metrics, step)

    def _log_artifact(self, training: RunningTraining, path: str, content: bytes) -> None:
        self.runs.tracking.file(training.job.run, path, content)

    def _output(self, training: RunningTraining, text: str) -> None:
        if text:
            self.runs.note_output(training.job, text)

    def _log_model(self, training: RunningTraining, program: bytes) -> None:
        self.work.note(records.MODELS)
        training.model = program

    def _save_checkpoint(self, training: RunningTraining, state: bytes) -> None:
        """Keep a state, after a line of JSON with the number of points that were logged before it."""
        self.runs.save(training, json.dumps({"points": training.points}).encode() + b"\n" + state)


def _arguments(asked: Asked, *names: str) -> list[Any]:
    """The first arguments of a question, given by place or by name."""
    return [
        asked.keywords[name] if name in asked.keywords else asked.arguments[place] for place, name in enumerate(names)
    ]
