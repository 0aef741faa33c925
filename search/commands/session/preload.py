"""Imports what the finish needs, seconds of work, while the last trainings run and cores stand idle."""

from __future__ import annotations

import importlib
import threading

from objectives.base import ImageClassifier, Objective


class Preload:
    """A thread that imports modules once."""

    def __init__(self, objective: Objective, *, registers: bool) -> None:
        self._modules = ["optuna.importance", "optuna.visualization", "search.reports.page"]
        if isinstance(objective, ImageClassifier):
            self._modules += ["torch", "search.tracking.figures.figures"]
        if registers:
            self._modules += ["torch._dynamo", "mlflow.pytorch"]
        self._thread = threading.Thread(target=self._import_all, daemon=True)

    def start(self) -> None:
        """Begin, unless it has begun."""
        if self._thread.ident is None:
            self._thread.start()

    def wait(self, timeout_s: float | None = None) -> None:
        """Return when nothing is being imported, or after the time."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _import_all(self) -> None:
        for name in self._modules:
            importlib.import_module(name)
