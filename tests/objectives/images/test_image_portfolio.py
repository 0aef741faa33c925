"""The portfolio of our own networks lies in their space, whatever the images and the device."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_baselines import images

from objectives.images import baselines
from objectives.images.families import SCALES
from objectives.images.objective import LARGE_FROM_IMAGES, ImageClassification
from search.study.space.initial_params import portfolio
from search.study.space.limits import Limits
from search.study.space.space import WHOLE_SPACE, contains, search_space
from tests.tools.portfolio import greedy


def test_each_kind_has_at_most_eight():
    stored = json.loads(baselines.PORTFOLIO.read_text(encoding="utf-8"))
    assert stored.keys() <= {f"{colour}-{size}" for colour in ("grey", "colour") for size in ("small", "large")}
    assert all(0 < len(configurations) <= baselines.LARGEST_PORTFOLIO for configurations in stored.values())


def test_a_configuration_is_chosen_only_if_it_adds_to_the_baselines():
    values = np.array([[0.9, 0.5], [0.8, 0.7], [0.9, 0.7], [0.6, 0.9], [0.5, 0.8]])
    assert greedy(values, 8, given=2) == [3]
    assert greedy(values, 8, given=0) == [2, 3]
    assert greedy(values, 1, given=0) == [2]
    assert greedy(values[:3], 8, given=2) == []


LARGER = ("medium", "wide")
FEW, MANY = 40, 2 * LARGE_FROM_IMAGES
"""Numbers of training images."""
SCALES_OF = {(1, FEW): ("small", "medium", "wide"), (1, MANY): SCALES, (3, FEW): LARGER, (3, MANY): LARGER}
"""The scales that some device has, by channels and number of images."""


@pytest.mark.parametrize(
    ("channels", "n", "scale"), [(*kind, scale) for kind, scales in SCALES_OF.items() for scale in scales]
)
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (100, 70)])
def test_it_fits_the_space(scale: str, channels: int, size: tuple[int, int], n: int):
    objective = images("folder:x", channels, size if n == FEW else (8, 8), (n, 4))
    objective.space_scale = scale
    space = search_space(objective)
    fitting = portfolio(objective, WHOLE_SPACE, Limits())
    stored = baselines.portfolio(channels, is_large=n == MANY)
    assert len(fitting) == len(stored)
    for initial in fitting:
        assert all(contains(space[name], value) for name, value in initial.params.items())
        assert initial.params["schedule"] != "constant"


def test_a_subclass_with_its_own_networks_has_none():
    class Own(ImageClassification):
        def suggest_network(self, trial):
            return {"width": trial.suggest_int("width", 1, 9)}

    assert Own("digits").portfolio() == ()
    assert len(ImageClassification("digits").portfolio()) == len(baselines.portfolio(1, is_large=False))
