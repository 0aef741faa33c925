"""Configurations of the image classifier that are known to work: those of the tutorials, and a better one."""

from objectives.base import Params
from objectives.images.geometry import max_blocks

TUTORIAL: Params = dict(batch_size=64, weight_decay=1e-6, augmentation=0.0, label_smoothing=0.0, schedule="constant")
"""The defaults of the tutorials."""

TUTORIAL_MLP: Params = dict(family="mlp", mlp_depth=2, mlp_width_1=512, mlp_width_2=256, mlp_dropout=0.0)
TUTORIAL_CNN: Params = dict(family="cnn", cnn_blocks=2, cnn_width=16, cnn_kernel=5, cnn_dense=128, cnn_dropout=0.0)

STRONG: Params = dict(family="cnn", cnn_blocks=3, cnn_width=24, cnn_kernel=5, cnn_dense=0, cnn_dropout=0.2)
STRONG |= dict(optimizer="adamw", adam_lr=1e-2, batch_size=128, weight_decay=1e-4, augmentation=0.7)
STRONG |= dict(label_smoothing=0.05, schedule="one_cycle")
"""Works well on MNIST. It shows the sampler where to look, and the search what to beat."""


def known_configurations(
    size: tuple[int, int], *, is_weighted: bool = False, balanced: bool = False
) -> dict[str, Params]:
    """Return the configurations by name, for images of `size` (h, w).

    `is_weighted`: whether the space has class weights. `balanced`: whether our own configuration uses them; the
    tutorials do not.
    """
    tutorial, ours = TUTORIAL, STRONG
    if is_weighted:
        tutorial = {**TUTORIAL, "class_weighting": "none"}
        ours = {**STRONG, "class_weighting": "balanced" if balanced else "none"}
    return {
        "tutorial MLP, Adam": {**tutorial, **TUTORIAL_MLP, "optimizer": "adam", "adam_lr": 1e-3},
        "tutorial MLP, SGD": {**tutorial, **TUTORIAL_MLP, "optimizer": "sgd", "sgd_lr": 0.1, "sgd_momentum": 0.0},
        "tutorial CNN, Adam": {**tutorial, **TUTORIAL_CNN, "optimizer": "adam", "adam_lr": 1e-3},
        "strong CNN, one cycle": {**ours, "cnn_blocks": max_blocks(size)},
    }
