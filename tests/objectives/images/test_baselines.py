"""Baselines lie in the space of any kind of images, and their networks can be built."""

from __future__ import annotations

import numpy as np
import pytest

from objectives.data.datasets import Dataset
from objectives.data.names import BUILT_IN, may_be_mirrored
from objectives.images.families import SCALES
from objectives.images.objective import ImageClassification
from search.study.space.space import contains, search_space


def images(dataset: str, channels: int, size: tuple[int, int], counts: tuple[int, int]) -> ImageClassification:
    """An objective of two classes with so many images each."""
    labels = np.repeat([0, 1], counts)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), channels, *size), dtype=np.uint8)
    train, validation = np.arange(len(labels))[::2], np.arange(len(labels))[1::2]
    return ImageClassification(dataset, data=Dataset(dataset, pixels, labels, ("a", "b"), train, validation, ""))


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (21, 40), (64, 64), (100, 70)])
@pytest.mark.parametrize(("channels", "dataset"), [(1, "mnist"), (3, "folder:x")])
def test_they_fit_the_smallest_space(size: tuple[int, int], channels: int, dataset: str):
    objective = images(dataset, channels, size, (40, 4))
    objective.space_scale = "narrow" if channels == 1 else "medium"
    space = search_space(objective)
    known = objective.baselines()
    assert len(known) == 4
    for name, params in known.items():
        assert params.keys() <= space.keys(), name
        for parameter, value in params.items():
            assert contains(space[parameter], value), (name, parameter)
        assert ("flip" in params) == (dataset != "mnist")
        assert objective.n_parameters(params) > 0
        assert objective.may_propose(params, set()) != name.startswith("tutorial")


def test_the_strong_one_mirrors_and_is_as_wide_as_the_space_for_colours_alone():
    for scale, limits in SCALES.items():
        objectives = [images("folder:x", channels, (28, 28), (9, 9)) for channels in (1, 3)]
        for objective in objectives:
            objective.space_scale = scale
        grey, colour = (objective.baselines()["strong CNN, one cycle"] for objective in objectives)
        assert (grey["cnn_width"], grey["flip"]) == (16, False)
        assert (colour["cnn_width"], colour["flip"]) == (limits.cnn_width, True)


def test_small_images_have_one_convolution_a_block():
    for channels in (1, 3):
        tiny, larger = (images("folder:x", channels, (side, side), (9, 9)) for side in (15, 16))
        assert search_space(tiny)["cnn_convs"].single()
        assert not search_space(larger)["cnn_convs"].single()
        tiny.space_scale = "small"
        assert tiny.describe(tiny.baselines()["strong CNN, one cycle"]).startswith("cnn-3x24 ")


def test_digits_and_letters_are_never_mirrored():
    assert {name for name in BUILT_IN if may_be_mirrored(name)} == {"fashion-mnist", "cifar10", "cifar100"}
    assert may_be_mirrored("folder:digits")
    assert "flip" not in search_space(images("mnist", 1, (8, 8), (9, 9)))
    assert "flip" in search_space(images("npz:x.npz", 1, (8, 8), (9, 9)))


def test_a_constant_rate_is_proposed_if_the_user_asks_for_it():
    params = images("mnist", 1, (8, 8), (9, 9)).baselines()["tutorial CNN, Adam"]
    objective = images("mnist", 1, (8, 8), (9, 9))
    assert not objective.may_propose(dict(params), set())
    assert objective.may_propose(dict(params), {"schedule"})
