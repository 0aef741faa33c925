"""A registry to fill."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from search.tracking.store import connect_mlflow


@pytest.fixture
def store(folder: Path) -> mlflow.MlflowClient:
    """MLflow's client for a folder's database."""
    return connect_mlflow(f"sqlite:///{folder}/mlflow.db")
