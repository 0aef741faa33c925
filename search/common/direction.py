"""Comparison of two values of the metric."""

from enum import Enum
from typing import Self

from optuna.study import StudyDirection


class Direction(Enum):
    """Whether the metric is maximized or minimized."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"

    @classmethod
    def of(cls, *, maximize: bool) -> Self:
        return cls.MAXIMIZE if maximize else cls.MINIMIZE

    @classmethod
    def of_study(cls, direction: StudyDirection) -> Self:
        return cls.of(maximize=direction == StudyDirection.MAXIMIZE)

    @property
    def sign(self) -> float:
        """1.0 or -1.0, so that `sign * value` is larger for a better value."""
        return 1.0 if self is Direction.MAXIMIZE else -1.0

    def gain(self, value: float, reference: float) -> float:
        """Return how much better `value` is than `reference`; negative if it is worse."""
        return self.sign * (value - reference) + 0.0  # turns -0.0 into 0.0

    def better(self, value: float, reference: float) -> bool:
        """Return whether `value` is better than `reference`."""
        return self.gain(value, reference) > 0
