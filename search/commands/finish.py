"""After the last training: score the winner once, register it, and write the report.

Each step is skipped if an earlier start of the search has done it. A search that is killed here ends like any other.
"""

from __future__ import annotations

import csv
import io
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
from optuna.trial import TrialState

from objectives.base import ImageClassifier, TestScore
from objectives.files import write_atomic
from search.common.config import Config
from search.common.errors import TrackingError, UnpublishableError
from search.common.workspace import TrainingFiles, Workspace
from search.study import records
from search.study.records import StudyRecord
from search.study.selection.winner import score
from search.study.study import StoredStudy
from search.study.summary import Summary
from search.tracking.figures.predictions import sample
from search.tracking.journal import EXPERIMENT, PARENT, trial_run
from search.tracking.pages import MAX_CLASSES, NOTE, RUN_NAME, WINNER, model_card, note, run_name
from search.tracking.registry import version
from search.tracking.tracker import Tracking


class Finish:
    """The end of one search, or of one that `promote` completes."""

    def __init__(
        self,
        study: StoredStudy,
        tracking: Tracking,
        workspace: Workspace,
        config: Config,
        *,
        register_as: str | None,
        device: str,
        goal: Mapping[str, Any],
    ) -> None:
        """`goal` is stored with the study's run: a search of the same goal has nothing left to do."""
        self.study, self.tracking, self.workspace = study, tracking, workspace
        self.objective, self._config = study.objective, config
        self._register_as, self._device, self._goal = register_as, device, goal

    @cached_property
    def _files(self) -> TrainingFiles:
        return self.workspace.training_files(self.study.name, self.study.uid)

    def run(self, winner: Summary) -> Summary:
        """Do what is missing for a winner that is not yet scored."""
        summary, before = winner, self.study.record().summary
        if before is not None and before.run == winner.run:
            summary = replace(winner, test=before.test, confusion=before.confusion)
            summary = replace(summary, model=before.model, standing=before.standing)
        self._unmark(before, summary.number)
        if isinstance(self.objective, ImageClassifier):
            summary = self._scored(summary, self.objective)
            self._store(summary)
        summary = self._registered(summary)
        self._store(summary)
        self._mark(summary)
        if summary.model is not None or self._register_as is None:  # each run has its own weights in MLflow
            shutil.rmtree(self._files.weights, ignore_errors=True)
        self._report()
        return summary

    def _store(self, summary: Summary) -> None:
        self.study.set_attr(records.SUMMARY, summary.as_dict())

    def _scored(self, summary: Summary, objective: ImageClassifier) -> Summary:
        """Add the figures on the test split, unless it was read for this network. Each read is stored before it."""
        if summary.test is not None:
            return summary
        params = self.study.params_of(summary.params)
        read = {"number": summary.number, "run": summary.run, "time": datetime.now().isoformat()}
        self.study.set_attr(records.TEST_READS, [*self.study.attrs().get(records.TEST_READS, ()), read])
        result, figures = score(objective, params, self._read_weights(summary.run), self._device)
        write_atomic(self.workspace.pictures(self.study.name), _draw(result, objective.class_names()))
        for run in {summary.run, trial_run(summary.number)}:
            self.tracking.file(run, "test_predictions.png", self.workspace.pictures(self.study.name).read_bytes())
            self.tracking.tag(run, {"test_accuracy": f"{figures['accuracy']:.4f}"})
        return replace(summary, test=figures, confusion=_confusion(result, len(objective.class_names())))

    def _unmark(self, before: Summary | None, winner: int) -> None:
        """Unmark the run of an earlier winner, while the study still knows which that was."""
        if before is not None and before.number != winner:
            plain = {RUN_NAME: run_name(before.number, before.label), "winner": "false"}
            self.tracking.tag(trial_run(before.number), plain)

    def _mark(self, summary: Summary) -> None:
        """Mark the winner's run."""
        name, text = run_name(summary.number, summary.label, WINNER), note(self.study.record(), summary)
        self.tracking.tag(trial_run(summary.number), {RUN_NAME: name, NOTE: text, "winner": "true"})
        if summary.run != trial_run(summary.number):
            self.tracking.tag(summary.run, {NOTE: text})

    def _registered(self, summary: Summary) -> Summary:
        """Register the network, or update what its version says of itself."""
        if (name := self._register_as) is None:
            return summary
        from search.tracking.registry.registration import publish

        self.tracking.flush(60.0)
        run_id = self.tracking.mlflow_id(summary.run)
        if run_id is None:
            return self._unregistered(summary, self.tracking.last_error or "MLflow has not answered yet")
        study, params = self.study.record(), self.study.params_of(summary.params)
        metadata = version.metadata(study, summary, self.objective)
        try:
            published = publish(
                self._config.mlflow_uri,
                run_id=run_id,
                name=name,
                model=lambda: version.network(self.objective, params, self._read_weights(summary.run)),
                example=version.example(self.objective),
                metadata=metadata,
                tags=version.tags(study, summary, self.objective, f"{self.study.uid}/{summary.run}"),
                card=lambda number: model_card(study, summary, metadata, f"models:/{name}/{number}"),
            )
        except TrackingError as error:
            return self._unregistered(summary, str(error))
        except UnpublishableError as error:
            return replace(summary, model=None, standing=f"the winner cannot be registered: {error}")
        model = {"name": name, "version": published.version, "uri": published.uri, "alias": published.alias}
        return replace(summary, model=model, standing=published.why)

    def _unregistered(self, summary: Summary, why: str) -> Summary:
        """Drop the model, so that the next start registers it again."""
        what = "the winner is not registered yet" if summary.model is None else "the registry has older figures"
        command = f"python -m search promote {shlex.quote(self.study.name)}{self._config.where}"
        standing = f"{what} ({why}); when MLflow answers again, type: {command}"
        return replace(summary, model=None, standing=standing)

    # ---- weights

    def _read_weights(self, run: str) -> bytes:
        """The winner's weights from the workspace or, if they are gone there, from its MLflow run."""
        if (path := self._files.weights_of(run)).exists():
            return path.read_bytes()
        from search.tracking.registry.loading import download

        run_id = self.tracking.mlflow_id(run)
        if run_id is None:
            raise TrackingError(f"the weights of {run} are neither at {path} nor in MLflow")
        return download(self._config.mlflow_uri, run_id, "weights.pt")

    # ---- the parent run

    def _link(self) -> None:
        """Store the MLflow runs of trials that ended before MLflow had made them."""
        self.tracking.flush(10.0)
        unlinked = [trial.number for trial in self.study.record().trials if trial.run_id is None]
        found = {str(number): self.tracking.mlflow_id(trial_run(number)) for number in unlinked}
        if any(found.values()):
            known = self.study.attrs().get(records.RUNS, {})
            self.study.set_attr(records.RUNS, known | {number: run for number, run in found.items() if run})

    def _report(self) -> None:
        from search.reports.page import write_report

        if (experiment := self.tracking.mlflow_id(EXPERIMENT)) is not None:
            self.study.set_attr(records.EXPERIMENT, experiment)
        self._link()
        study = self.study.record()
        path = self.workspace.pictures(self.study.name)
        pictures = {"Predictions on the test split": path.read_bytes()} if path.exists() else {}
        report = write_report(self.study.optuna_study, self.workspace.report(self.study.name), pictures=pictures)
        self.tracking.file(PARENT, "report.html", report.read_bytes())
        self.tracking.file(PARENT, "leaderboard.csv", leaderboard(study))
        if study.summary is not None:
            self.tracking.file(PARENT, "summary.json", records.to_json(study.summary.as_dict()))
            self.tracking.tag(PARENT, {NOTE: note(study, study.summary)})
            figures = _figures(study, study.summary)
            self.tracking.end_run(PARENT, "FINISHED", metrics=figures, step=study.finished, verdict=self._goal)


