"""Contract checks of a training: its results, its checkpoint and its outcome."""

from __future__ import annotations

import io
import math
import pickle

from objectives.base import ImageClassifier, Outcome
from search.testing.specimen import ContractError, Specimen, call, pull, require, start


def check_training(specimen: Specimen) -> None:
    """A training gives one result a pull, numbered, with finite values, and ends after its epochs."""
    sample, per_epoch = specimen.sample(), specimen.objective.steps_per_epoch()
    steps = specimen.epochs * per_epoch
    require(sample.results, "the training ended before its first result")
    for number, result in enumerate(sample.results, start=1):
        require(number <= steps, f"it went on after {steps} pulls: epochs {specimen.epochs} * {per_epoch} steps")
        require(result.step == number, f"pull {number} called itself step {result.step}; count from 1, one a pull")
        require(
            math.isclose(result.epoch, number / per_epoch),
            f"pull {number} called itself epoch {result.epoch}; it is epoch {number / per_epoch:g}",
        )
        figures = {specimen.objective.metric: result.value, **result.metrics}
        for name, figure in figures.items():
            require(
                not isinstance(figure, bool | str),
                f"{name} was {figure!r} at step {number}; give a number, or no value",
            )
            require(
                figure is None or math.isfinite(float(figure)),
                f"{name} was {figure} at step {number}; raise objectives.base.Diverged where a training goes wrong",
            )
        require(float(result.train_seconds) >= 0, f"train_seconds was {result.train_seconds} at step {number}")
    if not sample.ended:
        return
    require(
        len(sample.results) == steps,
        f"the training ended after {len(sample.results)} pulls, not after epochs {specimen.epochs} * {per_epoch} steps",
    )
    require(
        sample.results[-1].value is not None,
        f"the last pull has no value, and {specimen.objective.metric} is what counts",
    )


def check_repeats(specimen: Specimen) -> None:
    """The same task gives the same values."""
    sample = specimen.sample()
    training = start(specimen, sample.task)
    for first in sample.results[:2]:
        again = pull(training)
        require(
            again is not None and _same(again.value, first.value),
            f"step {first.step} gave {first.value} and, for the same task, {again and again.value}; draw "
            "all chance from task.seed",
        )


def _same(value: float | None, other: float | None) -> bool:
    """True if equal or both NaN; another check reports NaN."""
    return value == other or (value is not None and other is not None and math.isnan(value) and math.isnan(other))


def check_resume(specimen: Specimen) -> None:
    """A training that resumes from its checkpoint gives the values of an uninterrupted one."""
    sample = specimen.sample()
    require(isinstance(sample.checkpoint, bytes), f"checkpoint gave {type(sample.checkpoint).__name__}; give bytes")
    resumed = pull(start(specimen, specimen.task(sample.task.params, sample.checkpoint)))
    if len(sample.results) < 2:
        require(not sample.ended or resumed is None, "resumed after its last step, the training did not end")
        return
    expected = sample.results[1]
    require(resumed is not None, f"resumed after step 1, the training ended; step {expected.step} was due")
    assert resumed is not None
    require(
        resumed.step == expected.step,
        f"resumed after step 1, the training gave step {resumed.step}; go on from task.checkpoint where it is not None",
    )
    require(
        _same(resumed.value, expected.value),
        f"resumed after step 1, step 2 gave {resumed.value}; uninterrupted, it gave {expected.value}. A checkpoint "
        "holds all that changes: weights, optimizer, schedule and random numbers",
    )


def check_outcome(specimen: Specimen) -> None:
    """Its outcome has numbers, weights that load, and probabilities that fit the images."""
    for outcome in specimen.sample().outcomes:
        require(isinstance(outcome, Outcome), f"outcome gave {outcome!r}; give an objectives.base.Outcome")
        for name, figure in outcome.metrics.items():
            require(isinstance(float(figure), float), f"the outcome's {name} is {figure!r}; give a number")
        if outcome.weights is not None:
            _check_weights(specimen, outcome.weights)
        if outcome.predictions is not None and isinstance(specimen.objective, ImageClassifier):
            shape = (len(specimen.objective.validation_images()[1]), len(specimen.objective.class_names()))
            require(outcome.predictions.shape == shape, f"predictions are {outcome.predictions.shape}, not {shape}")


def _check_weights(specimen: Specimen, weights: bytes) -> None:
    import torch

    try:
        torch.load(io.BytesIO(weights), weights_only=True)
    except Exception as error:
        raise ContractError(
            f"the outcome's weights cannot be read with torch.load(..., weights_only=True). Give the bytes of "
            f"torch.save(model.state_dict(), ...), or no weights. It says: {str(error).splitlines()[0]}"
        ) from error
    if isinstance(specimen.objective, ImageClassifier):
        call("load_weights", specimen.objective.load_weights, specimen.sample().task.params, weights)


def check_plain_data(specimen: Specimen) -> None:
    """Its results and outcomes can be sent to another process."""
    sample = specimen.sample()
    for what in (*sample.results, *sample.outcomes):
        try:
            pickle.loads(pickle.dumps(what))
        except Exception as error:
            raise ContractError(f"a {type(what).__name__} cannot be sent to another process: {error}") from error
