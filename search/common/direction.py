"""Whether larger or smaller values of the metric are better."""

from __future__ import annotations

from enum import Enum

from optuna.study import StudyDirection


class Direction(Enum):
    """The direction in which the metric improves."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"

    @classmethod
    def of(cls, *, maximize: bool) -> Direction:
        """MAXIMIZE if `maximize`, otherwise MINIMIZE."""
        return cls.MAXIMIZE if maximize else cls.MINIMIZE

    @classmethod
    def of_study(cls, direction: StudyDirection) -> Direction:
        """The equivalent of Optuna's direction."""
        return cls.of(maximize=direction == StudyDirection.MAXIMIZE)

    @property
    def sign(self) -> float:
        """1.0 or -1.0: `sign * value` is larger for the better value."""
        return 1.0 if self is Direction.MAXIMIZE else -1.0

    def gain(self, value: float, over: float) -> float:
        """By how much `value` is better than `over`; negative if it is worse."""
        return self.sign * (value - over) + 0.0  # turns -0.0 into 0.0

    def better(self, value: float, than: float) -> bool:
        """True if `value` is better than `than`."""
        return self.gain(value, than) > 0
