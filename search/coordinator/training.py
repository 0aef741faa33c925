"""One training: what it reports while it runs, and its MLflow run.

Once the journal has a result the training has ended. A search that is killed right afterwards must not train it again,
since it would write its final figures a second time.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import TrialState

from objectives.base import EpochResult, ImageClassifier, Objective, Outcome
from objectives.files import write_atomic
from objectives.functions.objective import FunctionObjective
from objectives.metrics import METRICS, metric_of, scores
from search.common.text import printable, readable
from search.common.workspace import TrainingFiles
from search.coordinator.keeping import GONE, WEIGHTS_TAG
from search.coordinator.progress import RunningTrial
from search.coordinator.work import Job
from search.study import records
from search.study.records import TrainingResult
from search.study.selection.image_errors import image_error
from search.study.space.limits import describe
from search.study.space.objective_calls import call, described, scored_images
from search.tracking.figures.predictions import pack
from search.tracking.journal import PARENT
from search.tracking.pages import MARKS, RUN_NAME, run_name
from search.tracking.registry.programs import weights_artifact
from search.tracking.tracker import Tracking

MESSAGE_LENGTH = 2_000
TRACEBACK_LENGTH = 100_000
OUTPUT_LENGTH = 250_000
SEED_PARAM = "search.seed"
OWN_PREFIXES = ("mlflow.", "optuna.", "search.", "version.", "setting.")
OWN_TAGS = {"winner", "failure", "failure.message", "refused", "kind", "baseline", "device"}
OWN_TAGS |= {f"test_{metric}" for metric in METRICS}
UNGROUPED_CURVES = ("lr", "seconds", "images_per_s")  # the other curves are named `group/name`


@dataclass
class RunningTraining:
    """A job in its slot."""

    job: Job
    steps: int  # of the whole training
    retries: int = 0
    is_resumed: bool = False  # from a checkpoint
    started_at: float = field(default_factory=time.monotonic)
    checkpointed_at: float = field(default_factory=time.monotonic)
    result: EpochResult | None = None  # the latest one
    value: float | None = None  # the latest value of the metric
    curve: list[float] = field(default_factory=list)
    is_pruned: bool = False
    is_function: bool = False
    reported: set[int] = field(default_factory=set)  # steps of a function's `report`
    points: int = 0  # how often a function has logged points, earlier calls before its checkpoint included

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began, or went on, in its slot."""
        return time.monotonic() - self.started_at

    def miscount(self, step: int) -> str | None:
        """Why `step` cannot be the next one; None if it can. Pruners count in steps, and a training must end."""
        if step > self.steps:
            return f"the training went on to step {step}, after its last, {self.steps}"
        if self.result is not None and step != self.result.step + 1:
            return f"after step {self.result.step} the training called itself {step}; count one a pull"
        return None

    def progress(self) -> RunningTrial:
        """The training as displays show it."""
        task, label, curve = self.job.task, self.job.label, tuple(self.curve)
        if self.is_function:
            return RunningTrial(task.number, label, 0.0, None, curve, max(self.reported, default=None))
        return RunningTrial(task.number, label, self.result.epoch if self.result else 0.0, task.epochs, curve)


