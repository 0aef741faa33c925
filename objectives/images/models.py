"""Three families of small image networks, and the layer that normalises the images for any network.

Networks map normalised float32 images (n, c, h, w) to logits (n, k). Behind `Normalise` they take images in [0, 1].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from objectives.data.datasets import Dataset
from objectives.images.geometry import (
    has_stride_choice,
    images_together,
    is_large,
    max_blocks,
    max_resnet_blocks,
    stem_kernel,
    stem_size,
    stem_stride,
)


@dataclass(frozen=True)
class InputSpec:
    """Shape and statistics of the images, and the number of classes."""

    channels: int
    size: tuple[int, int]
    n_classes: int
    mean: tuple[float, ...]
    """Per channel, of pixels in [0, 1], over a sample of the training split."""
    std: tuple[float, ...]

    @classmethod
    def of(cls, data: Dataset) -> Self:
        """Return what networks must know of a dataset."""
        n = images_together(5000, data.images.shape[1:])  # more change only the fourth digit
        sample = data.images[data.train[:: max(1, len(data.train) // n)]]
        pixels = sample.transpose(1, 0, 2, 3).reshape(data.channels, -1).astype(np.float32)
        pixels /= 255
        mean, std = pixels.mean(axis=1), np.maximum(pixels.std(axis=1), 1e-3)
        return cls(data.channels, data.size, len(data.classes), tuple(map(float, mean)), tuple(map(float, std)))


class Normalise(nn.Module):
    """Scales each channel to zero mean and unit deviation."""

    mean: Tensor
    std: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.register_buffer("scale", torch.empty_like(self.std), persistent=False)
        self.register_buffer("shift", torch.empty_like(self.std), persistent=False)
        _prepare(self)
        self.register_load_state_dict_post_hook(_prepare)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> Tensor:
        if images.is_cuda:  # one kernel, which on a CPU takes three times as long as the two below
            return torch.addcmul(self.shift, images, self.scale)
        return (images - self.mean).mul_(self.scale)


def _prepare(layer: Normalise, _: object = None) -> None:
    """Compute what `forward` reads, in place."""
    torch.reciprocal(layer.std, out=layer.scale)
    torch.mul(layer.mean, layer.scale, out=layer.shift).neg_()


BATCH_NORM_MOMENTUM = 0.4
"""Fast, because weights are averaged, and these statistics with them."""


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Does not count its batches, which takes a kernel and has no effect on a running mean with a fixed momentum."""

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features, momentum=BATCH_NORM_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        statistics, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
        return F.batch_norm(x, *statistics, *affine, self.training, self.momentum or 0.0, self.eps)


class BatchNorm(_BatchNorm, nn.BatchNorm2d):
    """Normalises the channels of images."""


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """Normalises features."""


def normalised(inputs: InputSpec, network: nn.Sequential) -> nn.Sequential:
    """Put the normalisation before the layers of a network."""
    return nn.Sequential(Normalise(inputs.mean, inputs.std), *network)


class Dropout(nn.Dropout):
    """Dropout whose rate a CUDA graph reads from memory, and which is fast on a CPU. Inputs must be contiguous.

    On the CPU, torch draws one number after the other: 0.87 ms for (128, 512), as long as the matrix product before
    it. A random byte per value takes 0.16 ms (Xeon 2.5 GHz, one thread, torch 2.15), and rounds the rate to 256ths.
    """

    graph_inputs: tuple[Tensor, ...] | None = None
    """The result of `kept_and_scale` on the device, where a CUDA graph reads it (`training.graph_inputs`)."""

    def kept_and_scale(self) -> tuple[float, float]:
        """The share of the values that are kept, and what these are multiplied by."""
        return 1 - self.p, 1 / (1 - self.p) if self.p < 1 else 0.0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type not in ("cpu", "cuda"):
            return super().forward(x)
        if x.is_cuda:
            numbers = self.graph_inputs or [torch.full((), n, device=x.device) for n in self.kept_and_scale()]
            return x * torch.empty_like(x).bernoulli_(numbers[0]).mul_(numbers[1])
        dropped = round(256 * self.p)
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        mask = words.view(torch.uint8)[: x.numel()].view(x.shape) >= min(dropped, 255)
        return x * mask.to(x.dtype).mul_(256 / (256 - dropped) if dropped < 256 else 0.0)


class GlobalMaxPool(nn.Module):
    """The largest value of each channel: (n, c, h, w) to (n, c)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3))


class Residual(nn.Module):
    """Layers whose result is added to their input."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return x + result


def build_mlp(
    inputs: InputSpec, widths: tuple[int, ...], dropout: float = 0.0, *, batch_norm: bool = False
) -> nn.Sequential:
    """Build a fully connected network: one hidden layer per width, with ReLU, dropout and perhaps batch normalisation.

    Large images are averaged over squares first. A layer for all of 224x224 pixels would have 150 million weights.
    """
    stride = stem_stride(inputs.size) if is_large(inputs.size) else 1
    pixels = inputs.channels * math.prod(math.ceil(side / stride) for side in inputs.size)
    layers: list[nn.Module] = [nn.Flatten()]
    if stride > 1:
        layers.insert(0, nn.AvgPool2d(stride, ceil_mode=True))
    for n_in, n_out in pairwise((pixels, *widths)):
        layers += [nn.Linear(n_in, n_out, bias=not batch_norm)]
        layers += [BatchNorm1d(n_out), nn.ReLU()] if batch_norm else [nn.ReLU()]
        if dropout:
            layers.append(Dropout(dropout))
    layers.append(nn.Linear((pixels, *widths)[-1], inputs.n_classes))
    return nn.Sequential(*layers)


