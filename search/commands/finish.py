"""After the last training: score the winner once, register it, write the report. Finished steps are skipped."""

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import TrialState

from objectives.base import ImageClassifier, TestScore
from objectives.failures import describe_value
from objectives.files import write_atomic
from objectives.functions.objective import FunctionObjective
from objectives.metrics import metric_of
from search.commands.session.networks import StoredNetworks
from search.common.config import Config
from search.common.errors import DatabaseLockedError, TrackingError, UnpublishableError
from search.common.workspace import Workspace
from search.coordinator.confirmation import runs_to_calibrate
from search.study import records
from search.study.selection.calibration import (
    calibration_error,
    errors_before_and_after,
    fit_temperature,
    is_at_bound,
    probabilities_at,
)
from search.study.selection.image_errors import confusion_matrix, score_intervals
from search.study.selection.intervals import images_of
from search.study.space.objective_calls import ContractError, call, require, scored_images
from search.study.study import StoredStudy
from search.study.summary import Calibration, CalibrationErrors, ClassScore, Majority, Score, Summary
from search.tracking.figures.predictions import sample
from search.tracking.journal import EXPERIMENT, PARENT, fold_of, trial_run
from search.tracking.pages import MAX_CLASSES, NOTE, RUN_NAME, WINNER, model_card, note, run_name
from search.tracking.registry import version
from search.tracking.registry.programs import NEVER_LOGGED
from search.tracking.tracker import Tracking

ANOTHER_STUDY = "For calibrated probabilities, add --study NAME to the command: another study trains again"