def leaderboard(study: StudyRecord) -> bytes:
    """Every trial with a value, best first, as CSV."""
    names = sorted({name for trial in study.trials for name in trial.params})
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["rank", "trial", "state", study.metric, "setting", "baseline", *names])
    for rank, trial in enumerate(study.ranked(), start=1):
        row = [rank, trial.number, trial.state.name, trial.value, trial.label, trial.baseline or ""]
        writer.writerow([*row, *(trial.params.get(name, "") for name in names)])
    return text.getvalue().encode()


def _figures(study: StudyRecord, summary: Summary) -> Mapping[str, float]:
    figures = summary.figures(study.metric)
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL):
        figures[f"trials_{state.name.lower()}"] = float(study.count(state))
    if summary.test:
        figures["test_loss"] = summary.test["loss"]
    return figures


def _confusion(result: TestScore, k: int) -> list[list[int]] | None:
    """Test images by true class and by what the network predicted: k rows of k; None for very many classes."""
    if k > MAX_CLASSES:
        return None
    cells = result.labels * k + result.probabilities.argmax(1)
    counts: list[list[int]] = np.bincount(cells, minlength=k * k).reshape(k, k).tolist()
    return counts


def _draw(result: TestScore, classes: tuple[str, ...]) -> bytes:
    from search.tracking.figures.figures import prediction_grid

    chosen = sample(len(result.labels))
    predicted = result.probabilities[chosen].argmax(1)
    sure = result.probabilities[chosen].max(1)
    titles = list(zip(predicted.tolist(), result.labels[chosen].tolist(), sure.tolist(), strict=True))
    return prediction_grid(result.images[chosen], titles, classes)
