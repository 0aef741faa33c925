"""An objective under test: some of its configurations, and the beginning of one of its trainings."""

import math
import time
from dataclasses import dataclass, field
from typing import Any, Self, cast

import optuna
from optuna.samplers import RandomSampler

from objectives.base import Diverged, EpochResult, ImageClassifier, Objective, Params, Suggest, Task, Training
from objectives.spec import ObjectiveSpec
from search.study.space.asked_trial import PartialTrial
from search.study.space.objective_calls import ContractError, call, require_baselines
from search.study.space.space import WHOLE_SPACE
from search.testing.findings import NotTried

TRAINING_S = 5.0
"""Seconds after which a training is not pulled any further. Two pulls are always made."""

CONFIGURATIONS = 5
"""Number of configurations to try. The training of some may diverge, which is allowed."""


@dataclass
class Sample:
    """The beginning of one training."""

    task: Task
    results: list[EpochResult] = field(default_factory=list)
    outcomes: list[Any] = field(default_factory=list)  # after the first pull, and after the last; not checked yet
    checkpoint: Any = None  # after the first pull; not checked yet
    ended: bool = False


class Specimen:
    """One objective under test, and the training that several checks look at."""

    def __init__(self, spec: ObjectiveSpec, objective: Objective, device: str = "cpu") -> None:
        self.spec, self.objective, self.device = spec, objective, device
        self._sample: Sample | None = None
        self._failed = False

    @classmethod
    def of(cls, target: str | ObjectiveSpec, device: str = "cpu") -> Self:
        """The objective at `package.module:attribute`. Raises ObjectiveError when it cannot be made."""
        spec = ObjectiveSpec(target) if isinstance(target, str) else target
        objective = spec.load()
        if isinstance(objective, ImageClassifier):
            call("prepare", objective.prepare)
        return cls(spec, objective, device)

    def trials(self) -> list[optuna.Trial]:
        """A few new trials, the same ones at every call."""
        study = optuna.create_study(sampler=RandomSampler(seed=0))
        return [study.ask() for _ in range(CONFIGURATIONS)]

    def configurations(self) -> list[Params]:
        """A few configurations, the baselines first."""
        trials: list[Suggest] = [PartialTrial(params) for params in require_baselines(self.objective).values()]
        trials += self.trials()
        return [WHOLE_SPACE.suggest(self.objective, trial) for trial in trials[:CONFIGURATIONS]]

    @property
    def epochs(self) -> int:
        """Epochs of the trainings here: as few as have three pulls."""
        return max(1, math.ceil(3 / self.objective.steps_per_epoch()))

    def task(self, params: Params, checkpoint: bytes | None = None) -> Task:
        """The task that a worker would get."""
        return Task(0, params, seed=1, epochs=self.epochs, checkpoint=checkpoint)

    def start(self, task: Task) -> Training:
        """Begin a training."""
        return cast(Training, call("start", self.objective.start, task, self.device))

    def sample(self) -> Sample:
        """The beginning of a training. If it fails, raises ContractError once and NotTried from then on."""
        if self._failed:
            raise NotTried("no training gets this far")
        if self._sample is None:
            self._failed = True
            self._sample = self._train_any()
            self._failed = False
        return self._sample

    def _train_any(self) -> Sample:
        for params in self.configurations():
            try:
                return self._train(params)
            except Diverged:
                continue
        raise ContractError(f"the trainings of {CONFIGURATIONS} configurations all diverged; check the space's ranges")

    def _train(self, params: Params) -> Sample:
        sample = Sample(self.task(params))
        training, deadline = self.start(sample.task), time.monotonic() + TRAINING_S
        steps = self.epochs * self.objective.steps_per_epoch()
        while len(sample.results) <= steps and (time.monotonic() < deadline or len(sample.results) < 2):
            if (result := pull(training)) is None:
                sample.ended = True
                break
            sample.results.append(result)
            if len(sample.results) == 1:
                sample.checkpoint = call("checkpoint", training.checkpoint)
                sample.outcomes.append(call("outcome", training.outcome))
        sample.outcomes.append(call("outcome", training.outcome))
        return sample


def pull(training: Training) -> EpochResult | None:
    """The next result, None at the end. Passes on Diverged; raises ContractError for any other failure."""
    end = object()
    result = call("a pull of the training", next, training, end)
    if result is end:
        return None
    if not isinstance(result, EpochResult):
        raise ContractError(f"a pull gave {result!r}; give an objectives.base.EpochResult")
    return result
