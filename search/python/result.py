"""The result of `search.run`: the outcome of a search, its study, its model, and a view for notebooks."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.common.config import Config
from search.common.errors import SearchError
from search.common.sqlite import sqlite_file, sqlite_url
from search.common.text import duration
from search.common.workspace import Workspace
from search.python.pages import TEMPLATES
from search.study.records import UID, StudyRecord
from search.study.storage.storage import open_storage
from search.study.storage.writer import WriterStorage
from search.study.summary import Score, Summary, counted
from search.study.texts.presenter import Decimals, present

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

    from search.commands.load import Model, Predictor


class Result:
    """The outcome of a search. In a notebook, the last line of a cell shows it."""

    def __init__(self, record: StudyRecord, config: Config, *, undelivered: int = 0) -> None:
        """Remember where everything lies, also for a program that changes its folder afterwards."""
        self._record, self._undelivered = record, undelivered
        path = sqlite_file(config.storage_url)
        storage = sqlite_url(path) if path else config.storage_url
        workspace, tracking_uri = config.workspace.absolute(), config.mlflow_uri
        self._config = replace(config, workspace=workspace, storage=storage, tracking_uri=tracking_uri)

    @property
    def best_params(self) -> dict[str, Any]:
        """The winner's parameters, as in `best_trial.params`."""
        return dict(self._summary.params)

    @property
    def best_value(self) -> float:
        """The winner's value in the search. It was chosen for it, so it is a little too good."""
        return self._summary.value

    @property
    def confirmed_value(self) -> float | None:
        """The winner's mean on fresh seeds or folds, which it was not chosen for; None if nothing was confirmed."""
        return self._summary.score if self._summary.confirmed else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of `confirmed_value`; None if unknown."""
        return self._summary.interval

    @property
    def best_trial(self) -> FrozenTrial:
        """The winner: the best trial, or the one that the confirmation chose."""
        return next(trial for trial in self.study.trials if trial.number == self._summary.number)

    @property
    def study(self) -> optuna.Study:
        """The stored study, for Optuna's plots and tables. It also has the trials that other programs added.

        Raises SearchError if it was deleted.
        """
        with suppress(KeyError):
            study = optuna.load_study(study_name=self._record.name, storage=self._storage)
            if study.user_attrs.get(UID) == self._record.attrs[UID]:  # a later study may have its name
                return study
        raise SearchError(f"the study {self._record.name!r} was deleted: run the same call again to make another one")

    @cached_property
    def _storage(self) -> WriterStorage:
        return open_storage(self._config.storage_url, create=False)

    def trials_dataframe(self) -> pd.DataFrame:
        """One row for each trial, as `study.trials_dataframe` makes it."""
        return self.study.trials_dataframe()

    @cached_property
    def predictor(self) -> Predictor:
        """The registered classifier of images, as `search.load` loads it. Raises SearchError without one."""
        from search.commands.load import load

        uri = self._registered_uri()
        if not self._record.provenance.get("dataset"):
            raise SearchError(f"{uri} is not a classifier of images; use result.model, which has predict(inputs)")
        return load(uri, workspace=self._config.workspace, tracking_uri=self._config.tracking_uri)

    @cached_property
    def model(self) -> Model:
        """The registered model, as `search.load_model` loads it. Raises SearchError without one."""
        from search.commands.load import load_model

        uri = self._registered_uri()
        return load_model(uri, workspace=self._config.workspace, tracking_uri=self._config.tracking_uri)

    def _registered_uri(self) -> str:
        if self.model_uri is None:
            raise SearchError(f"no model was registered. {self._summary.standing or 'Nothing asked for one'}")
        return self.model_uri

    @property
    def model_uri(self) -> str | None:
        """MLflow's address of the registered version, such as `models:/digits/3`; None without one."""
        return str(self._summary.model["uri"]) if self._summary.model else None

    @property
    def test_accuracy(self) -> float | None:
        """The share of test images that the registered network recognises; None without a test split."""
        return self._summary.test["accuracy"] if self._summary.test else None

    @property
    def test_scores(self) -> tuple[Score, ...]:
        """Accuracy, balanced accuracy, macro F1 and log loss of the registered network on the test split.

        Each has `name`, `value` and the bounds of its 95% interval, `low` and `high`. Empty without a test split.
        """
        return self._summary.scores

    @property
    def report_path(self) -> Path:
        """The report, an HTML file."""
        return Workspace(self._config.workspace).report(self._record.name)

    @property
    def _summary(self) -> Summary:
        if self._record.summary is None:
            raise SearchError(f"study {self._record.name!r} has no winner yet: run the same call again to continue")
        return self._record.summary

    @property
    def headline(self) -> str:
        """The study, its winner and the number of trials, in one line."""
        record, summary = self._record, self._record.summary
        winner = f"winner trial {summary.number}, {record.metric} {summary.score:.4f}" if summary else "no winner yet"
        return f"study {record.name}: {winner}, {counted(record.finished, 'trial')}"

    def __repr__(self) -> str:
        return f"<search.Result of {self.headline}>"

    def _repr_html_(self) -> str:
        """The winner, its interval, its gains and the counts, in a block that follows the notebook's colours."""
        record, summary = self._record, self._record.summary
        outcome = present(record, summary, Decimals()) if summary else None
        names = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
        return TEMPLATES.get_template("result.html.j2").render(
            name=record.name,
            outcome=outcome,
            trials=counted(record.finished, "trial"),
            counts=[f"{n} {name}" for state, name in names.items() if (n := record.count(state))],
            wall=duration(sum(session.get("wall_s", 0.0) for session in record.sessions)),
            stopped=record.stop_reason,
            undelivered=self._undelivered,
            report=_link(self.report_path) if self.report_path.exists() else None,
            report_name=self.report_path.name,
        )


def _link(path: Path) -> str:
    """A link that works in a notebook. Its page may open only files in the notebook's folder."""
    return quote(path.relative_to(Path.cwd()).as_posix()) if path.is_relative_to(Path.cwd()) else path.as_uri()
