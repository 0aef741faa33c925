"""Find stored studies, and show them in a browser."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

import optuna

from search import records
from search.config import Config
from search.errors import UsageError
from search.records import StudyRecord
from search.storage import MLFLOW_TABLE, check_sqlite, open_storage, quiet_optuna, sqlite_file
from search.workspace import Workspace


def open_studies(config: Config, names: Sequence[str]) -> list[optuna.Study]:
    """The studies of these names; the newest one when there are none.

    Raises StorageError when there is no database, UsageError when there is no such study.
    """
    quiet_optuna()
    storage = open_storage(config.storage_url, create=False)
    known = sorted(storage.get_all_studies(), key=lambda study: study._study_id)
    if not known:
        raise UsageError(f"{config.storage_url} has no studies yet; run a search first: python -m search")
    existing = [study.study_name for study in known]
    for name in names:
        if name not in existing:
            near = difflib.get_close_matches(name, existing, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(existing)}"
            raise UsageError(f"there is no study {name!r}; {hint}")
    return [optuna.load_study(study_name=name, storage=storage) for name in names or existing[-1:]]


def all_studies(config: Config) -> list[StudyRecord]:
    """Every study, oldest first."""
    quiet_optuna()
    storage = open_storage(config.storage_url, create=False)
    known = sorted(storage.get_all_studies(), key=lambda study: study._study_id)
    return [StudyRecord.of(optuna.load_study(study_name=study.study_name, storage=storage)) for study in known]


def serve_study(config: Config, name: str | None, announce: Callable[[str], None], *, open_browser: bool) -> int:
    """Serve both pages until Ctrl-C; returns the exit status."""
    from search.ui import serve

    study = StudyRecord.of(open_studies(config, [name] if name else [])[0])
    path = sqlite_file(config.mlflow_uri)
    if path is not None:
        check_sqlite(path, MLFLOW_TABLE)
    return serve(
        tracking_uri=config.mlflow_uri,
        storage_url=config.storage_url,
        announce=announce,
        study_id=study.study_id,
        experiment_id=study.attrs.get(records.EXPERIMENT),
        metric=study.metric,
        maximize=study.maximize,
        artifact_root=Workspace(config.workspace).mlruns.absolute(),
        open_browser=open_browser,
    )
