"""Does an objective keep the contract of `objectives.base`? Tried for a few seconds, and said in plain words.

`python -m search check-objective MODULE:ATTR` runs all of it. In tests of your own:

    @pytest.fixture(scope="module")
    def specimen():
        return Specimen.of("my_module:MyObjective")

    @pytest.mark.parametrize("check", CHECKS)
    def test_my_objective(specimen, check):
        check(specimen)
"""

from __future__ import annotations

import io
import json
import math
import pickle
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from optuna.trial import FixedTrial

from objectives.base import Exportable, ImageClassifier, Outcome, Sized, Timed, unfinished
from objectives.pictures import Framing
from search.asking import is_count
from search.space import contains, search_space
from search.specimen import ContractError, NotTried, Specimen, call, pull, start

SUGGEST_S = 0.05
"""What `suggest` may take, in the median: the coordinator calls it for every trial while trainers wait."""


def _require(condition: object, message: str) -> None:
    if not condition:
        raise ContractError(message)


# ---- the parts of the contract


def check_names(specimen: Specimen) -> None:
    """It has a name, a metric and a direction."""
    for what in ("name", "metric"):
        given = getattr(specimen.objective, what)
        _require(
            isinstance(given, str) and re.fullmatch(r"[\w. -]+", given),
            f"{what} is {given!r}; give a text of letters, digits, dots and dashes, which names files and models",
        )


def check_suggest(specimen: Specimen) -> None:
    """Its settings are plain, quickly made, and the same when they are made again."""
    took = []
    for trial in specimen.trials():
        started = time.perf_counter()
        params = call("suggest", specimen.objective.suggest, trial)
        took.append(time.perf_counter() - started)
        _require(isinstance(params, Mapping), f"suggest gave {params!r}; give a dict of parameters")
        for name, value in params.items():
            _require(
                isinstance(name, str) and isinstance(value, bool | int | float | str | None),
                f"suggest gave {name!r}: {value!r}; parameters are numbers, texts, True, False or None under a text",
            )
        _require(trial.params, "suggest asked the trial for nothing, so there is nothing to search")
        again = call("suggest", specimen.objective.suggest, FixedTrial(trial.params))
        _require(
            params == again,
            f"suggest made {dict(params)} and then, of the same values, {dict(again)}; only the trial may decide",
        )
    _require(
        statistics.median(took) < SUGGEST_S,
        f"suggest took {statistics.median(took):.2f} s; it is called for every trial: keep it below {SUGGEST_S} s",
    )


def check_baselines(specimen: Specimen) -> None:
    """Its baselines lie inside the space."""
    space = search_space(specimen.objective)
    for name, params in call("baselines", specimen.objective.baselines).items():
        for parameter, value in params.items():
            _require(
                parameter in space,
                f"baseline {name!r} has {parameter!r}, which suggest does not ask for; there are: {', '.join(space)}",
            )
            _require(
                contains(space[parameter], value),
                f"baseline {name!r} has {parameter} = {value!r}, which suggest does not allow: {space[parameter]}",
            )


def check_words(specimen: Specimen) -> None:
    """It describes a setting in one line, and itself by a fingerprint that stays."""
    for params in specimen.settings():
        text = call("describe", specimen.objective.describe, params)
        _require(
            isinstance(text, str) and text and "\n" not in text,
            f"describe gave {text!r}; give a few words on one line, such as 'lr 0.01'",
        )
    found = call("fingerprint", specimen.objective.fingerprint)
    try:
        json.dumps(dict(found))
    except (TypeError, ValueError) as error:
        raise ContractError(f"fingerprint gave {found!r}, which is not plain data; give texts by name") from error
    again = call("fingerprint", specimen.spec.load().fingerprint)
    _require(dict(found) == dict(again), f"fingerprint was {found} and, of the objective made anew, {again}")


def check_schedule(specimen: Specimen) -> None:
    """Its epochs, and its pulls in an epoch, are whole positive numbers."""
    epochs = call("epochs", specimen.objective.epochs, specimen.device)
    steps = call("steps_per_epoch", specimen.objective.steps_per_epoch)
    for name, value in (("epochs", epochs), ("steps_per_epoch", steps)):
        _require(is_count(value), f"{name} gave {value!r}; give a whole number above 0")


