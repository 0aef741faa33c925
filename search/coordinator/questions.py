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
from search.study.sampling.function_answers import FunctionMistake, choice_index

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
        if own is not None:
            return Answer(own(training, *asked.arguments))
        error, value = None, None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                value = self.work.answer(training.job, asked, training.reported)
            except FunctionMistake as mistake:
                error = mistake.error
        if error is None:
            value = self._noted(training, asked, value)
        return Answer(value, error, tuple((str(warning.message), warning.category) for warning in caught))

    def _noted(self, training: RunningTraining, asked: Asked, value: Any) -> Any:
        """Track what Optuna has answered. Returns what the function gets."""
        if asked.method == "report":
            if value:
                number, step = asked.arguments
                training.value = number
                training.curve.append(number)
                self.runs.points(training, {CURVE: number}, step)
            return None
        if asked.method.startswith("suggest_"):
            self.runs.note_param(training, asked.arguments[0], value)
        if asked.method == "suggest_categorical":
            return choice_index(asked.arguments[1], value)
        if asked.method == "set_user_attr":
            self.runs.note_attr(training.job, *asked.arguments)
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
        self.runs.keep_model(training.job, program)

    def _save_checkpoint(self, training: RunningTraining, state: bytes) -> None:
        """Keep a state, after a line of JSON with the number of points that were logged before it."""
        self.runs.save(training, json.dumps({"points": training.points}).encode() + b"\n" + state)
