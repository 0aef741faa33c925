"""Folds of few images: what a training with one is trained on and scored on, and which data have none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_folders import make_folder
from numpy.typing import NDArray

from objectives.base import Task, Training
from objectives.data.datasets import FOLDS_BELOW_IMAGES, Dataset, load_test_split
from objectives.images.objective import ImageClassification
from objectives.images.training.loop import ImageTraining


def rows(images: NDArray[np.uint8]) -> list[bytes]:
    return [image.tobytes() for image in images]


def test_a_training_learns_from_all_folds_but_its_own_which_it_is_scored_on():
    digits = ImageClassification("digits")
    params = {**digits.baselines()["tutorial MLP, Adam"]}
    predicted = []
    for fold in range(8):
        training = digits.start(Task(0, params, seed=1, epochs=1, fold=fold), "cpu")
        assert isinstance(training, ImageTraining)
        data, (images, labels) = training.data, digits.fold_images(fold)
        assert sorted([*data.train.tolist(), *data.validation.tolist()]) == list(range(1438))
        assert rows(data.images[data.validation].numpy()) == rows(images)
        value = next(training).value
        predictions = training.outcome().predictions
        assert predictions is not None
        assert value == pytest.approx(np.mean(predictions.argmax(1) == labels))
        predicted.append(data.validation.tolist())
    for division in (predicted[:4], predicted[4:]):
        assert sorted(index for fold in division for index in fold) == list(range(1438))
    assert set(map(tuple, predicted[:4])).isdisjoint(map(tuple, predicted[4:]))


def test_folds_hold_no_test_image():
    digits = ImageClassification("digits")
    pool = sorted(rows(digits.dataset.images))
    assert sorted(row for fold in range(4) for row in rows(digits.fold_images(fold)[0])) == pool
    assert set(pool).isdisjoint(rows(load_test_split("digits", None)[0]))


def test_many_images_have_no_folds():
    digits = ImageClassification("digits")
    data = digits.dataset
    several = np.tile(np.arange(len(data.labels)), 4)
    for n, folds in ((FOLDS_BELOW_IMAGES - 1, 4), (FOLDS_BELOW_IMAGES, 0)):
        digits.dataset = replace(data, images=data.images[several[:n]], labels=data.labels[several[:n]])
        assert digits.n_folds == folds


def test_a_dataset_made_by_hand_keeps_its_validation_split():
    known = ImageClassification("digits").dataset
    parts = known.images, known.labels, known.classes, known.train, known.validation
    by_hand = ImageClassification("digits", data=Dataset("digits", *parts, "a test"))
    assert (by_hand.n_folds, ImageClassification(**ImageClassification("digits").portable()).n_folds) == (0, 4)


def test_a_validation_split_of_ones_own_is_used_instead_of_folds(tmp_path: Path):
    for split, n in (("train", 20), ("val", 6)):
        make_folder(tmp_path / "pets" / split, {"cat": n, "dog": n})
    make_folder(tmp_path / "others", {"cat": 20, "dog": 20})
    folds = [ImageClassification(f"folder:{tmp_path / name}", str(tmp_path)) for name in ("pets", "others")]
    for objective in folds:
        objective.prepare()
    assert [objective.n_folds for objective in folds] == [0, 4]


class OwnTraining(ImageClassification):
    def start(self, task: Task, device: str) -> Training:
        return super().start(task, device)


class Aware(OwnTraining):
    n_folds = 5


def test_a_subclass_with_trainings_of_its_own_says_whether_it_knows_folds():
    assert OwnTraining("digits").n_folds == 0
    assert sum(len(Aware("digits").fold_images(fold)[1]) for fold in range(5)) == 1438