def check_training(specimen: Specimen) -> None:
    """A training gives one result a pull, numbered, with finite values, and ends after its epochs."""
    sample, per_epoch = specimen.sample(), specimen.objective.steps_per_epoch()
    steps = specimen.epochs * per_epoch
    _require(sample.results, "the training ended before its first result")
    for number, result in enumerate(sample.results, start=1):
        _require(number <= steps, f"it went on after {steps} pulls: epochs {specimen.epochs} * {per_epoch} steps")
        _require(result.step == number, f"pull {number} called itself step {result.step}; count from 1, one a pull")
        _require(
            math.isclose(result.epoch, number / per_epoch),
            f"pull {number} called itself epoch {result.epoch}; it is epoch {number / per_epoch:g}",
        )
        figures = {specimen.objective.metric: result.value, **result.metrics}
        for name, figure in figures.items():
            _require(
                not isinstance(figure, bool | str),
                f"{name} was {figure!r} at step {number}; give a number, or no value",
            )
            _require(
                figure is None or math.isfinite(float(figure)),
                f"{name} was {figure} at step {number}; raise objectives.base.Diverged where a training goes wrong",
            )
        _require(float(result.train_seconds) >= 0, f"train_seconds was {result.train_seconds} at step {number}")
    if not sample.ended:
        return
    _require(
        len(sample.results) == steps,
        f"the training ended after {len(sample.results)} pulls, not after epochs {specimen.epochs} * {per_epoch} steps",
    )
    _require(
        sample.results[-1].value is not None,
        f"the last pull has no value, and {specimen.objective.metric} is what counts",
    )


def check_repeats(specimen: Specimen) -> None:
    """The same task gives the same values."""
    sample = specimen.sample()
    training = start(specimen, sample.task)
    for first in sample.results[:2]:
        again = pull(training)
        _require(
            again is not None and _same(again.value, first.value),
            f"step {first.step} gave {first.value} and, for the same task, {again and again.value}; draw "
            "all chance from task.seed",
        )


def _same(value: float | None, other: float | None) -> bool:
    """Equal, or both NaN, which is said elsewhere."""
    return value == other or (value is not None and other is not None and math.isnan(value) and math.isnan(other))


def check_resume(specimen: Specimen) -> None:
    """A training that goes on from its checkpoint gives the values of one that was never interrupted."""
    sample = specimen.sample()
    _require(isinstance(sample.checkpoint, bytes), f"checkpoint gave {type(sample.checkpoint).__name__}; give bytes")
    resumed = pull(start(specimen, specimen.task(sample.task.params, sample.checkpoint)))
    if len(sample.results) < 2:
        _require(not sample.ended or resumed is None, "resumed after its last step, the training did not end at once")
        return
    expected = sample.results[1]
    _require(resumed is not None, f"resumed after step 1, the training ended; step {expected.step} was due")
    assert resumed is not None
    _require(
        resumed.step == expected.step,
        f"resumed after step 1, the training gave step {resumed.step}; go on from task.checkpoint where it is not None",
    )
    _require(
        _same(resumed.value, expected.value),
        f"resumed after step 1, step 2 gave {resumed.value}; uninterrupted, it gave {expected.value}. A checkpoint "
        "holds all that changes: weights, optimizer, schedule and random numbers",
    )


def check_outcome(specimen: Specimen) -> None:
    """What a training leaves is plain: figures, weights that load, and probabilities that fit the images."""
    for outcome in specimen.sample().outcomes:
        _require(isinstance(outcome, Outcome), f"outcome gave {outcome!r}; give an objectives.base.Outcome")
        for name, figure in outcome.metrics.items():
            _require(isinstance(float(figure), float), f"the outcome's {name} is {figure!r}; give a number")
        if outcome.weights is not None:
            _check_weights(specimen, outcome.weights)
        if outcome.predictions is not None and isinstance(specimen.objective, ImageClassifier):
            shape = (len(specimen.objective.validation_images()[1]), len(specimen.objective.class_names()))
            _require(outcome.predictions.shape == shape, f"predictions are {outcome.predictions.shape}, not {shape}")


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
    """What crosses to the coordinator can be sent to another process."""
    sample = specimen.sample()
    for what in (*sample.results, *sample.outcomes):
        try:
            pickle.loads(pickle.dumps(what))
        except Exception as error:
            raise ContractError(f"a {type(what).__name__} cannot be sent to another process: {error}") from error


def check_whole(specimen: Specimen) -> None:
    """What it offers beyond the contract, it offers whole."""
    missing = unfinished(specimen.objective)
    _require(missing is None, f"{missing}; add what it lacks, or take the others away")


