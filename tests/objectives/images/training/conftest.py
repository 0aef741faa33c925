"""The images that tests here train on, where they do not need others."""

from __future__ import annotations

import pytest
from trainings import striped

from objectives.images.training.update import TrainingData


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return striped()