@dataclass(frozen=True)
class Finish:
    """The end of one search, or of one that `promote` completes."""

    study: StoredStudy
    tracking: Tracking
    config: Config
    register_as: str | None
    device: str
    goal: Mapping[str, Any]  # stored with the study's run: a search with the same goal has nothing left to do

    @property
    def _networks(self) -> StoredNetworks:
        return StoredNetworks(self.study, self.tracking, self.config, self.device)

    def run(self, winner: Summary) -> Summary:
        """Do what is missing for a winner that has no test score yet."""
        summary, before = winner, self.study.record().summary
        if before is not None and before.run == winner.run:
            summary = replace(winner, test=before.test, confusion=before.confusion, classes=before.classes)
            summary = replace(summary, scores=before.scores, majorities=before.majorities)
            summary = replace(summary, calibration=before.calibration)
            summary = replace(summary, model=before.model, standing=before.standing)
        if before is not None and before.number != winner.number:  # unmark it while the study still has its number
            name = run_name(before.number, before.label)
            self.tracking.tag(trial_run(before.number), {RUN_NAME: name, "winner": "false"})
        if isinstance(self.study.objective, ImageClassifier) and summary.test is None:
            summary = self._scored(summary, self.study.objective)
        self.study.set_attr(records.SUMMARY, summary.as_dict())
        summary = self._registered(summary)
        self.study.set_attr(records.SUMMARY, summary.as_dict())
        self._mark(summary)
        if summary.model is not None or summary.has_no_model or self.register_as is None:
            # Each run has its own weights in MLflow.
            shutil.rmtree(self._networks.files.weights, ignore_errors=True)
        self.study.set_attr(records.PHASE, None)  # the report says that the study is finished
        self._report()
        return summary

    def _scored(self, summary: Summary, objective: ImageClassifier) -> Summary:
        """Add the figures on the test split. The study stores each read of the split before it happens."""
        calibration = self._calibration(summary, objective)
        read = {"number": summary.number, "run": summary.run, "time": datetime.now().isoformat()}
        self.study.set_attr(records.TEST_READS, [*self.study.attrs().get(records.TEST_READS, ()), read])
        model = version.classifier(objective, self._networks.registered(summary), calibration.temperature)
        result = call("score_test", objective.score_test, model, self.device)
        require(isinstance(result, TestScore), f"score_test gave {describe_value(result)}; give a TestScore")
        shape, expected = result.probabilities.shape, (len(result.labels), len(objective.class_names()))
        require(shape == expected, f"score_test gave probabilities of shape {shape}; give one row an image, {expected}")
        scores = score_intervals(result.labels, result.probabilities)
        summary = replace(summary, calibration=_tested(calibration, result), scores=scores)
        image = _draw(result, objective.class_names())
        write_atomic(Workspace(self.config.workspace).pictures(self.study.name, self.study.uid), image)
        for run in {summary.run, trial_run(summary.number)}:
            self.tracking.file(run, "test_predictions.png", image)
            self.tracking.tag(run, {name: f"{value:.4f}" for name, value in summary.tested_figures().items()})
        confusion, classes = confusion_matrix(result.labels, result.probabilities), objective.class_names()
        summary = replace(summary, test=_figures(result, scores), classes=_classes(confusion, classes))
        shown = confusion.tolist() if len(classes) <= MAX_CLASSES else None
        return replace(summary, confusion=shown, majorities=self._majorities(result))

    def _calibration(self, summary: Summary, objective: ImageClassifier) -> Calibration:
        """The calibration of the winner's run, fitted once: its registered version has that temperature for good.

        Raises TrackingError when MLflow does not answer.
        """
        attrs = self.study.attrs()
        stored = attrs.get(records.CALIBRATIONS, {})
        if summary.run in stored:
            return Calibration.from_dict(stored[summary.run])
        if any(read["run"] == summary.run for read in attrs.get(records.TEST_READS, ())):
            return Calibration(missing="an earlier version of this program tested this network without a temperature")
        calibration = self._fitted(summary, objective)
        self.study.set_attr(records.CALIBRATIONS, {**stored, summary.run: asdict(calibration)})
        return calibration

    def _fitted(self, summary: Summary, objective: ImageClassifier) -> Calibration:
        """Fit a temperature on validation predictions of the winner's configuration. The test split has no part in it.

        A refitted network was trained on the validation images, so it has no such predictions of its own. For an
        ensemble they are those of the trials' networks together.
        """
        images, labels = scored_images(objective, None)
        if len(labels) < 2:
            return Calibration(missing="there are fewer than two validation images")
        networks, runs = self._networks, runs_to_calibrate(self.study.attrs(), summary)
        if summary.ensemble:
            runs = [summary.run]
            found = {summary.run: networks.ensemble_logits(summary.ensemble, images)}
        else:
            params = self.study.params_of(summary.params)
            found = {run: networks.logits(run, params, scored_images(objective, fold_of(run))[0]) for run in runs}
        logits = {run: rows for run, rows in found.items() if not isinstance(rows, str)}
        problems = "; ".join(rows for rows in found.values() if isinstance(rows, str)) or None
        if not logits:
            return Calibration(missing=f"{problems}. {ANOTHER_STUDY}")
        given = [*logits.values()]
        if fold_of(runs[0]) is not None:  # each network predicts other images, so all together are those of one network
            labels = np.concatenate([scored_images(objective, fold_of(run))[1] for run in logits])
            given = [np.concatenate(given)]
        temperature = float(f"{fit_temperature(labels, given):.4g}")  # as every page shows it
        if is_at_bound(temperature):
            return Calibration(missing="equal probabilities would be better than the validation predictions")
        errors = CalibrationErrors(*errors_before_and_after(labels, given))
        return Calibration(temperature, tuple(logits), errors, left_out=problems)

    def _majorities(self, result: TestScore) -> dict[str, Majority]:
        """The most frequent class of each split on which a classifier's metrics are measured."""
        objective = self.study.objective
        assert isinstance(objective, ImageClassifier)
        splits = {"test": result.labels}
        values = (trial.value for trial in self.study.record().trials if trial.state == TrialState.COMPLETE)
        is_share = images_of(objective, (value for value in values if value is not None)) is not None
        if is_share or metric_of(objective.metric) not in ("accuracy", None):
            splits["validation"] = objective.validation_images()[1]
        classes = objective.class_names()
        counts = {split: np.bincount(labels, minlength=len(classes)).tolist() for split, labels in splits.items()}
        return {split: Majority.of(classes, images) for split, images in counts.items()}

    def _mark(self, summary: Summary) -> None:
        """Mark the winner's run."""
        name, text = run_name(summary.number, summary.label, WINNER), note(self.study.record(), summary)
        self.tracking.tag(trial_run(summary.number), {RUN_NAME: name, NOTE: text, "winner": "true"})
        if summary.run != trial_run(summary.number):
            self.tracking.tag(summary.run, {NOTE: text})

    def _registered(self, summary: Summary) -> Summary:
        """Register the network. If it is registered already, update the tags and the description of its version."""
        if (name := self.register_as) is None:
            return summary
        is_function = isinstance(self.study.objective, FunctionObjective)
        if is_function and not self.study.attrs().get(records.MODELS):
            why = f"nothing is registered: {NEVER_LOGGED}"
            return replace(summary, model=None, has_no_model=True, standing=why if self.config.register else None)
        from search.tracking.registry.registration import publish

        n_left = self.tracking.flush(60.0)
        if (loss := self.tracking.store_loss()) is not None:
            return self._unregistered(summary, loss)
        if (run_id := self._networks.run_id(summary.run, answers=n_left == 0)) is None:
            if n_left:
                return self._unregistered(summary, self.tracking.last_error or "MLflow has not answered yet")
            place = f"neither the journals in {Workspace(self.config.workspace).mlruns} nor MLflow know its run"
            advice = "Give --workspace and --tracking-uri as in the search that trained it"
            return replace(summary, model=None, standing=f"the winner cannot be registered: {place}. {advice}")
        objective, study = self.study.objective, self.study.record()
        try:
            if is_function and self._networks.weights(summary.run) is None:
                advice = "Other trainings did; call search.log_model(module, example) in each"
                why = f"the winner is not registered: its run {summary.run} logged no model. {advice}"
                return replace(summary, model=None, has_no_model=True, standing=why)
            model = version.TrainedModel.of(objective, self._networks.registered(summary), summary.temperature)
            metadata = version.metadata(study, summary, objective, model.example)
            published = publish(
                self.config.mlflow_uri,
                run_id=run_id,
                name=name,
                model=model.build,
                example=model.example,
                metadata=metadata,
                tags=version.tags(study, summary, objective, model.example, f"{self.study.uid}/{summary.run}"),
                card=lambda number: model_card(study, summary, metadata, f"models:/{name}/{number}"),
            )
        except (TrackingError, DatabaseLockedError) as error:
            return self._unregistered(summary, str(error))
        except (UnpublishableError, ContractError) as error:
            return replace(summary, model=None, standing=f"the winner cannot be registered: {error}")
        if published.restored:
            summary = summary.noted("its run had been deleted in MLflow and was restored")
        stored = {"name": name, "version": published.version, "uri": published.uri, "alias": published.alias}
        return replace(summary, model=stored, standing=published.why)

    def _unregistered(self, summary: Summary, why: str) -> Summary:
        """Drop the model, so that the next start registers it again."""
        state = "the winner is not registered yet" if summary.model is None else "the registry has older figures"
        command = f"python -m search promote {shlex.quote(self.study.name)}{self.config.where}"
        return replace(summary, model=None, standing=f"{state} ({why}); when MLflow answers again, type: {command}")

    def _report(self) -> None:
        """Write the report, and complete the study's run."""
        from search.reports.export import leaderboard
        from search.reports.page import write_report

        self._link_runs()
        study, workspace = self.study.record(), Workspace(self.config.workspace)
        path = workspace.pictures(study.name, self.study.uid)
        images = {"Predictions on the test split": path.read_bytes()} if path.exists() else {}
        report = write_report(self.study.optuna_study, workspace.report(study.name), images=images)
        self.tracking.file(PARENT, "report.html", report.read_bytes())
        self.tracking.file(PARENT, "leaderboard.csv", leaderboard(study))
        if (summary := study.summary) is not None:
            self.tracking.file(PARENT, "summary.json", records.to_json(summary.as_dict()))
            self.tracking.tag(PARENT, {NOTE: note(study, summary)})
            metrics = _metrics(study, summary)
            self.tracking.end_run(PARENT, "FINISHED", metrics=metrics, step=study.finished, verdict=self.goal)

    def _link_runs(self) -> None:
        """Store the ids of MLflow's experiment, and of the runs that MLflow created after their trials had ended."""
        self.tracking.flush(10.0)
        if (experiment := self.tracking.mlflow_id(EXPERIMENT)) is not None:
            self.study.set_attr(records.EXPERIMENT, experiment)
        unlinked = [trial.number for trial in self.study.record().trials if trial.run_id is None]
        ids = {str(number): self.tracking.mlflow_id(trial_run(number)) for number in unlinked}
        if delivered := {number: run_id for number, run_id in ids.items() if run_id}:
            self.study.set_attr(records.RUNS, self.study.attrs().get(records.RUNS, {}) | delivered)


