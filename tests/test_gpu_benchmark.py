"""The row of the benchmarks that needs a CUDA device; `pytest -m gpu` runs it."""

from __future__ import annotations

from pathlib import Path

from cuda_device import NEEDS_DEVICE, NEEDS_STORES
from quick_benchmark import quick

pytestmark = [*NEEDS_DEVICE, NEEDS_STORES]


def test_quick_benchmark_of_the_gpu(tmp_path: Path) -> None:
    quick("8", tmp_path / "figures.json")
