"""Configurations of the image classifier that are known to work: those of the tutorials, and better ones."""

import json
from functools import cache
from pathlib import Path

from objectives.base import Params
from objectives.images.geometry import has_stride_choice, is_tiny, max_blocks

PLAIN: Params = dict(rotation_zoom=0.0, translation=0.0, label_smoothing=0.0)
TUTORIAL: Params = {**PLAIN, "batch_size": 64, "weight_decay": 1e-6, "schedule": "constant"}
"""The defaults of the tutorials."""

TUTORIAL_MLP: Params = dict(family="mlp", mlp_depth=2, mlp_width_1=512, mlp_width_2=256, mlp_dropout=0.0)
TUTORIAL_MLP |= dict(mlp_batch_norm=False)
TUTORIAL_CNN: Params = dict(family="cnn", cnn_blocks=2, cnn_width=16, cnn_kernel=5, cnn_dense=128, cnn_dropout=0.0)
TUTORIAL_CNN |= dict(cnn_convs=1, cnn_stride=2)

STRONG: Params = dict(family="cnn", cnn_blocks=3, cnn_width=16, cnn_kernel=5, cnn_dense=0, cnn_dropout=0.2)
STRONG |= dict(cnn_convs=2, cnn_stride=2)
STRONG |= dict(optimizer="adamw", adam_lr=1e-2, batch_size=128, weight_decay=1e-4, schedule="one_cycle")
STRONG |= dict(rotation_zoom=0.75, translation=0.75, label_smoothing=0.05)
"""Works well on MNIST. It shows the sampler where to look, and the search what to beat."""

WIDTH_FOR_TINY = 24
"""Channels of the strong CNN for tiny images, which has one convolution a block, if the space allows as many."""

STRONG_COLOUR: Params = {**STRONG, "cnn_kernel": 3, "cnn_dropout": 0.1, "cnn_stride": 1, "adam_lr": 6e-3}
STRONG_COLOUR |= dict(weight_decay=1e-3, rotation_zoom=0.0)
"""Works well on CIFAR-10, as wide as the space allows."""


def known_configurations(
    size: tuple[int, int],
    channels: int = 1,
    *,
    width: int,
    may_flip: bool = False,
    is_weighted: bool = False,
    balanced: bool = False,
) -> dict[str, Params]:
    """Return the configurations by name, for images of `size` (h, w) with 1 channel (grey) or 3 (colours).

    `width`: the most channels of a CNN's first block, which ours has for colours. `may_flip`: whether the space has
    flips; ours uses them for colours. `is_weighted`: whether it has class weights. `balanced`: whether ours uses them.
    The tutorials use neither.
    """
    adam: Params = {"optimizer": "adam", "adam_lr": 1e-3}
    sgd: Params = {"optimizer": "sgd", "sgd_lr": 0.1, "sgd_momentum": 0.0}
    ours = {**(STRONG if channels == 1 else STRONG_COLOUR), "cnn_blocks": max_blocks(size)}
    if is_tiny(size):
        ours |= {"cnn_convs": 1, "cnn_width": min(WIDTH_FOR_TINY, width)}
    if channels > 1:
        ours["cnn_width"] = width
    known = {
        "tutorial MLP, Adam": {**TUTORIAL, **TUTORIAL_MLP, **adam},
        "tutorial MLP, SGD": {**TUTORIAL, **TUTORIAL_MLP, **sgd},
        "tutorial CNN, Adam": {**TUTORIAL, **TUTORIAL_CNN, **adam},
        "strong CNN, one cycle": ours,
    }
    for params in known.values():
        if may_flip:
            params["flip"] = params is ours and channels > 1
        if is_weighted:
            params["class_weighting"] = "balanced" if params is ours and balanced else "none"
        if not has_stride_choice(size):
            params.pop("cnn_stride", None)
    return known


PORTFOLIO = Path(__file__).with_name("portfolio.json")
"""Configurations that did well on several datasets of a kind, found by `tests/tools/portfolio.py`."""
LARGEST_PORTFOLIO = 8
"""The most configurations of a kind."""


def portfolio(channels: int, *, is_large: bool) -> list[Params]:
    """Return configurations for images with 1 channel (grey) or 3 (colours), best first.

    `is_large`: whether there are at least 20,000 training images.
    """
    colours, size = "colour" if channels > 1 else "grey", "large" if is_large else "small"
    return _portfolios().get(f"{colours}-{size}", [])


@cache
def _portfolios() -> dict[str, list[Params]]:
    """The portfolios by kind."""
    stored: dict[str, list[Params]] = json.loads(PORTFOLIO.read_text(encoding="utf-8"))
    return stored
