"""Kernels that fail, as if on a GPU. On a real one: tests/objectives/test_gpu_commands.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from device_faults import search_with_faults


@pytest.mark.slow
def test_a_worker_that_cannot_use_its_gpu_is_replaced_and_its_trial_goes_on(folder: Path):
    search_with_faults(folder, "cpu")
