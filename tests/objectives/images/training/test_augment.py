"""Augmentation: nothing at strength 0, bounded at 1, the same for the same generator."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from trainings import a_training, recipe, striped

from objectives.images.training.augment import (
    MAX_ROTATION_RAD,
    MAX_SHIFT,
    MAX_ZOOM,
    pixel_centres,
    random_maps,
    warp,
)
from objectives.images.training.recipe import Recipe


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved_by(strength: float, **more: Any) -> Recipe:
    return recipe(**{"rotation_zoom": strength, "translation": strength, **more})


def random_affine(images: Tensor, how: Recipe | float, generator: torch.Generator) -> Tensor:
    size = (images.shape[2], images.shape[3])
    maps = random_maps(len(images), size, how if isinstance(how, Recipe) else moved_by(how), generator)
    return warp(images, maps, pixel_centres(size, images.device))


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (28, 28)])
def test_it_is_torchs_affine_grid_and_grid_sample(size: tuple[int, int]):
    images, maps = torch.rand(6, 3, *size), random_maps(6, size, moved_by(1.0), generator())
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    expected = F.grid_sample(images, grid, align_corners=False)
    torch.testing.assert_close(random_affine(images, 1.0, generator()), expected, rtol=1e-4, atol=1e-4)


def test_every_epoch_draws_other_maps_and_a_training_that_is_gone_on_with_the_same():
    how = moved_by(0.5)
    whole = a_training(striped(), how)
    drawn = []
    for _ in range(3):
        next(whole)
        drawn.append(whole.update.maps.clone())
    assert not torch.equal(drawn[0], drawn[1])
    first = a_training(striped(), how)
    next(first)
    second = a_training(striped(), how, checkpoint=first.checkpoint())
    for maps in drawn[1:]:
        next(second)
        assert torch.equal(second.update.maps, maps)


def test_no_strength_changes_nothing():
    images = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(random_affine(images, 0.0, generator()), images)


def test_the_same_generator_gives_the_same_images():
    images = torch.rand(16, 1, 12, 12)
    first, second = (random_affine(images, 0.7, generator(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, random_affine(images, 0.7, generator(4)))


def test_every_image_moves_by_its_own_amount():
    images = torch.rand(1, 1, 12, 12).expand(8, 1, 12, 12)
    moved = random_affine(images, 1.0, generator())
    assert all(not torch.allclose(moved[0], other) for other in moved[1:])


@given(st.floats(0.01, 1.0), st.integers(0, 1000))
@settings(max_examples=25)
def test_pixels_stay_in_range_and_shapes_stay(strength: float, seed: int):
    images = torch.rand(6, 3, 9, 14, generator=generator(seed))
    moved = random_affine(images, strength, generator(seed))
    assert moved.shape == images.shape
    assert moved.dtype == torch.float32
    assert float(moved.min()) >= 0.0
    assert float(moved.max()) <= float(images.max()) + 1e-5


def centres(images: Tensor) -> Tensor:
    """Centre of mass of each image, (n, 2), in half image sides from the middle."""
    side = images.shape[-1]
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    mass = images.sum((1, 2, 3))
    return torch.stack(((images.sum((1, 2)) * axis).sum(1) / mass, (images.sum((1, 3)) * axis).sum(1) / mass), dim=1)


def test_a_spot_moves_no_further_than_the_limits_allow():
    images = torch.zeros(500, 1, 41, 41)
    images[:, :, 18:23, 28:33] = 1.0  # half way to the right edge
    start = centres(images)[0]
    moved = centres(random_affine(images, 1.0, generator()))
    furthest = (moved - start).norm(dim=1).max().item()
    radius = start.norm().item()
    # Shift (zoomed along), then the largest zoom, then the arc of the largest rotation; a pixel for interpolation.
    limit = math.hypot(MAX_SHIFT, MAX_SHIFT) * (1 + MAX_ZOOM) + radius * MAX_ZOOM + radius * MAX_ROTATION_RAD + 2 / 41
    assert 0.5 * limit < furthest <= limit
    weaker = centres(random_affine(images, 0.25, generator()))
    assert (weaker - start).norm(dim=1).max().item() < 0.5 * furthest


def test_a_flip_mirrors_about_half_of_the_images_and_nothing_else():
    images = torch.rand(200, 3, 9, 14)
    seen = random_affine(images, recipe(flip=True), generator())
    is_mirrored = torch.tensor([torch.allclose(a, b.flip(2), atol=1e-5) for a, b in zip(seen, images, strict=True)])
    is_same = torch.tensor([torch.allclose(a, b, atol=1e-5) for a, b in zip(seen, images, strict=True)])
    assert torch.equal(is_mirrored, ~is_same)
    assert 70 < int(is_mirrored.sum()) < 130


@pytest.mark.parametrize(("side", "strength"), [(8, 0.25), (8, 1.0), (28, 0.25), (28, 1.0), (32, 0.75)])
def test_a_shift_alone_is_by_whole_pixels_and_on_average_as_far_as_its_strength(side: int, strength: float):
    images = torch.rand(1, 1, side, side).expand(600, 1, side, side)
    seen = random_affine(images, recipe(translation=strength), generator())
    limit = strength * MAX_SHIFT * side / 2
    most, shifts = math.ceil(limit), []
    padded = F.pad(images[:1], (most,) * 4)
    places = [(down, right) for down in range(2 * most + 1) for right in range(2 * most + 1)]
    expected = torch.cat([padded[:, :, down : down + side, right : right + side] for down, right in places])
    distances = (seen.unsqueeze(1) - expected.unsqueeze(0)).abs().amax((2, 3, 4))
    assert float(distances.amin(1).max()) < 1e-4
    shifts = torch.tensor(places)[distances.argmin(1)].float() - most
    assert shifts.mean(0).abs().max() < 0.15
    # The variance of a uniform shift, and that of rounding it to one of its two neighbours.
    assert float(shifts.abs().mean()) == pytest.approx(limit / 2, abs=0.3)
    assert float(shifts.abs().max()) > 0


@pytest.mark.parametrize("name", ["rotation_zoom", "translation"])
@pytest.mark.parametrize("strength", [-0.1, 1.1, math.nan])
def test_a_strength_outside_its_range_is_refused(name: str, strength: float):
    with pytest.raises(ValueError, match=rf"{name} .* is outside \[0, 1\]"):
        a_training(striped(), recipe(**{name: strength}))
