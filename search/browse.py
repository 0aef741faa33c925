"""Find stored studies; follow one, give one as a table, show one in a browser."""

from __future__ import annotations

import difflib
import io
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import TrialState

from search import records
from search.config import Config
from search.errors import UsageError
from search.masking import bare, mask
from search.progress import Display, RunningTrial, SearchProgress, Standing
from search.records import StudyRecord, TrialRecord
from search.storage import MLFLOW_TABLE, check_sqlite, open_storage, quiet_optuna, sqlite_file
from search.workspace import Workspace

POLL_S = 0.5
"""How often a search is looked at that another process runs."""


def open_studies(config: Config, names: Sequence[str]) -> list[optuna.Study]:
    """The studies of these names; the newest one when there are none.

    Raises StorageError when there is no database, UsageError when there is no such study.
    """
    quiet_optuna()
    storage = open_storage(config.storage_url, create=False)
    known = sorted(storage.get_all_studies(), key=lambda study: study._study_id)
    if not known:
        raise UsageError(f"{mask(config.storage_url)} has no studies yet; run a search first: python -m search")
    existing = [study.study_name for study in known]
    for name in names:
        if name not in existing:
            near = difflib.get_close_matches(name, existing, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(existing)}"
            raise UsageError(f"there is no study {name!r}; {hint}")
    return [optuna.load_study(study_name=name, storage=storage) for name in names or existing[-1:]]


def read_study(config: Config, name: str | None) -> StudyRecord:
    """The study of this name, else the newest one, as people are shown it. Raises as `open_studies` does."""
    return StudyRecord.of(open_studies(config, [] if name is None else [name])[0])


def elsewhere(config: Config, attrs: Mapping[str, Any]) -> str | None:
    """What to say when a study is tracked in another store than this command names: its writes must not go here."""
    uri = attrs.get(records.TRACKING)
    if uri is None or uri == bare(config.tracking_uri or ""):
        return None
    return (
        f"it is tracked at {uri}; add --tracking-uri {uri}" if uri else "it is tracked here; leave out --tracking-uri"
    )


def all_studies(config: Config) -> list[StudyRecord]:
    """Every study, oldest first."""
    quiet_optuna()
    storage = open_storage(config.storage_url, create=False)
    known = sorted(storage.get_all_studies(), key=lambda study: study._study_id)
    return [StudyRecord.of(optuna.load_study(study_name=study.study_name, storage=storage)) for study in known]


def follow(config: Config, name: str | None, display: Display) -> StudyRecord:
    """Show a search that another process runs, until it has come to its end. Raises as `open_studies` does."""
    study = open_studies(config, [name] if name else [])[0]
    record = StudyRecord.of(study)
    shown = {trial.number for trial in record.trials if trial.state.is_finished()}
    snapshot = _snapshot(record)
    standing = snapshot.standing
    display.begin(f"study {study.study_name}", standing.target, standing.finished)
    try:
        while True:
            record = StudyRecord.of(study)
            snapshot = _snapshot(record)
            standing.target = snapshot.standing.target
            for trial in _ended(record):
                if trial.number not in shown:
                    shown.add(trial.number)
                    standing.add(trial)
                    display.trial_ended(trial, standing)
            display.refresh(snapshot)
            if record.summary is not None and not snapshot.running and standing.finished >= standing.target:
                return record
            time.sleep(POLL_S)
    finally:
        display.end()


def _ended(study: StudyRecord) -> list[TrialRecord]:
    """In the order in which they did."""
    ended = (trial for trial in study.trials if trial.state.is_finished())
    return sorted(ended, key=lambda trial: (trial.ended or datetime.max, trial.number))


def _snapshot(study: StudyRecord) -> SearchProgress:
    steps = int(study.attrs.get(records.STEPS_PER_EPOCH, 1))
    epochs = int(study.attrs.get(records.FINGERPRINT, {}).get("epochs") or 0)
    running = [
        RunningTrial(
            trial.number,
            trial.label,
            max(trial.intermediate, default=0) / steps,
            epochs,
            tuple(value for _, value in sorted(trial.intermediate.items())),
        )
        for trial in study.trials
        if trial.state == TrialState.RUNNING
    ]
    target = int(study.attrs.get(records.TARGET, len(study.trials)))
    return SearchProgress(Standing(target, _ended(study), maximize=study.maximize), running, study.metric)


def export_study(study: StudyRecord, format_: str) -> bytes:
    """One row a trial: its fields, then `params.*`, `metrics.*` and `constraints.*`.

    `format_`: `csv`, `json` or `parquet`.
    """
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

    rows = []
    for trial in study.trials:
        fields = trial.as_dict()
        nested = {part: fields.pop(part) for part in ("params", "metrics", "constraints")}
        del fields["intermediate"]
        rows.append(fields | {f"{part}.{key}": value for part in nested for key, value in nested[part].items()})
    table = pd.DataFrame(rows).convert_dtypes()
    for name in table.select_dtypes("object"):  # choices of several types
        table[name] = table[name].map(lambda value: None if value is None else str(value))
    if format_ == "parquet":
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        return buffer.getvalue()
    text = str(table.to_csv(index=False) if format_ == "csv" else table.to_json(orient="records", indent=2))
    return (text if text.endswith("\n") else f"{text}\n").encode()


def serve_study(config: Config, name: str | None, announce: Callable[[str], None], *, open_browser: bool) -> int:
    """Serve both pages until Ctrl-C; returns the exit status."""
    from search.ui import serve

    study = read_study(config, name or None)
    path = sqlite_file(config.mlflow_uri)
    if path is not None:
        check_sqlite(path, MLFLOW_TABLE)
    return serve(
        tracking_uri=config.mlflow_uri,
        storage_url=config.storage_url,
        announce=announce,
        study_id=study.study_id,
        experiment_id=study.attrs.get(records.EXPERIMENT),
        artifact_root=Workspace(config.workspace).mlruns.absolute(),
        open_browser=open_browser,
    )
