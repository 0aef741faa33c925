"""A classifier of digits whose winner cannot be trained on all images."""

from __future__ import annotations

from objectives.base import Task, Training
from objectives.images.objective import ImageClassification


class Stubborn(ImageClassification):
    def __init__(self) -> None:
        super().__init__("digits")

    def start(self, task: Task, device: str) -> Training:
        if task.refit:
            raise RuntimeError("no more than this")
        return super().start(task, device)
