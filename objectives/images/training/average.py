"""An exponential moving average of a network's weights, which is evaluated and exported in place of the last ones.

At a high learning rate the last weights jump about. Their average says earlier how good a training will be.
Source: Polyak & Juditsky, https://doi.org/10.1137/0330046, in the exponential form.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """Averages of trained weights, and of the statistics of normalisation, in tensors that never move.

    They start from zero and are corrected for it when they are read, as Adam's are. So every step does the same, and a
    CUDA graph can repeat it.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._NormBase)]
        statistics = [buffer for layer in norms for buffer in layer.buffers() if buffer.is_floating_point()]
        self._live = [*(weight for weight in model.parameters() if weight.requires_grad), *statistics]
        self.tensors = [torch.zeros_like(tensor) for tensor in self._live]
        self._new = torch.zeros((), device=self._live[0].device)
        """Weight of the latest values in the average."""
        self.steps = 0.0
        """Time constant in batches. 0: no average."""

    def begin(self, steps: float) -> None:
        """Start from nothing, with this time constant in batches. 0 or less than 1: no average."""
        self.steps = steps
        self._new.fill_(1 / max(1.0, steps))
        for tensor in self.tensors:
            tensor.zero_()

    def update(self) -> None:
        """Take in the present weights."""
        if self._new.is_cuda:  # three kernels that read the weight from memory, as a graph must
            change = torch._foreach_sub(self._live, self.tensors)
            torch._foreach_mul_(change, self._new)
            torch._foreach_add_(self.tensors, change)
        else:  # one pass over the memory
            torch._foreach_lerp_(self.tensors, self._live, 1 / max(1.0, self.steps))

    @contextmanager
    def applied(self, batches: int) -> Iterator[None]:
        """The network has its averages inside the block. `batches`: how many were taken in."""
        if not batches:
            yield
            return
        share = 1 - (1 - 1 / max(1.0, self.steps)) ** batches
        with torch.no_grad():
            live = [tensor.clone() for tensor in self._live]
            torch._foreach_copy_(self._live, torch._foreach_div(self.tensors, share))
            try:
                yield
            finally:
                torch._foreach_copy_(self._live, live)
