"""After the last trial: choose the winner, score it once, publish it, and write the report.

Every step is skipped when an earlier start of the search has done it, so a search that was killed here ends as one that
was not.
"""

from __future__ import annotations

import csv
import importlib
import io
import shlex
import shutil
import threading
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import TrialState

from objectives.base import ImageClassifier, Objective, TestScore
from objectives.files import write_atomic
from search import records, version
from search.errors import TrackingError, UnpublishableError
from search.journal import EXPERIMENT, PARENT, trial_run
from search.markdown import MAX_CLASSES, model_card, note
from search.pages import NOTE, RUN_NAME, WINNER, run_name
from search.predictions import sample
from search.records import StudyRecord
from search.study import Study
from search.summary import Summary
from search.tracking import Tracking
from search.winner import score
from search.workspace import Workspace


class Preparation:
    """Imports what the ending needs, seconds of work, in a thread: while the last trainings run, cores stand idle."""

    def __init__(self, objective: Objective, *, publishes: bool) -> None:
        names = ["optuna.importance", "optuna.visualization", "search.report"]
        if isinstance(objective, ImageClassifier):
            names += ["torch", "search.figures"]
        if publishes:
            names += ["torch._dynamo", "mlflow.pytorch"]
        self._thread = threading.Thread(target=lambda: [importlib.import_module(name) for name in names], daemon=True)

    def begin(self) -> None:
        """Begin, unless it was begun before."""
        if self._thread.ident is None:
            self._thread.start()

    def wait(self, timeout_s: float | None = None) -> None:
        """Return when nothing is being imported, or after the time."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)


@dataclass
class Conclusion:
    """The end of one search."""

    study: Study
    objective: Objective
    tracking: Tracking
    _: KW_ONLY
    workspace: Workspace
    uid: str
    device: str
    tracking_uri: str
    goal: Mapping[str, Any]
    """What this search was to come to: the verdict that makes doing it again unnecessary."""
    register: str | None
    """Name to register the winner under; None: do not."""
    chosen: Summary
    """The winner, not yet scored."""
    where: str
    """The flags that lead another command to the same stores."""

    def run(self) -> Summary:
        """Do what is missing."""
        summary, before = self.chosen, self.study.record().summary
        if before is not None and before.run == summary.run:
            summary = replace(summary, test=before.test, confusion=before.confusion)
            summary = replace(summary, model=before.model, standing=before.standing)
        self._uncrown(before, summary.number)
        if isinstance(self.objective, ImageClassifier):
            summary = self._scored(summary, self.objective)
            self._keep(summary)
        summary = self._published(summary)
        self._keep(summary)
        self._crown(summary)
        if summary.model is not None or self.register is None:  # nobody needs them now: each run has its own in MLflow
            shutil.rmtree(self._weights(summary.run).parent, ignore_errors=True)
        self._report()
        return summary

    def _keep(self, summary: Summary) -> None:
        self.study.set_attr(records.SUMMARY, summary.as_dict())

    def _scored(self, summary: Summary, objective: ImageClassifier) -> Summary:
        """With the figures on the test split, which is read for this network alone; that it is read is kept first."""
        if summary.test is not None:
            return summary
        params = self.study.params_of(summary.params)
        read = {"number": summary.number, "run": summary.run, "time": datetime.now().isoformat()}
        self.study.set_attr(records.TEST_READS, [*self.study.attrs().get(records.TEST_READS, ()), read])
        result, figures = score(objective, params, self._read_weights(summary.run), self.device)
        write_atomic(self.workspace.pictures(self.study.name), _draw(result, objective.class_names()))
        for run in {summary.run, trial_run(summary.number)}:
            self.tracking.file(run, "test_predictions.png", self.workspace.pictures(self.study.name).read_bytes())
            self.tracking.tag(run, {"test_accuracy": f"{figures['accuracy']:.4f}"})
        return replace(summary, test=figures, confusion=_confusion(result, len(objective.class_names())))

    def _uncrown(self, before: Summary | None, winner: int) -> None:
        """Unmark the winner of a shorter search of this study, as long as it is still known who that was."""
        if before is not None and before.number != winner:
            plain = {RUN_NAME: run_name(before.number, before.label), "winner": "false"}
            self.tracking.tag(trial_run(before.number), plain)

    def _crown(self, summary: Summary) -> None:
        """Mark the winner's run."""
        name, text = run_name(summary.number, summary.label, WINNER), note(self.study.record(), summary)
        self.tracking.tag(trial_run(summary.number), {RUN_NAME: name, NOTE: text, "winner": "true"})
        if summary.run != trial_run(summary.number):
            self.tracking.tag(summary.run, {NOTE: text})

    def _published(self, summary: Summary) -> Summary:
        """Registered; what a version that is there says of itself is brought up to date."""
        if (name := self.register) is None:
            return summary
        from search.registry import publish

        self.tracking.flush(60.0)
        run_id = self.tracking.mlflow_id(summary.run)
        if run_id is None:
            return self._unregistered(summary, self.tracking.trouble or "MLflow has not answered yet")
        study, params = self.study.record(), self.study.params_of(summary.params)
        metadata = version.metadata(study, summary, self.objective)
        try:
            published = publish(
                self.tracking_uri,
                run_id=run_id,
                name=name,
                model=lambda: version.network(self.objective, params, self._read_weights(summary.run)),
                example=version.example(self.objective),
                metadata=metadata,
                tags=version.tags(study, summary, self.objective, f"{self.uid}/{summary.run}"),
                card=lambda number: model_card(study, summary, metadata, f"models:/{name}/{number}"),
            )
        except TrackingError as error:
            return self._unregistered(summary, str(error))
        except UnpublishableError as error:
            return replace(summary, model=None, standing=f"the winner cannot be registered: {error}")
        model = {"name": name, "version": published.version, "uri": published.uri, "alias": published.alias}
        return replace(summary, model=model, standing=published.why)

    def _unregistered(self, summary: Summary, why: str) -> Summary:
        """Without a model, so that the next start tries it again."""
        what = "the winner is not registered yet" if summary.model is None else "the registry has older figures"
        command = f"python -m search promote {shlex.quote(self.study.name)}{self.where}"
        standing = f"{what} ({why}); when MLflow answers again, type: {command}"
        return replace(summary, model=None, standing=standing)

    # ---- weights

    def _weights(self, run: str) -> Path:
        return self.workspace.weights(self.study.name, self.uid, run)

    def _read_weights(self, run: str) -> bytes:
        """The winner's weights, from the workspace or, where that was tidied, from its MLflow run."""
        if (path := self._weights(run)).exists():
            return path.read_bytes()
        from search.model_store import download

        run_id = self.tracking.mlflow_id(run)
        if run_id is None:
            raise TrackingError(f"the weights of {run} are neither at {path} nor in MLflow")
        return download(self.tracking_uri, run_id, "weights.pt")

    # ---- the parent run

    def _link(self) -> None:
        """Keep the runs of trials that were too short to be linked when they ended."""
        self.tracking.flush(10.0)
        unlinked = [trial.number for trial in self.study.record().trials if trial.run_id is None]
        found = {str(number): self.tracking.mlflow_id(trial_run(number)) for number in unlinked}
        if any(found.values()):
            known = self.study.attrs().get(records.RUNS, {})
            self.study.set_attr(records.RUNS, known | {number: run for number, run in found.items() if run})

    def _report(self) -> None:
        from search.report import write_report

        if (experiment := self.tracking.mlflow_id(EXPERIMENT)) is not None:
            self.study.set_attr(records.EXPERIMENT, experiment)
        self._link()
        study = self.study.record()
        path = self.workspace.pictures(self.study.name)
        pictures = {"Predictions on the test split": path.read_bytes()} if path.exists() else {}
        report = write_report(self.study.view(), self.workspace.report(self.study.name), pictures=pictures)
        self.tracking.file(PARENT, "report.html", report.read_bytes())
        self.tracking.file(PARENT, "leaderboard.csv", leaderboard(study))
        if study.summary is not None:
            self.tracking.file(PARENT, "summary.json", records.to_json(study.summary.as_dict()))
            self.tracking.tag(PARENT, {NOTE: note(study, study.summary)})
            figures = _figures(study, study.summary)
            self.tracking.end_run(PARENT, "FINISHED", metrics=figures, step=self.study.finished, verdict=self.goal)


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
    """Test images by true class and by what the network said: k rows of k; None when that is too much to read."""
    if k > MAX_CLASSES:
        return None
    cells = result.labels * k + result.probabilities.argmax(1)
    counts: list[list[int]] = np.bincount(cells, minlength=k * k).reshape(k, k).tolist()
    return counts


def _draw(result: TestScore, classes: tuple[str, ...]) -> bytes:
    from search.figures import prediction_grid

    chosen = sample(len(result.labels))
    predicted = result.probabilities[chosen].argmax(1)
    sure = result.probabilities[chosen].max(1)
    titles = list(zip(predicted.tolist(), result.labels[chosen].tolist(), sure.tolist(), strict=True))
    return prediction_grid(result.images[chosen], titles, classes)
