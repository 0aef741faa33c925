"""Where classes are of very unequal size, the search may weigh them; elsewhere nothing changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from shell import mnist_folder
from trainings import OPTIMIZERS, a_training, finish, plain_loop, recipe, striped, weights

from objectives.base import Params, Task
from objectives.data.datasets import Dataset, load_dataset
from objectives.data.splits import stratified_split
from objectives.images import ImageClassification
from objectives.images.training.cuda_graphs import GraphCache, distance
from objectives.images.training.loop import evaluate
from objectives.metrics import balanced_weights
from search.study.space.asked_trial import StoredTrial
from search.study.space.space import WHOLE_SPACE, search_space

WEIGHTS = (0.5, 0.25, 3.0, 1.0)


def blobs(cats: int, dogs: int) -> ImageClassification:
    """Classify noisy squares: those of dogs are a little brighter, so that many could be either."""
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [cats, dogs])
    brightness = 100 + 20 * labels + random.normal(0, 12, len(labels))
    images = random.normal(brightness[:, None, None, None], 40, (len(labels), 1, 8, 8))
    train, validation = stratified_split(labels, len(labels) // 5)
    pool = np.clip(images, 0, 255).astype(np.uint8)
    return ImageClassification("digits", data=Dataset("digits", pool, labels, ("cat", "dog"), train, validation, ""))


@pytest.mark.parametrize(("cats", "dogs", "unequal"), [(950, 50, True), (300, 100, False), (320, 100, True)])
def test_weighting_is_a_parameter_where_classes_are_unequal(cats: int, dogs: int, unequal: bool):
    objective = blobs(cats, dogs)
    space = search_space(objective)
    assert objective.is_unequal is unequal
    assert ("class_weighting" in space) is unequal
    for params in objective.baselines().values():
        assert params.get("class_weighting") == ("none" if unequal else None)
        assert params.keys() <= space.keys()


def class_weights(objective: ImageClassification, params: Params, **task: Any) -> tuple[float, ...] | None:
    training: Any = objective.start(Task(0, params, 1, 1, **task), "cpu")
    return training.recipe.class_weights


def test_balanced_weights_are_those_of_the_images_that_train():
    objective = blobs(950, 50)
    params = dict(objective.baselines()["tutorial MLP, Adam"])
    balanced: Params = {**params, "class_weighting": "balanced"}
    counts = np.bincount(objective.dataset.labels[objective.dataset.train])
    assert class_weights(objective, balanced) == balanced_weights(counts)
    assert class_weights(objective, balanced, refit=True) == balanced_weights([950, 50])
    del balanced["class_weighting"]  # as in studies of earlier versions
    assert class_weights(objective, params) is class_weights(objective, balanced) is None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("graphs", [None, GraphCache(None)], ids=["plain", "recordable"])
def test_weighted_batches_train_as_in_a_plain_loop(optimizer: str, graphs: GraphCache | None):
    data, how = striped(), recipe(optimizer, label_smoothing=0.05, class_weights=WEIGHTS)
    training = a_training(data, how, epochs=1, graphs=graphs)
    start = training.update.copy_state()["weights"]
    finish(training)
    expected = list(plain_loop(data, how, 1).parameters())
    assert distance(list(training.model.parameters()), expected) <= 0.01 * distance(expected, start)


@pytest.mark.parametrize("graphs", [None, GraphCache(None)], ids=["plain", "recordable"])
def test_the_training_loss_is_not_weighted(graphs: GraphCache | None):
    """Of the first batch, before anything is learned: a batch of all images."""
    data, how = striped(), recipe(batch_size=256, label_smoothing=0.05)
    recipes = how, replace(how, class_weights=WEIGHTS)
    plain, weighted = (next(a_training(data, one, epochs=1, graphs=graphs)) for one in recipes)
    assert weighted.metrics["train/loss"] == pytest.approx(plain.metrics["train/loss"], rel=1e-5)


def test_equal_weights_change_nothing():
    data = striped()
    plain, weighted = (a_training(data, replace(recipe(), class_weights=factors)) for factors in (None, (1.0,) * 4))
    finish(plain)
    finish(weighted)
    for name, tensor in weights(weighted).items():
        torch.testing.assert_close(tensor, weights(plain)[name], rtol=1e-3, atol=1e-4)


def test_balanced_training_finds_more_of_a_rare_class():
    objective = blobs(1900, 100)
    recalls: dict[str, list[float]] = {}
    for weighting in ("none", "balanced"):
        params = {**objective.baselines()["tutorial MLP, Adam"], "class_weighting": weighting}
        results = [finish(objective.start(Task(0, params, seed, 4), "cpu"))[-1] for seed in range(2)]  # type: ignore[arg-type]
        recalls[weighting] = [result.metrics["val/balanced_accuracy"] for result in results]
    assert min(recalls["balanced"]) > max(recalls["none"]) + 0.1, recalls


@pytest.mark.long
def test_balanced_training_finds_eights_among_many_threes():
    """Of 950 noisy threes and 50 eights, a fifth of them for validation; on 2,000 others of each."""
    folder = mnist_folder() or pytest.skip("the real MNIST files are not here; name their folder with SEARCH_DATA_DIR")
    mnist, random = load_dataset("mnist", folder), np.random.default_rng(0)

    def noisy(first: int, threes: int, eights: int) -> tuple[np.ndarray, np.ndarray]:
        index = [np.flatnonzero(mnist.labels == digit)[first : first + n] for digit, n in ((3, threes), (8, eights))]
        images = mnist.images[np.concatenate(index)] + random.normal(0, 120, (threes + eights, 1, 28, 28))
        return np.clip(images, 0, 255).astype(np.uint8), np.repeat([0, 1], [threes, eights])

    images, labels = noisy(0, 950, 50)
    train, validation = stratified_split(labels, 200)
    objective = ImageClassification("digits", data=Dataset("", images, labels, ("3", "8"), train, validation, ""))
    others, classes = (torch.from_numpy(array) for array in noisy(2000, 2000, 2000))
    strong, accuracies = objective.baselines()["strong CNN, one cycle"], {}
    for weighting in ("none", "balanced"):
        trainings: Any = [
            objective.start(Task(0, {**strong, "class_weighting": weighting}, seed, 12), "cpu") for seed in range(3)
        ]
        for training in trainings:
            finish(training)
        models = [training.model for training in trainings]
        accuracies[weighting] = [evaluate(model, others, classes, torch.arange(4000))[1] for model in models]
    assert min(accuracies["balanced"]) > max(accuracies["none"]) + 0.03, accuracies


def test_a_trial_that_was_stored_without_weighting_had_none():
    """An earlier version sampled no such parameter."""
    objective = blobs(950, 50)
    before = dict(next(iter(objective.baselines().values())))
    assert before.pop("class_weighting") == "none"
    assert WHOLE_SPACE.suggest(objective, StoredTrial(before)) == {**before, "class_weighting": "none"}
