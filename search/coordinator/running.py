"""One training that is under way in a slot: what it has reported, and whether that is as it has to be."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from optuna.trial import TrialState

from objectives.base import EpochResult
from search.coordinator.progress import RunningTrial
from search.coordinator.work import Job


@dataclass
class RunningTraining:
    """One training in its slot."""

    job: Job
    steps: int
    """Steps of the whole training."""
    retries: int = 0
    checkpointed_at: float = field(default_factory=time.monotonic)
    result: EpochResult | None = None
    """The latest one."""
    value: float | None = None
    """The latest value of the metric."""
    curve: list[float] = field(default_factory=list)
    ends_as: TrialState = TrialState.COMPLETE

    def miscount(self, step: int) -> str | None:
        """Why a result cannot be the next one, in words; None if it can. Pruners count in steps, and a search ends."""
        advice = "python -m search check-objective MODULE:ATTR says more"
        if step > self.steps:
            return f"the training went on to step {step}, after its last, {self.steps}; {advice}"
        if self.result is not None and step != self.result.step + 1:
            return f"after step {self.result.step} the training called itself {step}; count one a pull. {advice}"
        return None

    def divergence(self, metric: str, result: EpochResult) -> str | None:
        """Which figure of a result is not finite, in words; None if all are."""
        for name, figure in {metric: result.value, **result.metrics}.items():
            if figure is not None and not math.isfinite(figure):
                return f"{name} became {figure} at epoch {result.epoch:g}"
        return None

    def shown(self) -> RunningTrial:
        """The training as displays show it."""
        epoch = self.result.epoch if self.result else 0.0
        return RunningTrial(self.job.task.number, self.job.label, epoch, self.job.task.epochs, tuple(self.curve))