@dataclass(frozen=True)
class TrainingRuns:
    """Writes the runs of one study's trainings to the tracking journal: open, log, then exactly one of the others."""

    objective: Objective
    tracking: Tracking
    files: TrainingFiles
    study_tags: Mapping[str, str]  # of every run
    notice: Callable[[str], None] = lambda text: None  # shows a notice to the user, each once

    @property
    def _is_function(self) -> bool:
        return isinstance(self.objective, FunctionObjective)

    def open(self, job: Job) -> None:
        """Begin the run of a training, or go on with it."""
        task = job.task
        ours = {"seed": str(task.seed), "epochs": str(task.epochs)}
        if self._is_function:
            ours = {}  # MLflow changes no parameter, and the function may have one of these names
        params = {name: readable(value) for name, value in task.params.items()}
        params |= {f"task.{name}" if name in params else name: value for name, value in ours.items()}
        metric = [self.objective.metric]
        for text in (*self.tracking.param_names.changes(params), *self.tracking.metric_names.changes(metric)):
            self.notice(text)
        self.tracking.open_run(
            job.run,
            job.name,
            tags={**self.study_tags, **job.tags, "optuna.state": "RUNNING"},
            params=params,
            parent=PARENT,
            dataset=self.objective.dataset_info() if isinstance(self.objective, ImageClassifier) else None,
            step=job.step,
        )

    def log(self, job: Job, result: EpochResult) -> None:
        """Write the curve points of one pull."""
        if metrics := self._finite(result.metrics):
            self.tracking.log(job.run, metrics, step=math.floor(result.epoch), position=result.step)

    def _finite(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Leave out figures that are not finite. Only such a value of the objective's own metric fails a training."""
        finite = {printable(name): figure for name, figure in metrics.items() if math.isfinite(figure)}
        for name in metrics.keys() - finite.keys():
            self.notice(f"metric {name!r} is left out where it is not a finite number")
        for text in self.tracking.metric_names.changes(finite):
            self.notice(text)
        return finite

    def points(self, training: RunningTraining, metrics: Mapping[str, float], step: int) -> None:
        """Write points of a function. A call that is made again repeats some, in the same order."""
        training.points += 1
        if finite := self._finite(metrics):
            self.tracking.log(training.job.run, finite, step=step, position=training.points)

    def note_param(self, training: RunningTraining, name: str, value: Any) -> None:
        """Write a parameter that a function has got."""
        job = training.job
        if name in job.task.params:
            return
        params = {**job.task.params, name: value}
        training.job = replace(job, task=replace(job.task, params=params), label=described(self.objective, params))
        for text in self.tracking.param_names.changes([name]):
            self.notice(text)
        self.tracking.params(job.run, {name: readable(value)})

    def note_seed(self, job: Job) -> None:
        """Write the seed that a function has asked for."""
        self.tracking.params(job.run, {SEED_PARAM: str(job.task.seed)})

    def note_attr(self, job: Job, name: str, value: Any) -> None:
        """Write an attribute that a function has set as a tag."""
        own = name.startswith(OWN_PREFIXES) or name in {*OWN_TAGS, *self.study_tags, *job.tags}
        self.tracking.tag(job.run, {f"user.{name}" if own else name: readable(value)})

    def note_output(self, job: Job, text: str) -> None:
        """Write what a function has printed."""
        lines = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")]  # as a terminal shows it
        self.tracking.file(job.run, "output.txt", printable("\n".join(lines), limit=OUTPUT_LENGTH).encode())

    def save(self, training: RunningTraining, state: bytes) -> None:
        """Write a checkpoint, except after the last step of a confirmation or refit: resumed there, it has no value."""
        is_over = training.result is not None and training.result.step == training.steps
        if not is_over or training.job.tags["kind"] == "trial":  # the study stores the values of trials
            write_atomic(self.files.checkpoint_of(training.job.run), state)
        training.checkpointed_at = time.monotonic()

    def keep_model(self, job: Job, program: bytes) -> None:
        """Write the program that a function has logged. A call that resumes from a later checkpoint logs it no more."""
        write_atomic(self.files.model_of(job.run), program)

    def sweep(self, job: Job) -> None:
        """Remove what a training needs to resume, after its end is stored."""
        self.files.checkpoint_of(job.run).unlink(missing_ok=True)
        self.files.model_of(job.run).unlink(missing_ok=True)

    def finish(
        self, training: RunningTraining, outcome: Outcome, keeps: Callable[[Job, TrainingResult], bool]
    ) -> TrainingResult:
        """End the run of a training that came to its end or was pruned. `keeps`: whether its weights are stored."""
        job, value, is_pruned = training.job, training.value, training.is_pruned
        epoch = training.result.epoch if training.result else job.step / self.objective.steps_per_epoch()
        figures = self._finite(outcome.metrics)
        if not training.is_function:
            figures["epochs"] = epoch
        measured = {} if value is None else {self.objective.metric: value}
        finals = {name: figure for name, figure in figures.items() if "/" not in name and name not in UNGROUPED_CURVES}
        state = TrialState.PRUNED if is_pruned else TrialState.COMPLETE
        attrs = {records.METRICS: figures, **({} if is_pruned else self._of_predictions(job, outcome, value))}
        result = TrainingResult(state, None if is_pruned else value, attrs)
        self._keep(job, outcome)
        path, weights, tags = self.files.model_of(job.run), outcome.weights, {}
        if path.exists():
            weights = path.read_bytes()
        if weights is not None and not keeps(job, result):
            result, tags = result.with_attrs({records.DELETED: True}), {WEIGHTS_TAG: GONE}
        elif weights is not None:
            self.tracking.file(job.run, weights_artifact(is_function=training.is_function), weights)
            if not is_pruned:
                write_atomic(self.files.weights_of(job.run), weights)
        return self._end(job, result, metrics=measured | finals, tags=tags)

    def refuse(self, job: Job, metrics: Mapping[str, float]) -> TrainingResult:
        """End the run of a training that did not begin because of a limit."""
        result = TrainingResult(TrialState.PRUNED, None, {records.METRICS: {**metrics, "epochs": 0}})
        return self._end(job, result, metrics=metrics, tags={"refused": describe(metrics)})

    def fail(self, job: Job, kind: str, message: str, traceback: str) -> TrainingResult:
        """End the run of a training that failed."""
        message = printable(message, limit=MESSAGE_LENGTH)
        if traceback:
            self.tracking.file(job.run, "traceback.txt", printable(traceback, limit=TRACEBACK_LENGTH).encode())
        tags = {"failure": kind, "failure.message": message}
        return self._end(job, TrainingResult.failed(kind, message), tags=tags)

    def suspend(self, job: Job) -> None:
        """Close the run of a training that an interruption cuts short."""
        self.tracking.end_run(job.run, "KILLED", tags={"optuna.state": "RUNNING"})

    def _keep(self, job: Job, outcome: Outcome) -> None:
        """Write a training's parameters, and the data of its plots."""
        self.tracking.file(job.run, "params.json", records.to_json(job.task.params))
        if outcome.predictions is not None and isinstance(self.objective, ImageClassifier):
            self._keep_predictions(job, self.objective, outcome.predictions)

    def _keep_predictions(self, job: Job, objective: ImageClassifier, predictions: NDArray[np.float32]) -> None:
        images, labels = scored_images(objective, job.task.fold)
        classes = call("class_names", objective.class_names)
        if predictions.shape == (shape := (len(labels), len(classes))):
            self.tracking.predictions(job.run, classes, pack(images, labels, predictions))
        else:
            self.notice(f"predictions are not drawn: their shape is {predictions.shape}, and not {shape}")

    def _of_predictions(self, job: Job, outcome: Outcome, value: float | None) -> dict[str, Any]:
        """Attributes from predictions of unseen images: the classes that are never predicted, and the value's error."""
        if (predictions := outcome.predictions) is None or not isinstance(self.objective, ImageClassifier):
            return {}
        _, labels = scored_images(self.objective, job.task.fold)
        classes = self.objective.class_names()
        if predictions.shape != (len(labels), len(classes)):
            return {}
        names = [classes[index] for index in sorted({*labels.tolist()} - {*predictions.argmax(1).tolist()})]
        attrs: dict[str, Any] = {records.NEVER_PREDICTED: names} if names else {}
        metric = metric_of(self.objective.metric)
        # An own classifier may call something else by one of these names.
        if (
            metric
            and value is not None
            and math.isclose(scores(labels, predictions)[metric], value, rel_tol=1e-3, abs_tol=1e-6)
        ):
            error = image_error(metric, labels, predictions)
            attrs |= {records.IMAGE_ERROR: error} if error is not None and math.isfinite(error) else {}
        return attrs

    def _end(
        self, job: Job, result: TrainingResult, *, metrics: Mapping[str, float] = {}, tags: Mapping[str, str] = {}
    ) -> TrainingResult:
        state = result.state
        tags = {"optuna.state": state.name, **tags}
        if self._is_function:  # its parameters, of which the label is made, were unknown at the start
            job = replace(job, label=job.label or "no parameters")
            result = result.with_attrs({records.LABEL: job.label})
        if state in MARKS or (self._is_function and "trial" in job.tags.values()):
            tags[RUN_NAME] = run_name(job.task.number, job.label, MARKS.get(state, ""))
        status = "FAILED" if state == TrialState.FAIL else "FINISHED"
        self.tracking.end_run(job.run, status, tags=tags, metrics=metrics, verdict=result.as_dict())
        return result
