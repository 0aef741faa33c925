"""Every evaluation measures all metrics; one of them is the value."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trainings import a_training, finish, network, recipe, striped

from objectives.base import ObjectiveError, Task
from objectives.images import ImageClassification
from objectives.images.training.loop import ImageTraining, evaluate, predict, read_scores
from objectives.images.training.update import TrainingData
from objectives.metrics import METRICS, Metric, scores

CURVES: dict[Metric, str] = {
    "accuracy": "val/accuracy",
    "balanced_accuracy": "val/balanced_accuracy",
    "macro_f1": "val/macro_f1",
    "log_loss": "val/loss",
}


@pytest.fixture(scope="module")
def data() -> TrainingData:
    """With validation images of unequal classes."""
    whole = striped()
    validation = whole.validation[(whole.labels[whole.validation] != 1) | (whole.validation < 270)]
    return replace(whole, validation=validation)


def test_every_evaluation_has_the_metrics_of_its_predictions(data: TrainingData):
    training = a_training(data, recipe(lr=1e-4), epochs=2)
    for _ in range(2):
        result, outcome = next(training), training.outcome()
        assert outcome.predictions is not None
        expected = scores(data.labels[data.validation].numpy(), outcome.predictions)
        figures = {metric: result.metrics[curve] for metric, curve in CURVES.items()}
        assert figures == pytest.approx(expected, abs=1e-5)
        assert [figures[metric] == expected[metric] for metric in METRICS[:3]] == [True] * 3
        assert {metric: outcome.metrics[f"val_{metric}"] for metric in METRICS} == figures
    assert figures["accuracy"] != figures["balanced_accuracy"]


@pytest.mark.parametrize("metric", METRICS)
def test_the_searched_metric_is_the_value(data: TrainingData, metric: Metric):
    task = Task(0, {}, 5, 1)
    training = ImageTraining(data, network(), recipe(), task, steps_per_epoch=1, metric=metric)
    result = next(training)
    assert result.value == result.metrics[CURVES[metric]]


def test_counts_of_many_classes_are_exact():
    """Of 1,000 classes, some without images and some never predicted; in more than one batch."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1200, 1, 4, 4), generator=random, dtype=torch.uint8)
    labels = torch.randint(0, 700, (1200,), generator=random)
    torch.manual_seed(0)
    rows, figures = predict(nn.Sequential(nn.Flatten(), nn.Linear(16, 1000)), images, labels, torch.arange(1200))
    measured = read_scores(figures.tolist())
    assert figures.shape == (1 + 3 * 1000,)
    assert measured == pytest.approx(scores(labels.numpy(), rows.numpy()), rel=1e-6)
    assert measured["balanced_accuracy"] == scores(labels.numpy(), rows.numpy())["balanced_accuracy"]


class Sure(nn.Module):
    """Logits that depend on the first pixel alone: `strength` for its class, and 0 for the other."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, images: Tensor) -> Tensor:
        logits = F.one_hot(images[:, 0, 0, 0].round().long(), 2).float()
        return torch.where(logits > 0, self.strength, 0.0)


@pytest.mark.parametrize("strength", [1.0, 20.0, 40.0, 1000.0])
def test_the_log_loss_is_that_of_the_probabilities_also_for_sure_mistakes(strength: float):
    """One mistake among 360 images."""
    labels = torch.arange(360) % 2
    images = (255 * labels).to(torch.uint8).view(-1, 1, 1, 1)
    labels[7] = 0
    loss, _, rows = evaluate(Sure(strength), images, labels, torch.arange(360))
    assert rows.dtype == torch.float32
    assert loss == pytest.approx(scores(labels.numpy(), rows.numpy())["log_loss"], rel=1e-5, abs=1e-7)
    assert loss < 16 / 360 + 0.32


@pytest.mark.parametrize("strength", [math.inf, -math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_not_clipped(strength: float):
    images, labels = torch.zeros(3, 1, 1, 1, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)
    assert not math.isfinite(evaluate(Sure(strength), images, labels, torch.arange(3))[0])


def test_a_refit_has_no_metrics_of_validation():
    objective = ImageClassification("digits", metric="macro_f1")
    params = dict(objective.baselines()["tutorial MLP, Adam"])
    training = objective.start(Task(0, params, 1, 1, refit=True), "cpu")
    (result,) = finish(training)
    assert result.value is None
    assert not [name for name in training.outcome().metrics if name.startswith("val")]


def test_an_objective_names_what_it_searches():
    for metric in METRICS:
        objective = ImageClassification("digits", metric=metric)
        assert (objective.metric, objective.direction) == (
            f"val_{metric}",
            "minimize" if metric == "log_loss" else "maximize",
        )
        training = objective.start(Task(0, dict(objective.baselines()["tutorial MLP, Adam"]), 1, 1), "cpu")
        assert next(training).value == training.outcome().metrics[objective.metric]


def test_a_subclass_with_a_metric_of_its_own_keeps_it():
    class Own(ImageClassification):
        metric = "quality"
        direction = "minimize"

    objective = Own("digits")
    training = objective.start(Task(0, dict(objective.baselines()["tutorial MLP, Adam"]), 1, 1), "cpu")
    result = next(training)
    assert (objective.metric, objective.direction) == ("quality", "minimize")
    assert result.value == result.metrics["val/accuracy"]


@pytest.mark.parametrize("metric", METRICS)
def test_a_subclass_that_names_a_metric_searches_it(metric: Metric):
    class Named(ImageClassification):
        direction = "minimize" if metric == "log_loss" else "maximize"

    Named.metric = f"val_{metric}"
    objective = Named("digits")
    training = objective.start(Task(0, dict(objective.baselines()["tutorial MLP, Adam"]), 1, 1), "cpu")
    assert next(training).value == training.outcome().metrics[f"val_{metric}"]


def test_a_direction_that_the_metric_does_not_have_is_an_error():
    class Worst(ImageClassification):
        metric = "val_log_loss"

    contrary = "Worst has metric = 'val_log_loss' and direction = 'maximize'; write direction = 'minimize'"
    with pytest.raises(ObjectiveError, match=contrary):
        Worst("digits")
    assert Worst("digits", metric="macro_f1").searched == "macro_f1"


def test_no_metric_replaces_one_of_a_subclass():
    class Own(ImageClassification):
        metric = "quality"

        def start(self, task: Task, device: str) -> Any:
            raise AssertionError

    advice = "leave out metric .or --metric., or remove the metric of the class"
    with pytest.raises(ObjectiveError, match=f"metric='log_loss' is given, but Own has its own, 'quality'; {advice}"):
        Own("digits", metric="log_loss")