def check_images(specimen: Specimen) -> None:
    """A classifier's classes, images and framing fit each other, and it can be refitted."""
    objective = specimen.objective
    if not isinstance(objective, ImageClassifier):
        return
    classes = call("class_names", objective.class_names)
    sound = isinstance(classes, tuple) and all(isinstance(name, str) and name for name in classes)
    _require(sound and len(set(classes)) == len(classes) > 1, f"class_names gave {classes!r}; give different texts")
    images, labels = call("validation_images", objective.validation_images)
    _require(
        images.ndim == 4 and images.dtype == "uint8" and labels.shape == images.shape[:1],
        f"validation_images gave {images.dtype} {images.shape}, labels {labels.shape}; give uint8 (n, c, h, w), (n,)",
    )
    _require(
        labels.min() >= 0 and labels.max() < len(classes),
        f"labels go from {labels.min()} to {labels.max()}; there are {len(classes)} classes, the first is 0",
    )
    framing = call("framing", lambda: Framing(**objective.framing()))
    _require(
        (framing.channels, *framing.size) == images.shape[1:],
        f"framing says {framing.channels} channels of {tuple(framing.size)}, and images are {images.shape[1:]}",
    )
    epochs = call("refit_epochs", objective.refit_epochs, specimen.epochs)
    _require(isinstance(epochs, int) and epochs > 0, f"refit_epochs gave {epochs!r}; give a whole number above 0")
    first = pull(start(specimen, replace(specimen.sample().task, refit=True, epochs=epochs)))
    _require(first is not None and first.step == 1, "a training with task.refit ended before its first result")


def check_network(specimen: Specimen) -> None:
    """A network that can be registered takes its example, and gives as many outputs."""
    objective = specimen.objective
    if not isinstance(objective, ImageClassifier | Exportable):
        return
    import torch

    sample = specimen.sample()
    weights = sample.outcomes[-1].weights
    _require(weights is not None, "the outcome has no weights, without which the winner cannot be registered")
    network = call("load_weights", objective.load_weights, sample.task.params, weights)
    if isinstance(objective, ImageClassifier):
        given = (objective.validation_images()[0][:4] / 255).astype("float32")
    else:
        given = call("example_input", objective.example_input)
    _require(
        len(given) >= 2, f"example_input gave {len(given)}; give 2 inputs or more, so that any number can be taken"
    )
    with torch.no_grad():
        found = call("the network", network, torch.from_numpy(given))
    expected = [len(given)]
    if isinstance(objective, ImageClassifier):
        expected.append(len(objective.class_names()))
    _require(
        list(found.shape[: len(expected)]) == expected,
        f"of inputs {given.shape} the network made {tuple(found.shape)}, not {tuple(expected)}",
    )
    call("torch.export of the network", torch.export.export, network.eval(), (torch.from_numpy(given),))


def check_cost(specimen: Specimen) -> None:
    """What it says of size and latency, if it does, is so."""
    params = specimen.sample().task.params
    if isinstance(specimen.objective, Sized):
        count = call("n_parameters", specimen.objective.n_parameters, params)
        _require(isinstance(count, int) and count >= 0, f"n_parameters gave {count!r}; give a whole number")
        trained = specimen.sample().outcomes[-1].metrics.get("parameters", count)
        _require(trained == count, f"n_parameters says {count}, and the trained network has {trained:g}")
    if isinstance(specimen.objective, Timed):
        took = float(call("latency_ms", specimen.objective.latency_ms, params, specimen.device))
        _require(math.isfinite(took) and took >= 0, f"latency_ms gave {took}; give milliseconds")


CHECKS: tuple[Callable[[Specimen], None], ...] = (
    check_names,
    check_suggest,
    check_baselines,
    check_words,
    check_schedule,
    check_training,
    check_repeats,
    check_resume,
    check_outcome,
    check_plain_data,
    check_whole,
    check_images,
    check_network,
    check_cost,
)


@dataclass(frozen=True)
class Finding:
    """What one check came to."""

    title: str
    wrong: str | None = None
    not_tried: str | None = None


def examine(specimen: Specimen) -> Iterator[Finding]:
    """Run every check, one after the other."""
    for check in CHECKS:
        title = (check.__doc__ or check.__name__).splitlines()[0].rstrip(".")
        try:
            check(specimen)
        except ContractError as error:
            yield Finding(title, wrong=str(error))
        except NotTried as error:
            yield Finding(title, not_tried=str(error))
        except Exception as error:  # of an objective that is wrong in a way that nobody thought of
            yield Finding(title, wrong=f"{type(error).__name__}: {error}")
        else:
            yield Finding(title)
