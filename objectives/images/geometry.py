"""How far a network shrinks an image, and how many it takes together. Imports no torch, because sampling asks this."""

import math
from collections.abc import Sequence

TINY_BELOW_PX = 16
"""Images with fewer pixels a side are tiny. Halving them in the first block would save little and lose detail."""

MAX_BLOCKS = 3


LARGE_ABOVE_PX, STEM_PX = 64, 32
"""Images with more pixels a side than the first are large. Networks begin by shrinking them to at most the second."""


def is_large(size: tuple[int, int]) -> bool:
    """Whether images of `size` (h, w) are large."""
    return min(size) > LARGE_ABOVE_PX


def is_tiny(size: tuple[int, int]) -> bool:
    """Whether images of `size` (h, w) are tiny.

    Their blocks have one convolution each. With a choice of two, the winners of three searches of the digits had one,
    and the trials took 29 s instead of 17.
    """
    return min(size) < TINY_BELOW_PX


def stem_stride(size: tuple[int, int]) -> int:
    """Pixels a side of what the first layer makes one pixel of, for images of `size` (h, w)."""
    if is_large(size):
        return math.ceil(min(size) / STEM_PX)
    return 1 if is_tiny(size) else 2


def has_stride_choice(size: tuple[int, int]) -> bool:
    """Whether the first block may halve images of `size` (h, w) in two ways."""
    return not is_large(size) and stem_stride(size) == 2


def stem_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width that the first block makes of images of `size` (h, w)."""
    stride = stem_stride(size)
    return math.ceil(size[0] / stride), math.ceil(size[1] / stride)


def stem_kernel(size: tuple[int, int], kernel: int) -> int:
    """Side of the first convolution's kernel, odd. For large images, `kernel` is that for a stride of 2."""
    return kernel * stem_stride(size) // 2 | 1 if is_large(size) else kernel


def max_blocks(size: tuple[int, int]) -> int:
    """The most blocks that fit an image size, at most 3. The last map keeps at least 2 pixels a side."""
    side, blocks = min(stem_size(size)), 1
    while blocks < MAX_BLOCKS and side // 2 >= 2:
        side, blocks = side // 2, blocks + 1
    return blocks


def max_resnet_blocks(size: tuple[int, int]) -> int:
    """The most blocks of a residual network, whose second block does not halve the image."""
    return max_blocks(size) + 1


def images_together(n: int, shape: Sequence[int]) -> int:
    """Number of images of `shape` (c, h, w) that take as much memory as `n` of 64x64 pixels in colour, at most `n`."""
    return max(1, min(n, n * 3 * LARGE_ABOVE_PX**2 // math.prod(shape)))
