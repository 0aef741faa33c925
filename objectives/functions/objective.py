"""The objective made of a plain function of an Optuna trial, as written for `study.optimize`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from objectives.base import Direction, Params, Suggest, Task

LABEL_LENGTH = 60
"""Characters of a configuration's description."""


class FunctionObjective:
    """A function whose parameters become known while it runs: it suggests them itself.

    So `suggest` gives none. A training is one call, and its epoch is the whole call.
    """

    metric = "value"

    def __init__(self, function: Callable[[Any], Any], name: str, direction: Direction) -> None:
        self.function, self.name, self.direction = function, name, direction

    def suggest(self, trial: Suggest) -> Params:
        return {}

    def baselines(self) -> Mapping[str, Params]:
        return {}

    def epochs(self, device: str) -> int:
        return 1

    def steps_per_epoch(self) -> int:
        return 1

    def fingerprint(self) -> Mapping[str, str]:
        return {}

    def describe(self, params: Params) -> str:
        """The first parameters, such as `lr=0.0031 layers=2`."""
        text = ""
        for name, value in params.items():
            word = f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
            if text and len(text) + len(word) >= LABEL_LENGTH:
                return f"{text} ..."
            text = f"{text} {word}".lstrip()
        return text

    def start(self, task: Task, device: str) -> Any:
        """Prepare the call, a `FunctionCall`. A `Worker` pulls its questions and its end."""
        from objectives.functions.call import FunctionCall

        return FunctionCall(self.function, task, device)