def build_cnn(
    inputs: InputSpec,
    blocks: int,
    width: int,
    kernel: int = 3,
    dense: int = 0,
    dropout: float = 0.0,
    *,
    convs: int = 1,
    stride: int | None = None,
) -> nn.Sequential:
    """Build a convolution network. Block i, from 0, has (i + 1) * width channels.

    The first block is the stem. Every later one halves the image and has `convs` convolutions. Only the stem has this
    `kernel`; later convolutions have 3. `dense` units follow the blocks; 0 means no dense layer. `stride` is as in
    `stem`. Raises ValueError when the images are too small for that many blocks.
    """
    _check_depth(inputs, blocks, max_blocks(inputs.size))
    layers = stem(inputs, width, kernel, stride)
    for block in range(1, blocks):
        n_in, n_out = width * block, width * (block + 1)
        layers += convolution(n_in, n_out, pool=True)
        for _ in range(convs - 1):
            layers += convolution(n_out, n_out)
    layers.append(nn.Flatten())
    features = width * blocks * math.prod(side // 2 ** (blocks - 1) for side in stem_size(inputs.size))
    if dense:
        layers += [nn.Linear(features, dense), nn.ReLU()]
        features = dense
    if dropout:
        layers.append(Dropout(dropout))
    layers.append(nn.Linear(features, inputs.n_classes))
    return nn.Sequential(*layers)


def build_resnet(
    inputs: InputSpec, blocks: int, width: int, depth: int = 1, dropout: float = 0.0, *, stride: int | None = None
) -> nn.Sequential:
    """Build a residual network. Block i, from 0, has 2**i * width channels.

    The first block is the stem. Every later one has a convolution, which halves the image from the third block on, and
    `depth` residual pairs of convolutions. The largest value of each channel goes to the last layer. `stride` is as in
    `stem`. Raises ValueError when the images are too small for that many blocks.
    """
    _check_depth(inputs, blocks, max_resnet_blocks(inputs.size))
    layers = stem(inputs, width, 3, stride)
    for block in range(1, blocks):
        n_in, n_out = width * 2 ** (block - 1), width * 2**block
        layers += convolution(n_in, n_out, pool=block > 1)
        for _ in range(depth):
            layers.append(Residual(*convolution(n_out, n_out), *convolution(n_out, n_out)))
    layers.append(GlobalMaxPool())
    if dropout:
        layers.append(Dropout(dropout))
    layers.append(nn.Linear(width * 2 ** (blocks - 1), inputs.n_classes))
    return nn.Sequential(*layers)


def stem(inputs: InputSpec, width: int, kernel: int, stride: int | None = None) -> list[nn.Module]:
    """The first convolution, which shrinks images to `stem_size`.

    A strided convolution costs a quarter of one with pooling behind it, which is what a `stride` of 1 means. None, and
    images whose size leaves no choice: `stem_stride`. Large images have a larger kernel, see `stem_kernel`.
    """
    shrunk, kernel = stem_stride(inputs.size), stem_kernel(inputs.size, kernel)
    pool = stride == 1 and has_stride_choice(inputs.size)
    layers: list[nn.Module] = [
        nn.Conv2d(inputs.channels, width, kernel, 1 if pool else shrunk, padding=kernel // 2, bias=False)
    ]
    if pool:
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return [*layers, BatchNorm(width), nn.ReLU()]


def convolution(n_in: int, n_out: int, *, pool: bool = False) -> list[nn.Module]:
    """A 3x3 convolution, perhaps with pooling over 2x2 pixels, batch normalisation and ReLU.

    The first `n_in` channels begin by passing on their inputs (Dirac initialisation).
    """
    layer = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    with torch.no_grad():
        layer.weight[:n_in].zero_()[:, :, 1, 1].fill_diagonal_(1)
    layers: list[nn.Module] = [layer]
    if pool:  # before normalisation: the same maximum, at a quarter of the work for the next two layers
        layers.append(nn.MaxPool2d(2))
    return [*layers, BatchNorm(n_out), nn.ReLU()]


def _check_depth(inputs: InputSpec, blocks: int, most: int) -> None:
    if blocks > most:
        raise ValueError(f"{blocks} blocks do not fit images of {inputs.size[0]}x{inputs.size[1]} pixels")


class MirrorAveraged(nn.Module):
    """The mean logits (n, k) of images (n, c, h, w) and of their mirror images, left to right.

    In training mode the logits are those of the images alone.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits if self.training else (logits + self.network(images.flip(3))) / 2


def predictor(network: nn.Module, *, flip: bool) -> nn.Module:
    """Return what predicts with a network: itself, or `MirrorAveraged` if it is trained with flips."""
    return MirrorAveraged(network) if flip else network


class Averaged(nn.Module):
    """The weighted mean of several networks' probabilities, as logits (n, k): its logarithm.

    `shares` are the weights, which add up to 1.
    """

    log_shares: Tensor

    def __init__(self, networks: Sequence[nn.Module], shares: Sequence[float]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.register_buffer("log_shares", torch.tensor(shares).log())

    def forward(self, images: Tensor) -> Tensor:
        rows = torch.stack([network(images).log_softmax(1) for network in self.networks])
        return (rows + self.log_shares.view(-1, 1, 1)).logsumexp(0)


class Tempered(nn.Module):
    """A trained network whose logits (n, k) are divided by a temperature, a buffer of the exported program.

    The largest logit of each row becomes 0 first, so that rounding never makes another one as large. No class changes.
    """

    temperature: Tensor

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("temperature", torch.tensor(temperature))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return (logits - logits.amax(dim=1, keepdim=True)) / self.temperature


class Probabilities(nn.Module):
    """A trained network as it is registered: images (n, c, h, w) in [0, 1] to class probabilities (n, k)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return torch.softmax(self.network(images), dim=1)
