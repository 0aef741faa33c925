"""The checks of an objective whose search space depends on the device."""

from __future__ import annotations

from typing import Any

import pytest
from toy import Toy

from objectives.base import Params, Suggest
from objectives.spec import ObjectiveSpec
from search.study.space.objective_calls import missing_methods
from search.testing.checks import check_space_scales
from search.testing.findings import examine
from search.testing.specimen import Specimen


class Growing(Toy):
    """Its space grows with the device, or shrinks if `largest` is changed."""

    space_scales: Any = ("small", "large")
    space_scale = "large"
    largest = {"small": 3, "large": 9}

    def choose_space_scale(self, device: str, free_bytes: int) -> str:
        return "large" if free_bytes else "small"

    def suggest(self, trial: Suggest) -> Params:
        return {**super().suggest(trial), "n": trial.suggest_int("n", 1, self.largest[self.space_scale])}


@pytest.mark.parametrize(
    ("parts", "wrong"),
    [
        ({}, None),
        ({"largest": {"small": 9, "large": 3}}, "n can be 9 at scale 'small', but not at the last, 'large'; let the"),
        ({"space_scales": "small"}, "space_scales is 'small'; give names"),
        ({"choose_space_scale": lambda device, free: "huge"}, "choose_space_scale gave 'huge'; give one of 'small'"),
    ],
)
def test_the_scales_of_a_space_are_checked(parts: dict[str, Any], wrong: str | None):
    objective = Growing()
    for name, part in parts.items():
        setattr(objective, name, part)
    (finding,) = examine(Specimen(ObjectiveSpec("toy:Toy"), objective), [check_space_scales])
    assert finding.title == "It chooses one of its space scales, and the last one's space contains the others"
    assert (wrong or "") in (finding.wrong or "")
    assert (finding.wrong is None) == (wrong is None)


def test_an_objective_with_a_part_of_its_scales_is_told_what_is_missing():
    class Misspelt(Toy):
        space_scales, space_scale = ("s", "l"), "l"

        def choose_spacescale(self, device: str, free_bytes: int) -> str:
            return "s"

    assert missing_methods(Misspelt()) == (
        "the objective has space_scales, space_scale and lacks choose_space_scale, so it does not count as "
        "objectives.base.Scaled"
    )


def test_an_objective_with_a_part_of_its_folds_is_told_what_is_missing():
    class Halved(Toy):
        n_folds = 2

    assert missing_methods(Halved()) == (
        "the objective has n_folds and lacks fold_images, so it does not count as objectives.base.Foldable"
    )
