"""One call of a user's function. At each question it stops, and goes on when the coordinator has answered.

The function runs in a greenlet of the worker's thread. So signals, thread-locals and torch's settings are as in a
script, and it can be stopped in the middle with nothing lost.
"""

from __future__ import annotations

import contextvars
import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet  # type: ignore[import-untyped, unused-ignore]

from objectives.base import Task
from objectives.functions.questions import Answer, Asked, Returned, Unusable
from objectives.functions.trial import Trial
from objectives.functions.values import returned

USER_FRAME = 3
"""Frames between a warning and the user's line: `ask` and a method of the trial."""

current: FunctionCall | None = None
"""The call that runs in this process, from its first pull to its end; what `search.log` and others ask."""


class FunctionCall:
    """A function, from its start to its end. Used by one thread."""

    def __init__(self, function: Callable[[Any], Any], task: Task, device: str) -> None:
        self.device, self.checkpoint = device, task.checkpoint
        self.next_step = 0
        """The step of the next `search.log` that names none."""
        self._function = function
        self._hub = getcurrent()
        self._asking = self._greenlet = greenlet(self._run)
        self._greenlet.gr_context = contextvars.copy_context()
        self._answer: Answer | None = None
        self._closed = False
        self._arguments = sys.argv[:1]
        """The function's `sys.argv`: it may parse arguments, and those of a worker or of the search are not its own."""
        self._place = os.getpid(), threading.get_ident()

    def pull(self) -> Asked | Returned | Unusable:
        """Run until the next question or the end. Raises what the function raises."""
        global current
        current = self
        self._hub = self._greenlet.parent = getcurrent()
        others, sys.argv = sys.argv, self._arguments
        try:
            reply: Asked | Returned | Unusable = self._asking.switch(self._answer)
            return reply
        finally:
            self._arguments, sys.argv = sys.argv, others
            if self._greenlet.dead:
                current = None

    def answer(self, answer: Answer) -> None:
        """Keep what the next pull gives to the function."""
        self._answer = answer

    def ask(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Ask the coordinator from inside the function. A method that the user calls must call this one directly."""
        if self._closed:
            raise GreenletExit
        if (os.getpid(), threading.get_ident()) != self._place:
            raise RuntimeError(
                f"{method} was called in another thread or process than the objective. Return what it needs "
                "from there, and call it in the thread that the search called the objective in"
            )
        self._asking = getcurrent()
        answer: Answer = self._hub.switch(Asked(method, arguments, keywords))
        for text, category in answer.warnings:
            warnings.warn(text, category, stacklevel=USER_FRAME)
        if answer.error is not None:
            raise answer.error
        return answer.value

    def close(self) -> None:
        """Abandon the call. The function's `finally` blocks run, and what they raise is raised."""
        global current
        self._closed = True
        try:
            if self._greenlet:
                self._greenlet.parent = getcurrent()
                self._asking.throw(GreenletExit)
        finally:
            current = None

    def _run(self, _: None) -> Returned | Unusable:
        try:
            value = self._function(Trial(self.ask))
        except Exception as error:
            if _is_pruned(error):
                return Returned(None)
            raise
        return returned(value)


def _is_pruned(error: Exception) -> bool:
    """Return whether the function ended its trial with `optuna.TrialPruned`, which only its own module imports."""
    exceptions = sys.modules.get("optuna.exceptions")
    return exceptions is not None and isinstance(error, exceptions.TrialPruned)
