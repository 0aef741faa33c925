"""A training that goes on from a checkpoint, wherever it was stopped, is the one that never stopped."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trainings import OPTIMIZERS, a_training, equal, finish, recipe, striped, told, weights

from objectives.images.training.update import TrainingData


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("steps", "at"), [(1, 1), (1, 3), (4, 2), (4, 5)])
def test_a_resumed_training_equals_one_that_never_stopped(data: TrainingData, optimizer: str, steps: int, at: int):
    """With dropout and augmentation, whose random states must come along; at the end, and in the middle of an epoch."""
    how = recipe(optimizer, rotation_zoom=0.5, weight_decay=1e-3)
    whole = a_training(data, how, steps=steps, dropout=0.3)
    expected = finish(whole)

    first = a_training(data, how, steps=steps, dropout=0.3)
    for _ in range(at):
        next(first)
    checkpoint = first.checkpoint()
    torch.rand(17)  # another training used the generator meanwhile
    second = a_training(data, how, steps=steps, dropout=0.3, checkpoint=checkpoint)
    assert told(finish(second)) == told(expected[at:])
    assert equal(weights(second), weights(whole))
    rows, expected_rows = second.outcome().predictions, whole.outcome().predictions
    assert rows is not None
    assert expected_rows is not None
    assert (rows == expected_rows).all()


@given(
    how=st.fixed_dictionaries(
        {
            "optimizer": st.sampled_from(list(OPTIMIZERS)),
            "schedule": st.sampled_from(["one_cycle", "constant"]),
            "rotation_zoom": st.sampled_from([0.0, 0.7]),
            "batch_size": st.integers(8, 300),
        }
    ),
    seed=st.integers(0, 2**31),
    dropout=st.sampled_from([0.0, 0.4]),
    stops=st.sets(st.integers(1, 5)),
)
@settings(max_examples=15)
def test_stopped_anywhere_and_gone_on_elsewhere_it_is_the_same_training(
    data: TrainingData, how: dict[str, Any], seed: int, dropout: float, stops: set[int]
):
    same: Any = {"epochs": 2, "steps": 3, "seed": seed, "dropout": dropout}
    whole = a_training(data, recipe(**how), **same)
    expected = finish(whole)
    training, results = a_training(data, recipe(**how), **same), []
    for step in range(1, 7):
        results.append(next(training))
        if step in stops:
            training = a_training(data, recipe(**how), checkpoint=training.checkpoint(), **same)
    assert told(results) == told(expected)
    assert equal(weights(training), weights(whole))


NEEDS_METAL = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="there is no Metal GPU here")


@pytest.mark.parametrize("device", ["cpu", pytest.param("mps", marks=NEEDS_METAL)])
def test_a_checkpoint_restores_the_generator_that_dropout_draws_from(device: str):
    """For CUDA, see test_gpu.py."""
    data = striped(device)
    training = a_training(data, recipe(), dropout=0.3)
    next(training)
    checkpoint = training.checkpoint()
    expected = torch.rand(5, device=device)
    a_training(data, recipe(), dropout=0.3, checkpoint=checkpoint)
    assert torch.equal(torch.rand(5, device=device), expected)


def test_a_checkpoint_holds_no_code(data: TrainingData):
    training = a_training(data, recipe())
    next(training)
    state = torch.load(io.BytesIO(training.checkpoint()), weights_only=True)
    assert state["step"] == 1
