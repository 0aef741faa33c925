"""The CUDA device of tests that need one. With SEARCH_EXPECT_GPU=1 a missing one is an error, and skips nothing.

Files of such tests are called `test_gpu*.py`, and import neither MLflow nor Optuna: `pytest -m gpu` reads no others.
"""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

EXPECTED = os.environ.get("SEARCH_EXPECT_GPU") == "1"  # here, because no test sees the variable
NEEDS_DEVICE = [
    pytest.mark.gpu,
    pytest.mark.skipif(not EXPECTED and not torch.cuda.is_available(), reason="there is no CUDA device here"),
    pytest.mark.usefixtures("device"),
]
NEEDS_STORES = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("mlflow", "optuna"))), reason="MLflow and Optuna are not installed here"
)
"""Of tests that run the command."""

DEVICE = "cuda:0"
