"""A network that asks the device for a number, which no CUDA graph may."""

from __future__ import annotations

import torch
from torch import nn

from objectives.base import Params, Suggest
from objectives.images.objective import ImageClassification


class Waits(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * (1.0 if images.sum().item() > 0 else 0.5)


class Waiting(ImageClassification):
    def suggest_network(self, trial: Suggest) -> Params:
        return {}

    def build_network(self, params: Params) -> nn.Module:
        return nn.Sequential(Waits(), nn.Flatten(), nn.Dropout(0.1), nn.LazyLinear(10))
