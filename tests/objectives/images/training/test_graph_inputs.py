"""Numbers of a step that are read from memory, for recordings, beside plain ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from trainings import OPTIMIZERS, a_training, finish, recipe, weights

from objectives.images.training.cuda_graphs import GraphCache, relative_distance
from objectives.images.training.update import TrainingData

STRONG: dict[str, Any] = {"weight_decay": 0.1, "momentum": 0.7, "label_smoothing": 0.3, "augmentation": 0.5}
STRONG |= {"class_weights": (0.5, 0.25, 3.0, 1.0)}
NONE = {"weight_decay": 0.0, "momentum": 0.0, "label_smoothing": 0.0, "augmentation": 0.5}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("numbers", [STRONG, NONE], ids=["strong", "none"])
def test_numbers_read_from_memory_do_what_plain_ones_do(data: TrainingData, optimizer: str, numbers: dict[str, Any]):
    """Over eight batches, after a training with others, as a share of the way that the weights went."""
    graphs = GraphCache(None)
    others = recipe(optimizer, lr=0.01, weight_decay=0.5, label_smoothing=0.05, augmentation=0.1)
    update = a_training(data, others, graphs=graphs, epochs=1, dropout=0.4)
    finish(update)
    known, ways = update.update, []
    del update
    for given in (None, graphs):
        training = a_training(data, recipe(optimizer, **numbers), graphs=given, epochs=1, dropout=0.15)
        start = training.update.copy_state()
        finish(training)
        ways.append(training.update.copy_state())
    assert training.update is known
    assert relative_distance(start, *ways) < 1e-3


def test_sgd_without_momentum_goes_on_in_the_other_form(data: TrainingData):
    """One form keeps momenta even then; they are zero times what they are."""
    how = recipe("sgd", **NONE)
    for before, behind in ((None, GraphCache(None)), (GraphCache(None), None)):
        first = a_training(data, how, graphs=before)
        next(first)
        second = a_training(data, how, graphs=behind, checkpoint=first.checkpoint())
        finish(first)
        finish(second)
        for name, tensor in weights(second).items():
            torch.testing.assert_close(tensor, weights(first)[name], rtol=1e-3, atol=1e-4)
