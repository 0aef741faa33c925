"""The networks of the built-in image objective: an MLP or a CNN, as the search samples, builds and names them.

torch is imported only to build one, because sampling must be quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from objectives.base import Params, Suggest
from objectives.images.geometry import max_blocks

if TYPE_CHECKING:
    from torch import nn

    from objectives.images.models import InputSpec


@dataclass(frozen=True)
class Scale:
    """How wide networks may be."""

    units: tuple[int, ...]
    """Units of an MLP's layer. Few widths, so that trials share CUDA graphs, and all multiples of 32, which is fast."""
    channels: int
    """The most channels of a CNN's first block. Later blocks have two and three times as many."""


LADDER = (64, 96, 128, 192, 256, 384, 512, 768, 1024)
SCALES = {"small": Scale(LADDER, 24), "wide": Scale((*LADDER, 1536, 2048), 48)}
"""The second is for GPUs, where small networks leave most of the device idle."""

WIDE_FROM_BYTES = 16 * 2**30
"""Free memory of a GPU with wide networks: twice what eight workers count on."""


def suggest(trial: Suggest, size: tuple[int, int], scale: str) -> Params:
    """Sample a network for images of `size` (h, w). Parameters that a choice does not use are not sampled.

    `scale` is one of `SCALES`, or "" for a study that began when any width was possible.
    """
    widths = SCALES[scale or "small"]
    params: Params = {"family": trial.suggest_categorical("family", ["mlp", "cnn"])}
    if params["family"] == "mlp":
        params["mlp_depth"] = depth = trial.suggest_int("mlp_depth", 1, 3)
        for layer in range(1, depth + 1):
            name = f"mlp_width_{layer}"
            if scale:
                params[name] = trial.suggest_categorical(name, widths.units)
            else:
                params[name] = trial.suggest_int(name, 64, 1024, log=True)
        params["mlp_dropout"] = trial.suggest_float("mlp_dropout", 0.0, 0.5)
    else:
        params["cnn_blocks"] = trial.suggest_int("cnn_blocks", 2, max_blocks(size))
        params["cnn_width"] = trial.suggest_int("cnn_width", 8, widths.channels, step=8)
        params["cnn_kernel"] = trial.suggest_categorical("cnn_kernel", [3, 5])
        params["cnn_dense"] = trial.suggest_categorical("cnn_dense", [0, 128])
        params["cnn_dropout"] = trial.suggest_float("cnn_dropout", 0.0, 0.5)
    return params


def build(inputs: InputSpec, params: Params) -> nn.Sequential:
    """Build an untrained network of normalised images (n, c, h, w) to logits (n, k)."""
    from objectives.images import models

    p: Any = params
    if p["family"] == "mlp":
        return models.build_mlp(inputs, _widths(p), p["mlp_dropout"])
    names = ("blocks", "width", "kernel", "dense", "dropout")
    return models.build_cnn(inputs, **{name: p[f"cnn_{name}"] for name in names})


def describe(params: Params) -> str:
    """Name a network in a few characters, such as `mlp-512-256` or `cnn-3x24`."""
    if params["family"] == "mlp":
        return "-".join(["mlp", *map(str, _widths(params))])
    return f"cnn-{params['cnn_blocks']}x{params['cnn_width']}"


def _widths(params: Mapping[str, Any]) -> tuple[int, ...]:
    """Units of an MLP's hidden layers."""
    return tuple(params[f"mlp_width_{layer}"] for layer in range(1, params["mlp_depth"] + 1))
