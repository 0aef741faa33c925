"""The sampled numbers of a step, kept in the device's memory, where a recording reads them.

A recording freezes plain numbers, and a sampler hardly ever draws the same ones twice. Numbers in memory may change, so
one recording serves all trials whose networks have the same structure. Where nothing is recorded, numbers stay plain,
because kernels take them at no cost.
"""

from __future__ import annotations

import torch
from torch import nn

from objectives.images.models import Dropout
from objectives.images.training.recipe import Recipe


class Sampled:
    """Weight decay, momentum and smoothed labels on the device, and the dropout of one network."""

    def __init__(self, model: nn.Module, classes: int, device: torch.device) -> None:
        self.decay, self.momentum = torch.zeros(2, device=device).unbind()
        self.targets = torch.zeros(classes, classes, device=device)
        """The targets of the network for each class, (k, k)."""
        self._dropouts = dropouts(model)
        for layer in self._dropouts:
            layer.numbers = torch.zeros(2, device=device).unbind()

    def fill(self, recipe: Recipe, model: nn.Module) -> None:
        """Take the numbers of a training of `model`, which has the same structure as the network here."""
        self.decay.fill_(recipe.weight_decay)
        self.momentum.fill_(recipe.momentum)
        # Smoothed as in F.cross_entropy, which takes three times as many kernels.
        self.targets.fill_(recipe.label_smoothing / len(self.targets))
        self.targets.diagonal().add_(1 - recipe.label_smoothing)
        for mine, given in zip(self._dropouts, dropouts(model), strict=True):
            mine.p = given.p
            assert mine.numbers is not None
            for number, value in zip(mine.numbers, mine.plain_numbers(), strict=True):
                number.fill_(value)


def dropouts(model: nn.Module) -> list[Dropout]:
    """The layers whose dropped share is read from memory."""
    return [layer for layer in model.modules() if isinstance(layer, Dropout)]


def structure(model: nn.Module) -> tuple[tuple[str, str, str], ...]:
    """The parts of a network that a recording freezes: layers by name, without numbers that are read from memory."""
    return tuple(
        (name, type(layer).__name__, "" if isinstance(layer, Dropout) else layer.extra_repr())
        for name, layer in model.named_modules()
    )
