"""The average of the weights: its values, that it is what is evaluated and stored, and that it can be resumed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from trainings import a_training, equal, finish, network, recipe, striped, weights

from objectives.images.models import Normalise
from objectives.images.training.average import WeightAverage
from objectives.images.training.loop import evaluate


def test_it_is_the_exponential_average_of_all_values_so_far():
    model = nn.Sequential(Normalise((0.3,), (0.2,)), nn.Linear(2, 1), nn.BatchNorm1d(1))
    average = WeightAverage(model)
    average.begin(4.0)
    seen = []
    for step in range(7):
        with torch.no_grad():
            for tensor in (*model[1].parameters(), model[2].running_mean):
                tensor.fill_(step)
        average.update()
        seen.append(float(step))
        shares = [0.75**age for age in range(len(seen))]
        expected = sum(share * value for share, value in zip(shares, reversed(seen), strict=True)) / sum(shares)
        with average.applied(step + 1):
            for tensor in (*model[1].parameters(), model[2].running_mean):
                torch.testing.assert_close(tensor.detach(), torch.full_like(tensor, expected))
            assert torch.equal(model[0].mean, torch.full((1, 1, 1, 1), 0.3))
        assert float(model[1].bias.detach()) == step


def test_without_a_time_constant_it_is_the_last_value():
    model = nn.Linear(3, 2)
    average = WeightAverage(model)
    average.begin(0.0)
    for _ in range(3):
        with torch.no_grad():
            model.weight.add_(1.0)
        average.update()
    last = model.weight.detach().clone()
    with average.applied(3):
        assert torch.equal(model.weight, last)


def test_the_average_is_what_is_evaluated_and_stored():
    data = striped()
    training = a_training(data, recipe("sgd", averaging=0.3, lr=0.1))
    next(training)
    outcome, stored = training.outcome(), weights(training)
    assert not equal(stored, training.model.state_dict())
    again = network().eval()
    again.load_state_dict(stored)
    _, accuracy, rows = evaluate(again, data.images, data.labels, data.validation)
    assert outcome.predictions is not None
    assert rows.numpy() == pytest.approx(outcome.predictions, abs=1e-5)
    assert outcome.metrics["val_accuracy"] == accuracy


def test_a_resumed_training_goes_on_with_its_average():
    how = recipe("sgd", averaging=0.3, lr=0.1)
    whole = a_training(striped(), how)
    finish(whole)
    first = a_training(striped(), how)
    next(first)
    second = a_training(striped(), how, checkpoint=first.checkpoint())
    finish(second)
    assert equal(weights(whole), weights(second))
    assert not equal(weights(whole), weights(first))
