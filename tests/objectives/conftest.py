"""What tests on a CUDA device ask for first."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def device() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.fail("SEARCH_EXPECT_GPU=1, but torch finds no CUDA device")
