"""How far a convolution network may shrink an image. Imports no torch, because sampling asks this."""

MIN_STRIDED_PX = 16
"""Smaller images keep their resolution in the first block. Halving them would save little and lose detail."""

MAX_BLOCKS = 3


def stem_stride(size: tuple[int, int]) -> int:
    """Stride of the first convolution for images of `size` (h, w)."""
    return 2 if min(size) >= MIN_STRIDED_PX else 1


def max_blocks(size: tuple[int, int]) -> int:
    """The most blocks that fit an image size, at most 3. The last map keeps at least 2 pixels a side."""
    stride = stem_stride(size)
    side, blocks = (min(size) + stride - 1) // stride, 1
    while blocks < MAX_BLOCKS and side // 2 >= 2:
        side, blocks = side // 2, blocks + 1
    return blocks
