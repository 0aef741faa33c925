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
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import TrialState

from objectives.base import ImageClassifier, Objective, TestScore
from search import records
from search.coordinator import PARENT
from search.errors import TrackingError
from search.pages import NOTE, RUN_NAME, WINNER, run_name, study_note, winner_note
from search.predictions import sample
from search.records import StudyRecord, Summary, TrialRecord
from search.study import Study
from search.tracking import EXPERIMENT, Tracking
from search.winner import best_trial, gains, score
from search.workspace import Workspace, write_whole


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
    register: str | None
    """Name to register the winner under; None: do not."""
    where: str
    """The flags that lead another command to the same stores."""

    def run(self) -> Summary:
        """Do what is missing. Raises SearchError when no trial completed."""
        study = self.study.record()
        winner, before = best_trial(study), study.summary
        summary = Summary(winner.number, winner.label, winner.value or 0.0, winner.params, gains(study, winner))
        self._uncrown(before, winner.number)
        if isinstance(self.objective, ImageClassifier):
            summary = self._scored(summary, before, self.objective)
            self._keep(summary)
            summary = self._published(summary, winner, self.objective)
        self._keep(summary)
        self._crown(summary)
        registers = isinstance(self.objective, ImageClassifier) and self.register is not None
        if summary.model is not None or not registers:  # nobody needs them now: each run has its own in MLflow
            shutil.rmtree(self._weights(winner.number).parent, ignore_errors=True)
        self._report()
        return summary

    def _keep(self, summary: Summary) -> None:
        self.study.set_attr(records.SUMMARY, summary.as_dict())

    def _scored(self, summary: Summary, before: Summary | None, objective: ImageClassifier) -> Summary:
        """With the figures on the test split, which is read once per winner."""
        if before is not None and before.number == summary.number and before.test is not None:
            return replace(summary, test=before.test, model=before.model)
        params = self.study.params_of(summary.params)
        result, figures = score(objective, params, self._read_weights(summary.number), self.device)
        write_whole(self.workspace.pictures(self.study.name), _draw(result, objective.class_names()))
        run = f"trial-{summary.number}"
        self.tracking.file(run, "test_predictions.png", self.workspace.pictures(self.study.name).read_bytes())
        self.tracking.tag(run, {"test_accuracy": f"{figures['accuracy']:.4f}"})
        return replace(summary, test=figures)

    def _uncrown(self, before: Summary | None, winner: int) -> None:
        """Unmark the winner of a shorter search of this study, as long as it is still known who that was."""
        if before is not None and before.number != winner:
            plain = {RUN_NAME: run_name(before.number, before.label), "winner": "false"}
            self.tracking.tag(f"trial-{before.number}", plain)

    def _crown(self, summary: Summary) -> None:
        """Mark the winner's run."""
        name, note = run_name(summary.number, summary.label, WINNER), winner_note(self.study.record(), summary)
        self.tracking.tag(f"trial-{summary.number}", {RUN_NAME: name, NOTE: note, "winner": "true"})

    def _published(self, summary: Summary, winner: TrialRecord, objective: ImageClassifier) -> Summary:
        name = self.register
        if name is None or summary.model is not None:
            return summary
        from objectives.models import Probabilities
        from search.registry import publish

        self.tracking.flush(60.0)
        run_id = self.tracking.mlflow_id(f"trial-{summary.number}")
        if run_id is None:
            return replace(summary, note=self._not_registered(self.tracking.trouble or "MLflow has not answered yet"))
        network = objective.load_weights(self.study.params_of(winner.params), self._read_weights(winner.number))
        images, _ = objective.validation_images()
        test = summary.test or {}
        try:
            published = publish(
                self.tracking_uri,
                run_id=run_id,
                name=name,
                model=Probabilities(network).eval(),
                example=(images[:4] / 255).astype(np.float32),
                metadata=self._metadata(objective, summary),
                tags={
                    "search.run": f"{self.uid}/trial-{winner.number}",
                    "study": self.study.name,
                    "trial": str(winner.number),
                    "validation": repr(summary.value),
                    "validation_accuracy": f"{summary.value:.4f}",
                    "test_accuracy": f"{test['accuracy']:.4f}",
                },
                note=winner_note(self.study.record(), summary),
                maximize=self.study.maximize,
            )
        except TrackingError as error:
            return replace(summary, note=self._not_registered(str(error)))
        model = {"name": name, "version": published.version, "uri": published.uri, "alias": ""}
        if published.is_champion:
            return replace(summary, model={**model, "alias": "champion"})
        note = f"version {published.champion} of {name} has a better validation accuracy and stays champion"
        return replace(summary, model=model, note=note)

    def _not_registered(self, why: str) -> str:
        command = f"python -m search promote {shlex.quote(self.study.name)}{self.where}"
        return f"the winner is not registered yet ({why}); when MLflow answers again, type: {command}"

    def _metadata(self, objective: ImageClassifier, summary: Summary) -> dict[str, Any]:
        data = dict(objective.dataset_info())
        return {
            "classes": list(objective.class_names()),
            "framing": dict(objective.framing()),
            "dataset": data["name"],
            "dataset_digest": data["digest"],
            "study": self.study.name,
            "trial": summary.number,
            "architecture": summary.label,
            "validation_accuracy": summary.value,
            "test_accuracy": (summary.test or {}).get("accuracy"),
        }

    # ---- weights

    def _weights(self, number: int) -> Path:
        return self.workspace.weights(self.study.name, self.uid, f"trial-{number}")

    def _read_weights(self, number: int) -> bytes:
        """The winner's weights, from the workspace or, where that was tidied, from its MLflow run."""
        if (path := self._weights(number)).exists():
            return path.read_bytes()
        from search.registry import download

        run_id = self.tracking.mlflow_id(f"trial-{number}")
        if run_id is None:
            raise TrackingError(f"the weights of trial {number} are neither at {path} nor in MLflow")
        return download(self.tracking_uri, run_id, "weights.pt")

    # ---- the parent run

    def _link(self) -> None:
        """Keep the runs of trials that were too short to be linked when they ended."""
        self.tracking.flush(10.0)
        unlinked = [trial.number for trial in self.study.record().trials if trial.run_id is None]
        found = {str(number): self.tracking.mlflow_id(f"trial-{number}") for number in unlinked}
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
            self.tracking.tag(PARENT, {NOTE: study_note(study, study.summary)})
            finished = self.study.finished
            figures = _figures(study, study.summary)
            self.tracking.end_run(PARENT, "FINISHED", metrics=figures, step=finished, verdict={"finished": finished})


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
    figures = {f"best_{study.metric}": summary.value}
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL):
        figures[f"trials_{state.name.lower()}"] = float(study.count(state))
    if summary.test:
        figures |= {"test_accuracy": summary.test["accuracy"], "test_loss": summary.test["loss"]}
    return figures


def _draw(result: TestScore, classes: tuple[str, ...]) -> bytes:
    from search.figures import prediction_grid

    chosen = sample(len(result.labels))
    predicted = result.probabilities[chosen].argmax(1)
    sure = result.probabilities[chosen].max(1)
    titles = list(zip(predicted.tolist(), result.labels[chosen].tolist(), sure.tolist(), strict=True))
    return prediction_grid(result.images[chosen], titles, classes)
