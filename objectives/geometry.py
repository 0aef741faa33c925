"""How far a convolution network may shrink an image, and what it then weighs. Sampling asks this, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

STRIDED_FROM_PX = 16
"""Smaller images keep their resolution in the first block: there is nothing to save and much to lose."""

MAX_BLOCKS = 3


def stem_stride(size: tuple[int, int]) -> int:
    """Stride of the first convolution for images of `size` (h, w)."""
    return 2 if min(size) >= STRIDED_FROM_PX else 1


def max_blocks(size: tuple[int, int]) -> int:
    """How many blocks an image size bears, up to 3: the last map keeps at least 2 pixels a side."""
    stride = stem_stride(size)
    side, blocks = (min(size) + stride - 1) // stride, 1
    while blocks < MAX_BLOCKS and side // 2 >= 2:
        side, blocks = side // 2, blocks + 1
    return blocks


def mlp_parameters(widths: Sequence[int], channels: int, size: tuple[int, int], n_classes: int) -> int:
    """Weights and biases of `objectives.models.build_mlp`."""
    units = (channels * size[0] * size[1], *widths, n_classes)
    return sum((n_in + 1) * n_out for n_in, n_out in pairwise(units))


def cnn_parameters(
    blocks: int, width: int, kernel: int, dense: int, *, channels: int, size: tuple[int, int], n_classes: int
) -> int:
    """Weights and biases of `objectives.models.build_cnn`; a convolution's bias is its normalisation's."""
    stride = stem_stride(size)
    h, w = ((side + stride - 1) // stride for side in size)
    count = channels * width * kernel**2 + 2 * width
    for block in range(1, blocks):
        n_in, n_out = width * block, width * (block + 1)
        count += 9 * n_in * n_out + 2 * n_out
        h, w = h // 2, w // 2
    features = width * blocks * h * w
    if dense:
        count += (features + 1) * dense
        features = dense
    return count + (features + 1) * n_classes
