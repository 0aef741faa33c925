"""Open, list, read and follow stored studies."""

import difflib
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from search.common.config import Config
from search.common.errors import UsageError
from search.common.passwords import bare, mask
from search.coordinator.progress import Display, RunningTrial, SearchProgress, Standing
from search.study import records
from search.study.records import StudyRecord, TrialRecord
from search.study.storage.storage import open_storage, study_names
from search.tracking.registry.presence import FoundVersion, StoredVersion, find_versions

POLL_S = 0.5  # pause between two reads of the study


def open_studies(config: Config, names: Sequence[str]) -> list[optuna.Study]:
    """Open the studies with these names, by default the newest. Raises StorageError or UsageError if one is missing."""
    storage = open_storage(config.storage_url, create=False)
    existing = study_names(storage)
    if not existing:
        raise UsageError(f"{mask(config.storage_url)} has no studies yet; run a search first: python -m search")
    for name in names:
        if name not in existing:
            near = difflib.get_close_matches(name, existing, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(existing)}"
            raise UsageError(f"there is no study {name!r}; {hint}")
    return [optuna.load_study(study_name=name, storage=storage) for name in names or existing[-1:]]


def all_studies(config: Config) -> list[StudyRecord]:
    """Read every study, oldest first. Raises StorageError if the database does not exist."""
    storage = open_storage(config.storage_url, create=False)
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


def compared(config: Config, studies: Sequence[StudyRecord]) -> list[StudyRecord]:
    """Replace what the studies have stored about the registry by what it has now; a study's winner may be gone there.

    A store that does not answer at once is not waited for; the studies then say so.
    """
    return [_compared(config, study) for study in studies]


def _compared(config: Config, study: StudyRecord) -> StudyRecord:
    summary, found = study.summary, find_stored(config, study)
    if summary is None or summary.model is None:
        return study
    if found == "unknown":
        text = f"MLflow at {bare(store_of(config, study.attrs))} does not answer, so {summary.model['uri']} may be gone"
        return replace(study, summary=summary.noted(text))
    return replace(study, summary=replace(summary, **_as_found(config, study, found)))


def find_stored(config: Config, study: StudyRecord) -> FoundVersion | None | Literal["unknown"]:
    """The version that a study has stored, as the registry has it; None if it is gone there, or if none is stored."""
    if (summary := study.summary) is None or (model := summary.model) is None:
        return None
    run = f"{study.attrs.get(records.UID, '')}/{summary.run}"
    stored = StoredVersion(model["name"], str(model["version"]), run)
    found = find_versions(store_of(config, study.attrs), [stored])
    return "unknown" if found is None else found[0]


def store_of(config: Config, attrs: Mapping[str, Any]) -> str:
    """The address of the MLflow store in which a study is tracked; `attrs`: the study's."""
    if tracked_elsewhere(config, attrs) is None:
        return config.mlflow_uri
    return str(attrs[records.TRACKING]) or replace(config, tracking_uri=None).mlflow_uri


def _as_found(config: Config, study: StudyRecord, found: FoundVersion | None) -> dict[str, Any]:
    """The fields `model` and `standing` of a study's summary as the registry has them."""
    assert study.summary is not None
    model, standing = dict(study.summary.model or {}), study.summary.standing
    if found is None:
        command = f"python -m search promote {shlex.quote(study.name)}{config.where}"
        gone = f"version {model['version']} of {model['name']} is no longer in MLflow"
        return {"model": None, "standing": f"{gone}; to register the winner again, type: {command}"}
    now = {"name": found.name, "version": found.version, "alias": found.alias}
    if now == {key: str(model.get(key)) for key in now}:
        return {"model": model, "standing": standing}
    return {"model": {**now, "uri": found.uri}, "standing": None}


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
