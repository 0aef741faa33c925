"""The hyperparameters of a training in the device's memory, where a CUDA graph reads them.

A graph freezes plain numbers, and a sampler rarely draws the same ones twice. Numbers in memory can change, so one
graph serves all trials whose networks have the same structure. Without graphs, numbers stay plain, because kernels
take them at no cost.
"""

import torch
from torch import nn

from objectives.images.models import Dropout
from objectives.images.training.recipe import Recipe


class GraphInputs:
    """Weight decay, momentum and the dropout of one network, on the device."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.decay, self.momentum = torch.zeros(2, device=device).unbind()
        self._dropouts = dropout_layers(model)
        for layer in self._dropouts:
            layer.graph_inputs = torch.zeros(2, device=device).unbind()

    def fill(self, recipe: Recipe, model: nn.Module) -> None:
        """Copy the numbers of `recipe` and `model`, which has the structure of this network."""
        self.decay.fill_(recipe.weight_decay)
        self.momentum.fill_(recipe.momentum)
        for layer, source in zip(self._dropouts, dropout_layers(model), strict=True):
            layer.p = source.p
            assert layer.graph_inputs is not None
            for tensor, value in zip(layer.graph_inputs, layer.kept_and_scale(), strict=True):
                tensor.fill_(value)


def dropout_layers(model: nn.Module) -> list[Dropout]:
    """The layers that can read their dropout rate from memory."""
    return [layer for layer in model.modules() if isinstance(layer, Dropout)]


def structure(model: nn.Module) -> tuple[tuple[str, str, str], ...]:
    """The parts of a network that a graph freezes: layers by name, without numbers that are read from memory."""
    return tuple(
        (name, type(layer).__name__, "" if isinstance(layer, Dropout) else layer.extra_repr())
        for name, layer in model.named_modules()
    )
