"""Stores with thousands of past trials and runs in them, made quicker than by searching, but really there."""

from __future__ import annotations

import random
import sqlite3
import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Literal

import optuna
from optuna.trial import TrialState, create_trial

from objectives.base import Params, Suggest, Task, Training
from objectives.images.objective import ImageClassification
from search.study import records
from search.study.storage.storage import open_storage, quiet_optuna
from search.study.study import open_study
from search.tracking.journal import PARENT
from search.tracking.store import Destination
from search.tracking.tracker import Tracking
from tests.benchmarks.commands import data_dir

NAME, SCOPE = "growth", "benchmark"
REPORTS = (1, 4, 8, 12)
"""Steps at which a training of three epochs reports: the first quarter of an epoch, and each whole one."""
STEPS = REPORTS[-1]
POINT = {"train/loss": 0.3, "train/accuracy": 0.9, "val/loss": 0.3, "val/accuracy": 0.9}


class SixParameters:
    """An objective that is only sampled."""

    name, metric = NAME, "val_accuracy"
    direction: Literal["maximize", "minimize"] = "maximize"

    def suggest(self, trial: Suggest) -> Params:
        return {
            "hidden": trial.suggest_int("hidden", 64, 512, log=True),
            "dropout": trial.suggest_float("dropout", 0.0, 0.5),
            "optimizer": trial.suggest_categorical("optimizer", ["sgd", "adam", "rmsprop"]),
            "lr": trial.suggest_float("lr", 1e-4, 1e-1, log=True),
            "batch_size": trial.suggest_categorical("batch_size", [32, 64, 128]),
            "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True),
        }

    def start(self, task: Task, device: str) -> Training:
        raise AssertionError("nothing is trained here")

    def baselines(self) -> Mapping[str, Params]:
        return {}

    def epochs(self, device: str) -> int:
        return STEPS // 4

    def steps_per_epoch(self) -> int:
        return 4

    def fingerprint(self) -> Mapping[str, str]:
        return {}

    def describe(self, params: Params) -> str:
        return f"mlp-{params['hidden']} {params['optimizer']}"


class Pictured(SixParameters, ImageClassification):
    """The same, with MNIST's validation images behind it: its trials leave predictions, which are drawn."""

    def __init__(self) -> None:
        super().__init__("mnist", str(data_dir()))
        self.name = NAME


def grow(database: Path, trials: int) -> None:
    """Bring the study in `database` to so many trials, half of them pruned, as a search would have stored them."""
    quiet_optuna()
    objective = SixParameters()
    storage = open_storage(f"sqlite:///{database}")
    study = open_study(storage, NAME, objective, "growth:SixParameters", objective.epochs("cpu")).study_id
    draw = random.Random(trials)
    for number in range(storage.get_n_trials(study), trials):
        asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number)).ask()
        objective.suggest(asked)
        value = draw.uniform(0.5, 1.0)
        past = create_trial(
            state=TrialState.PRUNED if number % 2 else TrialState.COMPLETE,
            value=None if number % 2 else value,
            params=asked.params,
            distributions=asked.distributions,
            intermediate_values={1: value},
            system_attrs={} if number % 2 else {"completed_rung_0": value},
            user_attrs={records.LABEL: "past", records.SLOT: 0, records.METRICS: POINT, records.RUN: uuid.uuid4().hex},
        )
        storage.create_new_trial(study, template_trial=past)
    storage.remove_session()
    storage.engine.dispose()


def one_run(folder: Path) -> Path:
    """An MLflow store with the study's run and one of a trial."""
    tracking = open_tracking(folder)
    tracking.open_run("past", "past", tags={"kind": "trial"}, params=dict.fromkeys("abcdef", 1), parent=PARENT)
    tracking.log("past", POINT, step=0, position=1)
    tracking.end_run("past", "FINISHED", metrics={"val_accuracy": 0.9}, tags={"optuna.state": "COMPLETE"})
    assert tracking.close() == 0
    return folder / "mlflow.db"


def open_tracking(folder: Path) -> Tracking:
    """The way to MLflow, once it is open and has the study's run."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    tracking = Tracking(folder / "journal.db", Destination(uri, NAME, SCOPE, folder / "artifacts"))
    tracking.ready()
    tracking.open_run(PARENT, "search", tags={"kind": "study"})
    tracking.flush(30.0)
    time.sleep(0.5)  # the courier counts its seconds after a round: the opening is to be over
    return tracking


def clone_runs(database: Path, runs: int) -> None:
    """Repeat the rows of the run `past` in every table that has some: thousands of runs in a second."""
    with closing(sqlite3.connect(database)) as db, db:
        tag = "SELECT run_uuid FROM tags WHERE key = 'search.run' AND value = ?"
        ((source,),) = db.execute(tag, (f"{SCOPE}/past",)).fetchall()
        ids = [uuid.uuid4().hex for _ in range(runs - 1)]
        for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            if "run_uuid" in columns:
                taken = ", ".join("?" if column == "run_uuid" else column for column in columns)
                query = f"INSERT INTO {table} SELECT {taken} FROM {table} WHERE run_uuid = ?"
                db.executemany(query, ((run, source) for run in ids))
        db.executemany(
            "UPDATE tags SET value = ? WHERE key = 'search.run' AND run_uuid = ?",
            ((f"{SCOPE}/past-{number}", run) for number, run in enumerate(ids)),
        )


def copy(database: Path, target: Path) -> Path:
    """A database as it is now, its write-ahead log included."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(target)) as db:
        source.backup(db)
    return target
