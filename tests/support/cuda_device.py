"""The CUDA device of tests that need one. With SEARCH_EXPECT_GPU=1 a missing one is an error, and skips nothing."""

from __future__ import annotations

import os

import pytest
import torch

EXPECTED = os.environ.get("SEARCH_EXPECT_GPU") == "1"  # here, because no test sees the variable
NEEDS_DEVICE = [
    pytest.mark.gpu,
    pytest.mark.skipif(not EXPECTED and not torch.cuda.is_available(), reason="there is no CUDA device here"),
    pytest.mark.usefixtures("device"),
]

DEVICE = "cuda:0"
