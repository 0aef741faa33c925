"""Shared by tests of datasets."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own in place of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "search-data"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """The folder of a dataset's files."""
    return tmp_path / "data"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An npz file to write."""
    return tmp_path / "pets.npz"
