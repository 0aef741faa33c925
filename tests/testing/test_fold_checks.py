"""The checks of an image classifier that is confirmed by folds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from objectives.base import Task, Training
from objectives.images.objective import ImageClassification
from objectives.spec import ObjectiveSpec
from search.study.space.objective_calls import ContractError
from search.testing.checks import check_images
from search.testing.specimen import Specimen


class Folding(ImageClassification):
    """A classifier whose folds are all the same."""

    n_folds = 0

    def __init__(self, n_folds: int) -> None:
        super().__init__("digits")
        self.n_folds = n_folds

    def fold_images(self, fold: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        return self.validation_images()


class Unfolded(ImageClassification):
    """A classifier whose trainings ignore the fold, and may predict nothing."""

    n_folds = 4

    def __init__(self, *, predicts: bool) -> None:
        super().__init__("digits")
        self.predicts = predicts

    def start(self, task: Task, device: str) -> Training:
        training = super().start(replace(task, fold=None), device)
        if not self.predicts:
            outcome = training.outcome
            training.outcome = lambda: replace(outcome(), predictions=None)  # type: ignore[method-assign]
        return training


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Folding(1), r"n_folds is 1; give a whole number above 1, or 0"),
        (Folding(3), r"the 3 folds hold 864 images; training and validation have 1438, and every fold"),
        (Unfolded(predicts=True), r"task.fold are \(288, 10\), not \(3\d\d, 10\); train without that fold"),
        (Unfolded(predicts=False), r"task.fold are None, not \(3\d\d, 10\); train without that fold"),
    ],
)
def test_folds_that_break_the_contract_are_named(objective: ImageClassification, message: str):
    with pytest.raises(ContractError, match=message):
        check_images(Specimen(ObjectiveSpec("toy:Toy"), objective))
