"""Batched augmentation on the device: a random affine map for each image, one kernel for the batch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Limits at strength 1. Two thirds of them took a fixed small CNN on MNIST from 99.2 to 99.5% in 6 epochs.
MAX_ROTATION_RAD = math.radians(15)
MAX_ZOOM = 0.15
MAX_SHIFT = 0.15
"""In units of half the image side, as `affine_grid` counts; 0.15 is about 2 of 28 pixels."""


def random_affine(images: Tensor, strength: float | Tensor, generator: torch.Generator) -> Tensor:
    """Rotate, zoom and shift every image by its own random amounts, padding with zeros.

    images: float (n, c, h, w). Returns the same shape. `strength` in [0, 1], a number or a tensor (), scales limits.
    """
    n = images.shape[0]
    amounts = torch.rand(4, n, device=images.device, generator=generator).mul_(2 * strength).sub_(strength)
    angle, zoom = amounts[0] * MAX_ROTATION_RAD, 1 + amounts[1] * MAX_ZOOM
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    theta = torch.empty(n, 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 0, 1], theta[:, 0, 2] = cosine, -sine, amounts[2] * MAX_SHIFT
    theta[:, 1, 0], theta[:, 1, 1], theta[:, 1, 2] = sine, cosine, amounts[3] * MAX_SHIFT
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
