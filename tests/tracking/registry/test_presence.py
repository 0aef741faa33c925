"""What the registry still has of stored versions: a SQLite file must answer as MLflow's client does."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from search.tracking.registry import presence
from search.tracking.registry.presence import FoundVersion, StoredVersion, find_versions
from search.tracking.store import tagged_runs


def add(client: mlflow.MlflowClient, name: str, run: str | None) -> str:
    """A version of a model, which is made if needed."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    return str(
        client.create_model_version(name, "file:///nowhere", tags={} if run is None else {"search.run": run}).version
    )


STORED = [
    StoredVersion("digits", "1", tagged_runs("uid", "trial-0")),
    StoredVersion("digits", "2", tagged_runs("uid", "trial-1")),
    StoredVersion("digits", "3", tagged_runs("uid", "refit-2")),
    StoredVersion("never", "1", tagged_runs("uid", "trial-9")),
    StoredVersion("theirs", "1", tagged_runs("uid", "trial-5")),
    StoredVersion("digits", "1", tagged_runs("uid-copy-copy", "trial-0")),
    StoredVersion("digits", "4", tagged_runs("uid", "trial-6")),
    StoredVersion("renamed", "1", tagged_runs("uid", "trial-7")),
    StoredVersion("gone", "1", tagged_runs("uid", "trial-8")),
]


def test_a_file_answers_as_the_client_does(store: mlflow.MlflowClient, folder: Path):
    for run in ("uid/trial-0", "uid/trial-1", "other/refit-2", "uid-copy/trial-6"):
        add(store, "digits", run)
    add(store, "theirs", None)
    add(store, "renamed", "uid/trial-7")
    add(store, "gone", "uid/trial-8")
    store.rename_registered_model("renamed", "now this")
    store.delete_registered_model("gone")
    store.delete_model_version("digits", "2")
    for alias in ("challenger", "champion", "staging"):
        store.set_registered_model_alias("digits", alias, "1")
    store.set_registered_model_alias("theirs", "staging", "1")
    expected = [
        FoundVersion("digits", "1", "champion"),
        *(None, None, None, None),
        FoundVersion("digits", "1", "champion"),
        None,
        FoundVersion("now this", "1", ""),
        None,
    ]
    assert find_versions(f"sqlite:///{folder}/mlflow.db", STORED) == expected
    assert [presence._find(stored, presence._Client(store)) for stored in STORED] == expected


@pytest.mark.parametrize("content", [None, b"", b"no database at all, but a text"])
def test_a_file_that_is_no_registry_does_not_answer(tmp_path: Path, content: bytes | None):
    path = tmp_path / "ml%20flow?.db" if content is None else tmp_path / "mlflow.db"
    if content is not None:
        path.write_bytes(content)
    assert find_versions(f"sqlite:///{path}", STORED) is None
    assert path.exists() == (content is not None)
