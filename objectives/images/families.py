"""The networks of the built-in image objective: MLPs, CNNs and residual networks, as they are sampled, built and named.

torch is imported only to build one, because sampling must be quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from objectives.base import Params, Suggest
from objectives.images.geometry import has_stride_choice, is_tiny, max_blocks, max_resnet_blocks

if TYPE_CHECKING:
    from torch import nn

    from objectives.images.models import InputSpec


@dataclass(frozen=True)
class Scale:
    """How wide and deep networks may be."""

    units: tuple[int, ...]
    """Units of an MLP's layer. Few widths, so that trials share CUDA graphs, and all multiples of 32, which is fast."""
    cnn_width: int
    """The most channels of a CNN's first block. Later blocks have two and three times as many."""
    resnet_blocks: int
    """The most blocks of a residual network. Small images allow fewer."""
    resnet_width: int
    """The most channels of a residual network's first block. Each later block has twice as many."""
    resnet_depth: int
    """The most residual pairs of convolutions in a block."""
    strides: tuple[int, ...] = (1, 2)
    """Strides of the first convolution. 1 keeps the resolution until the pooling behind it."""


LADDER = (64, 96, 128, 192, 256, 384, 512, 768, 1024)
SCALES = {
    "narrow": Scale(LADDER, cnn_width=16, resnet_blocks=3, resnet_width=16, resnet_depth=1, strides=(2,)),
    "small": Scale(LADDER, cnn_width=24, resnet_blocks=3, resnet_width=16, resnet_depth=1),
    "medium": Scale(LADDER, cnn_width=32, resnet_blocks=3, resnet_width=16, resnet_depth=1),
    "wide": Scale((*LADDER, 1536, 2048), cnn_width=64, resnet_blocks=4, resnet_width=96, resnet_depth=2),
}

PARTS = {
    "cnn": ("blocks", "width", "convs", "kernel", "stride", "dense", "dropout"),
    "resnet": ("blocks", "width", "depth", "stride", "dropout"),
}
"""The parameters of a family. Some are not sampled for all images, and trials of earlier versions lack some."""

WIDE_FROM_BYTES = 16 * 2**30
"""Free memory of a GPU with wide networks: room for five workers with the widest."""


def choose_scale(device: str, free_bytes: int, channels: int, *, is_large: bool) -> str:
    """The scale of `SCALES` for workers on `device`, and for images with 1 channel (grey) or 3 (colours).

    Small networks leave most of a GPU idle. On a CPU time is the limit, and colours gain more by width than grey does.
    `is_large`: whether there are many images. On a CPU, grey ones then gain more by epochs than by width or resolution.
    """
    if device.startswith("cuda") and free_bytes >= WIDE_FROM_BYTES:
        return "wide"
    if channels > 1:
        return "medium"
    return "narrow" if is_large and not device.startswith("cuda") else "small"


def max_cnn_width(scale: str) -> int:
    """The most channels of a CNN's first block."""
    return _limits(scale).cnn_width


def _limits(scale: str) -> Scale:
    """The limits of a scale. Studies of earlier versions may have others than `SCALES`."""
    return SCALES.get(scale, SCALES["wide"])


def suggest(trial: Suggest, size: tuple[int, int], scale: str) -> Params:
    """Sample a network for images of `size` (h, w). Parameters that a choice does not use are not sampled.

    `scale` is one of `SCALES`, or of an earlier version.
    """
    limits = _limits(scale)
    params: Params = {"family": trial.suggest_categorical("family", ["mlp", "cnn", "resnet"])}
    if params["family"] == "mlp":
        params["mlp_depth"] = depth = trial.suggest_int("mlp_depth", 1, 3)
        for layer in range(1, depth + 1):
            params[f"mlp_width_{layer}"] = trial.suggest_categorical(f"mlp_width_{layer}", limits.units)
        params["mlp_batch_norm"] = trial.suggest_categorical("mlp_batch_norm", [False, True])
        params["mlp_dropout"] = trial.suggest_float("mlp_dropout", 0.0, 0.5)
        return params
    if params["family"] == "cnn":
        params["cnn_blocks"] = trial.suggest_int("cnn_blocks", 2, max_blocks(size))
        params["cnn_width"] = trial.suggest_int("cnn_width", 8, limits.cnn_width, step=8)
        params["cnn_convs"] = trial.suggest_int("cnn_convs", 1, 1 if is_tiny(size) else 2)
        params["cnn_kernel"] = trial.suggest_categorical("cnn_kernel", [3, 5])
        params["cnn_dense"] = trial.suggest_categorical("cnn_dense", [0, 128])
    else:
        most = min(limits.resnet_blocks, max_resnet_blocks(size))
        params["resnet_blocks"] = trial.suggest_int("resnet_blocks", 2, most)
        params["resnet_width"] = trial.suggest_int("resnet_width", 8, limits.resnet_width, step=8)
        params["resnet_depth"] = trial.suggest_int("resnet_depth", 1, limits.resnet_depth)
    if has_stride_choice(size):
        name = f"{params['family']}_stride"
        params[name] = trial.suggest_categorical(name, limits.strides)
    name = f"{params['family']}_dropout"
    params[name] = trial.suggest_float(name, 0.0, 0.5)
    return params


def build(inputs: InputSpec, params: Params) -> nn.Sequential:
    """Build an untrained network of normalised images (n, c, h, w) to logits (n, k)."""
    from objectives.images import models

    p: Any = params
    if p["family"] == "mlp":
        return models.build_mlp(inputs, _widths(p), p["mlp_dropout"], batch_norm=p.get("mlp_batch_norm", False))
    build_family = models.build_cnn if p["family"] == "cnn" else models.build_resnet
    names = {name: f"{p['family']}_{name}" for name in PARTS[p["family"]]}
    return build_family(inputs, **{name: p[stored] for name, stored in names.items() if stored in p})


def describe(params: Params) -> str:
    """Name a network in a few characters: `mlp-512-256`, `cnn-3x24` or `resnet-3x16`, `cnn-3x24x2` if it is deeper."""
    family = params["family"]
    if family == "mlp":
        return "-".join(["mlp", *map(str, _widths(params))])
    depth = params.get("cnn_convs" if family == "cnn" else "resnet_depth", 1)
    return f"{family}-{params[f'{family}_blocks']}x{params[f'{family}_width']}" + (f"x{depth}" if depth != 1 else "")


def _widths(params: Mapping[str, Any]) -> tuple[int, ...]:
    """Units of an MLP's hidden layers."""
    return tuple(params[f"mlp_width_{layer}"] for layer in range(1, params["mlp_depth"] + 1))
