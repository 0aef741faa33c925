"""The MLflow runs of trainings: opened as a training begins, logged as it goes, ended with its result.

Once the journal has a result the training has ended. A search that is killed right afterwards must not train it again,
since it would write its final figures a second time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from optuna.trial import TrialState

from objectives.base import EpochResult, ImageClassifier, Objective, Outcome
from objectives.files import write_atomic
from search.common.text import readable
from search.common.workspace import TrainingFiles
from search.coordinator.running import RunningTraining
from search.coordinator.work import Job
from search.study import records
from search.study.space.limits import describe
from search.study.training_result import TrainingResult
from search.tracking.figures.predictions import pack
from search.tracking.journal import PARENT
from search.tracking.pages import MARKS, RUN_NAME, run_name
from search.tracking.tracker import Tracking

CURVES = ("lr", "seconds", "images_per_s")
"""Curve points without a group; all others are named `group/name`."""


class TrainingRuns:
    """Writes the runs of one study's trainings to the tracking journal."""

    def __init__(
        self, objective: Objective, tracking: Tracking, files: TrainingFiles, study_tags: Mapping[str, str]
    ) -> None:
        """`study_tags` go on every run."""
        self._objective, self._tracking, self._files, self._study_tags = objective, tracking, files, study_tags

    def open(self, job: Job) -> None:
        """Begin the run of a training, or go on with it."""
        task = job.task
        dataset = self._objective.dataset_info() if isinstance(self._objective, ImageClassifier) else None
        self._tracking.open_run(
            job.run,
            job.name,
            tags={**self._study_tags, **job.tags, "optuna.state": "RUNNING"},
            params={name: readable(value) for name, value in task.params.items()}
            | {"seed": str(task.seed), "epochs": str(task.epochs)},
            parent=PARENT,
            dataset=dataset,
            step=job.step,
        )

    def log(self, job: Job, result: EpochResult) -> None:
        """Write the curve points of one pull."""
        if result.metrics:
            step = math.floor(result.epoch)
            self._tracking.log(job.run, result.metrics, step=step, position=result.step)

    def finish(self, training: RunningTraining, outcome: Outcome) -> TrainingResult:
        """End the run of a training that came to its end or was pruned; returns the result."""
        job, state = training.job, training.ends_as
        epoch = training.result.epoch if training.result else job.step / self._objective.steps_per_epoch()
        figures = {**outcome.metrics, "epochs": epoch}
        measured = {} if training.value is None else {self._objective.metric: training.value}
        finals = {name: value for name, value in figures.items() if "/" not in name and name not in CURVES}
        value = training.value if state == TrialState.COMPLETE else None
        result = TrainingResult(state, value, {records.METRICS: figures})
        self._keep(job, outcome)
        if outcome.weights is not None and state == TrialState.COMPLETE:
            write_atomic(self._files.weights_of(job.run), outcome.weights)
        self._end(job, result, metrics=measured | finals)
        return result

    def refuse(self, job: Job, metrics: Mapping[str, float]) -> TrainingResult:
        """End the run of a training that did not begin, because of a limit; returns the result."""
        result = TrainingResult(TrialState.PRUNED, None, {records.METRICS: {**metrics, "epochs": 0}})
        self._end(job, result, metrics=metrics, tags={"refused": describe(metrics)})
        return result

    def fail(self, job: Job, kind: str, message: str, traceback: str) -> TrainingResult:
        """End the run of a training that failed; returns the result."""
        if traceback:
            self._tracking.file(job.run, "traceback.txt", traceback.encode())
        result = TrainingResult.failed(kind, message)
        self._end(job, result, tags={"failure": kind, "failure.message": message[:5000]})
        return result

    def suspend(self, job: Job) -> None:
        """Close the run of a training that an interruption cuts short."""
        self._tracking.end_run(job.run, "KILLED", tags={"optuna.state": "RUNNING"})

    def _keep(self, job: Job, outcome: Outcome) -> None:
        """Store what a training left: parameters, weights, and what its images are drawn from."""
        self._tracking.file(job.run, "params.json", records.to_json(job.task.params))
        if outcome.weights is not None:
            self._tracking.file(job.run, "weights.pt", outcome.weights)
        if outcome.predictions is not None and isinstance(self._objective, ImageClassifier):
            packed = pack(*self._objective.validation_images(), outcome.predictions)
            self._tracking.predictions(job.run, self._objective.class_names(), packed)

    def _end(
        self, job: Job, result: TrainingResult, *, metrics: Mapping[str, float] = {}, tags: Mapping[str, str] = {}
    ) -> None:
        state = result.state
        tags = {"optuna.state": state.name, **tags}
        if state in MARKS:
            tags[RUN_NAME] = run_name(job.task.number, job.label, MARKS[state])
        status = "FAILED" if state == TrialState.FAIL else "FINISHED"
        self._tracking.end_run(job.run, status, tags=tags, metrics=metrics, verdict=result.as_dict())