def _figures(result: TestScore, scores: Sequence[Score]) -> dict[str, float]:
    """The accuracy on the test split with its 95% interval, the loss, and the number of images."""
    accuracy = next(score for score in scores if score.name == "accuracy")
    interval = {"low": accuracy.low, "high": accuracy.high}
    return {"accuracy": result.accuracy, **interval, "loss": result.loss, "n": len(result.labels)}


def _tested(calibration: Calibration, result: TestScore) -> Calibration:
    """Add the errors on the test split, for which `result` has calibrated probabilities."""
    probabilities = result.probabilities
    if not np.isfinite(probabilities).all():
        return calibration
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    uncalibrated = probabilities_at(1 / calibration.temperature, logits)
    errors = (calibration_error(result.labels, rows) for rows in (uncalibrated, probabilities))
    return replace(calibration, test=CalibrationErrors(*errors))


def _metrics(study: records.StudyRecord, summary: Summary) -> Mapping[str, float]:
    """The metrics of the study's run."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    counts = {f"trials_{state.name.lower()}": float(study.count(state)) for state in states}
    return summary.figures(study.metric) | counts | ({"test_loss": summary.test["loss"]} if summary.test else {})


def _classes(confusion: NDArray[np.int64], names: Sequence[str]) -> tuple[ClassScore, ...]:
    """How often the network recognises each class."""
    counts = (confusion.sum(1).tolist(), np.diag(confusion).tolist(), confusion.sum(0).tolist())
    return tuple(ClassScore(name, *row) for name, *row in zip(names, *counts, strict=True))


def _draw(result: TestScore, classes: tuple[str, ...]) -> bytes:
    """Draw a sample of test images with their predictions, as PNG."""
    from search.tracking.figures.figures import prediction_grid

    rows = sample(len(result.labels))
    labels, probabilities = result.labels[rows].tolist(), result.probabilities[rows]
    predicted, confidence = probabilities.argmax(1).tolist(), probabilities.max(1).tolist()
    return prediction_grid(result.images[rows], list(zip(predicted, labels, confidence, strict=True)), classes)
