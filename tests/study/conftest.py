"""What tests of studies share."""

from __future__ import annotations

import pytest

from search.study.storage.storage import quiet_optuna


@pytest.fixture
def quiet() -> None:
    """Optuna logs no trial."""
    quiet_optuna()
