"""Open, list, read and follow stored studies."""

import difflib
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import click
import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from search.common.config import Config
from search.common.errors import UsageError
from search.common.passwords import bare, mask
from search.common.sqlite import sqlite_file
from search.coordinator.progress import Display, RunningTrial, SearchProgress, Standing
from search.study import records
from search.study.records import StudyRecord, TrialRecord
from search.study.storage.retry import RetryPolicy
from search.study.storage.storage import read_storage, study_names

POLL_S = 0.5  # pause between two reads of the study


def patience(config: Config) -> RetryPolicy | None:
    """How a command without a display waits for a locked file: it says so on standard error. None for a server."""
    file = sqlite_file(config.storage_url)
    return RetryPolicy(wait_s=config.storage_wait, say=partial(click.echo, err=True), file=file) if file else None


def stored_studies(config: Config) -> RDBStorage:
    """Open the storage to read it."""
    return read_storage(config.storage_url, retry=patience(config))


def open_studies(config: Config, names: Sequence[str]) -> list[optuna.Study]:
    """Open the studies with these names, by default the newest. Raises StorageError or UsageError if one is missing."""
    storage = stored_studies(config)
    existing = study_names(storage)
    if not existing:
        where = sqlite_file(config.storage_url) or mask(config.storage_url)
        raise UsageError(f"{where} has no studies yet; run a search first: python -m search")
    for name in names:
        if name not in existing:
            near = difflib.get_close_matches(name, existing, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(existing)}"
            raise UsageError(f"there is no study {name!r}; {hint}")
    return [optuna.load_study(study_name=name, storage=storage) for name in names or existing[-1:]]


def all_studies(config: Config) -> list[StudyRecord]:
    """Read every study, oldest first. Raises StorageError if the database does not exist."""
    storage = stored_studies(config)
    return [StudyRecord.of(optuna.load_study(study_name=name, storage=storage)) for name in study_names(storage)]


def read_study(config: Config, name: str | None) -> StudyRecord:
    """Read the study with this name, or the newest one. Raises as `open_studies` does."""
    return StudyRecord.of(open_studies(config, [] if name is None else [name])[0])


def tracked_elsewhere(config: Config, attrs: Mapping[str, Any]) -> str | None:
    """A hint if the study is tracked in another MLflow store than `config` names, else None; `attrs`: the study's."""
    uri = attrs.get(records.TRACKING)
    if uri is None or uri == bare(config.tracking_uri or ""):
        return None
    hint = f"at {uri}; add --tracking-uri {uri}" if uri else "here; leave out --tracking-uri"
    return f"it is tracked {hint}"


def follow(config: Config, name: str | None, display: Display) -> StudyRecord:
    """Show the progress of a search in another process until it ends. Raises as `open_studies` does."""
    study = open_studies(config, [name] if name else [])[0]
    record = StudyRecord.of(study)
    shown, standing = {trial.number for trial in _ended(record)}, _progress(record).standing
    display.begin(f"study {study.study_name}", standing.target, standing.finished)
    try:
        while True:
            record = StudyRecord.of(study)
            progress = _progress(record)
            standing.target = progress.standing.target
            for trial in _ended(record):
                if trial.number not in shown:
                    shown.add(trial.number)
                    standing.add(trial)
                    display.trial_ended(trial, standing)
            display.refresh(progress)
            if record.summary is not None and not progress.running and standing.finished >= standing.target:
                return record
            time.sleep(POLL_S)
    finally:
        display.end()


def _ended(study: StudyRecord) -> list[TrialRecord]:
    """The trials that ended, in that order."""
    ended = (trial for trial in study.trials if trial.state.is_finished())
    return sorted(ended, key=lambda trial: (trial.ended or datetime.max, trial.number))


def _progress(study: StudyRecord) -> SearchProgress:
    running = [_running_trial(study, trial) for trial in study.trials if trial.state == TrialState.RUNNING]
    target = int(study.attrs.get(records.TARGET, len(study.trials)))
    return SearchProgress(Standing(target, _ended(study), study.direction), running, study.metric)


def _running_trial(study: StudyRecord, trial: TrialRecord) -> RunningTrial:
    epoch = max(trial.intermediate, default=0) / int(study.attrs.get(records.STEPS_PER_EPOCH, 1))
    epochs = int(study.attrs.get(records.FINGERPRINT, {}).get("epochs") or 0)
    curve = tuple(value for _, value in sorted(trial.intermediate.items()))
    return RunningTrial(trial.number, trial.label, epoch, epochs, curve)
