"""Does an objective keep the contract of `objectives.base`? It is tried for a few seconds.

`python -m search check-objective MODULE:ATTR` runs all checks. In your own tests:

    @pytest.fixture(scope="module")
    def specimen():
        return Specimen.of("my_module:MyObjective")

    @pytest.mark.parametrize("check", CHECKS)
    def test_my_objective(specimen, check):
        check(specimen)
"""

import io
import math
import pickle
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from optuna.distributions import CategoricalDistribution

from objectives.base import Checkable, Experienced, Exportable, ImageClassifier, Outcome, Scaled, Sized, Timed
from objectives.data.files.image_files import Framing
from objectives.failures import describe_error, describe_value
from search.common.text import one_line
from search.study.space import objective_calls
from search.study.space.mlflow_names import MlflowNames
from search.study.space.objective_calls import ContractError, call, require
from search.study.space.space import WHOLE_SPACE, contains, require_space, search_space
from search.testing.findings import Absent
from search.testing.specimen import Specimen, pull

SUGGEST_S = 0.05
"""The longest median time of `suggest`. The coordinator calls it for every trial while workers wait."""


def check_names(specimen: Specimen) -> str | None:
    """It has a name, a metric and a direction."""
    objective_calls.require_texts(specimen.objective)
    name, allowed = specimen.objective.name, "letters, digits, dots and dashes"
    valid = re.fullmatch(r"[\w. -]+", name)
    require(valid, f"name is {name!r}; give a text of {allowed}, which names files and models")
    return next(MlflowNames("metric").changes([specimen.objective.metric]), None)


def check_suggest(specimen: Specimen) -> str | None:
    """Its configurations are plain data, made quickly, and the same for the same values."""
    require_space(specimen.objective)
    seconds = []
    for trial in specimen.trials():
        started = time.perf_counter()
        WHOLE_SPACE.suggest(specimen.objective, trial)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    limit = f"it is called for every trial: keep it below {SUGGEST_S} s"
    require(median < SUGGEST_S, f"suggest took {median:.2f} s; {limit}")
    names = dict.fromkeys(name for params in specimen.configurations() for name in params)
    return "\n".join(MlflowNames("parameter").changes(names)) or None


def check_baselines(specimen: Specimen) -> str | None:
    """Its baselines lie inside the space."""
    space, baselines = search_space(specimen.objective), objective_calls.require_baselines(specimen.objective)
    for baseline, params in baselines.items():
        for name, value in params.items():
            stray = f"baseline {baseline!r} has {name!r}, which suggest does not ask for; there are: {', '.join(space)}"
            require(name in space, stray)
            outside = f"baseline {baseline!r} has {name} = {value!r}, which suggest does not allow: {space[name]}"
            require(contains(space[name], value), outside)
    if isinstance(specimen.objective, Experienced):
        objective_calls.require_portfolio(specimen.objective)
    return None if baselines else Absent("it has no baselines")


def check_words(specimen: Specimen) -> None:
    """It describes a configuration in one line, and itself by a constant fingerprint."""
    for params in specimen.configurations():
        text = call("describe", specimen.objective.describe, params)
        valid = isinstance(text, str) and text and "\n" not in text
        require(valid, f"describe gave {describe_value(text)}; give a few words on one line, such as 'lr 0.01'")
    made_twice = (specimen.objective, specimen.spec.load())
    first, second = (dict(objective_calls.require_fingerprint(objective)) for objective in made_twice)
    require(first == second, f"fingerprint was {first} and, made a second time, {second}")


def check_schedule(specimen: Specimen) -> None:
    """Its epochs, and its pulls in an epoch, are whole positive numbers."""
    objective_calls.require_schedule(specimen.objective, specimen.device)


def check_space_scales(specimen: Specimen) -> str | None:
    """It chooses one of its space scales, and the last one's space contains the others."""
    objective = specimen.objective
    if not isinstance(objective, Scaled):
        return Absent("it has no space_scales")
    objective_calls.choose_space_scale(objective, specimen.device, 0)
    spaces = {}
    for scale in objective.space_scales:  # the search, too, begins with the last one
        objective_calls.set_space_scale(objective, scale)
        spaces[scale] = search_space(specimen.objective)
    last = objective.space_scales[-1]
    for scale, space in spaces.items():
        for name, values in space.items():
            outside = [end for end in _ends(values) if not (name in spaces[last] and contains(spaces[last][name], end))]
            which = f"{name} can be {', '.join(map(str, outside))} at scale {scale!r}, but not at the last, {last!r}"
            require(not outside, f"{which}; let the last scale's space contain the others")
    return None


def _ends(values: Any) -> Sequence[Any]:
    """All choices of a parameter, or its lowest and its highest value."""
    return values.choices if isinstance(values, CategoricalDistribution) else (values.low, values.high)


def check_protocols(specimen: Specimen) -> None:
    """It implements every method of each optional protocol that it begins."""
    missing = objective_calls.missing_methods(specimen.objective)
    require(missing is None, f"{missing}; add the missing methods, or remove the others")


def check_examples(specimen: Specimen) -> str | None:
    """Its own check passes for a few configurations."""
    if not isinstance(specimen.objective, Checkable):
        return Absent("it has no check(params) of its own")
    for params in specimen.configurations():
        call("check", specimen.objective.check, params)
    return None


def check_training(specimen: Specimen) -> None:
    """A training gives one result a pull, numbered, with finite values, and ends after its epochs."""
    sample, metric = specimen.sample(), specimen.objective.metric
    per_epoch = specimen.objective.steps_per_epoch()
    steps = specimen.epochs * per_epoch
    budget = f"epochs {specimen.epochs} * {per_epoch} steps"
    require(sample.results, "the training ended before its first result")
    for n, result in enumerate(sample.results, start=1):
        require(n <= steps, f"it went on after {steps} pulls: {budget}")
        require(result.step == n, f"pull {n} called itself step {result.step}; count from 1, one a pull")
        epoch = f"pull {n} called itself epoch {result.epoch}; it is epoch {n / per_epoch:g}"
        require(math.isclose(result.epoch, n / per_epoch), epoch)
        for name, figure in {metric: result.value, **result.metrics}.items():
            invalid = f"{name} was {describe_value(figure)} at step {n}"
            require(not isinstance(figure, bool | str), f"{invalid}; give a number, or no value")
            require(figure is not None or name == metric, f"{invalid}; leave out what was not measured")
            advice = "raise objectives.base.Diverged where a training goes wrong, or leave the figure out"
            require(figure is None or math.isfinite(float(figure)), f"{invalid}; {advice}")
        require(float(result.train_seconds) >= 0, f"train_seconds was {result.train_seconds} at step {n}")
    if sample.ended:
        n = len(sample.results)
        require(n == steps, f"the training ended after {n} pulls, not after {budget}")
        require(sample.results[-1].value is not None, f"the last pull has no value, and {metric} is what counts")


def check_repeats(specimen: Specimen) -> None:
    """Equal tasks give equal values."""
    sample = specimen.sample()
    training = specimen.start(sample.task)
    for first in sample.results[:2]:
        again = pull(training)
        values = f"{first.value} and, for the same task, {again and again.value}"
        same = again is not None and _same(again.value, first.value)
        require(same, f"step {first.step} gave {values}; draw all random numbers from task.seed")


def _same(a: float | None, b: float | None) -> bool:
    """True if equal or both NaN; another check reports NaN."""
    return a == b or (a is not None and b is not None and math.isnan(a) and math.isnan(b))


def check_resume(specimen: Specimen) -> None:
    """A training that resumes from its checkpoint gives the values of an uninterrupted one."""
    sample = specimen.sample()
    require(isinstance(sample.checkpoint, bytes), f"checkpoint gave {type(sample.checkpoint).__name__}; give bytes")
    resumed = pull(specimen.start(specimen.task(sample.task.params, sample.checkpoint)))
    if len(sample.results) < 2:
        require(not sample.ended or resumed is None, "resumed after its last step, the training did not end")
        return
    expected = sample.results[1]
    if resumed is None:
        raise ContractError(f"resumed after step 1, the training ended; step {expected.step} was due")
    hint = "go on from task.checkpoint where it is not None"
    require(resumed.step == expected.step, f"resumed after step 1, the training gave step {resumed.step}; {hint}")
    values = f"{resumed.value}; uninterrupted, it gave {expected.value}"
    hint = "A checkpoint holds all that changes: weights, optimizer, schedule and random numbers"
    require(_same(resumed.value, expected.value), f"resumed after step 1, step 2 gave {values}. {hint}")


def check_outcome(specimen: Specimen) -> None:
    """Its outcome has numbers, weights that load, and probabilities that fit the images."""
    objective = specimen.objective
    for outcome in specimen.sample().outcomes:
        shown = describe_value(outcome)
        require(isinstance(outcome, Outcome), f"outcome gave {shown}; give an objectives.base.Outcome")
        for name, figure in outcome.metrics.items():
            shown = describe_value(figure)
            require(isinstance(float(figure), float), f"the outcome's {name} is {shown}; give a number")
        if outcome.weights is not None:
            _check_weights(outcome.weights)
        if outcome.predictions is not None and isinstance(objective, ImageClassifier):
            shape = (len(objective.validation_images()[1]), len(objective.class_names()))
            require(outcome.predictions.shape == shape, f"predictions are {outcome.predictions.shape}, not {shape}")


def _check_weights(weights: bytes) -> None:
    import torch

    try:
        torch.load(io.BytesIO(weights), weights_only=True)
    except Exception as error:
        raise ContractError(
            f"the outcome's weights cannot be read with torch.load(..., weights_only=True). Give the bytes of "
            f"torch.save(model.state_dict(), ...), or no weights. It says: {one_line(describe_error(error), limit=200)}"
        ) from error


def check_plain_data(specimen: Specimen) -> None:
    """Its results and outcomes can be sent to another process."""
    sample = specimen.sample()
    for value in (*sample.results, *sample.outcomes):
        try:
            pickle.loads(pickle.dumps(value))
        except Exception as error:
            reason = describe_error(error)
            raise ContractError(f"a {type(value).__name__} cannot be sent to another process: {reason}") from error


def check_range(specimen: Specimen) -> str | None:
    """Its values lie within its metric_range."""
    possible = objective_calls.metric_range(specimen.objective)
    if possible is None:
        return Absent("it has no metric_range, so an interval of its metric may go on beyond what is possible")
    low, high = possible
    for value in (float(result.value) for result in specimen.sample().results if result.value is not None):
        inside = (low is None or low <= value) and (high is None or value <= high)
        require(inside, f"{specimen.objective.metric} was {value}, outside of metric_range {possible}")
    return None


def check_network(specimen: Specimen) -> str | None:
    """A network to register takes the example inputs, and gives one output for each."""
    objective = specimen.objective
    if not isinstance(objective, ImageClassifier | Exportable):
        return Absent("it has no load_weights and example_input, so its winner cannot be registered")
    import torch

    sample = specimen.sample()
    weights = sample.outcomes[-1].weights
    require(weights is not None, "the outcome has no weights, without which the winner cannot be registered")
    network = call("load_weights", objective.load_weights, sample.task.params, weights)
    if isinstance(objective, ImageClassifier):
        inputs = (objective.validation_images()[0][:4] / 255).astype("float32")
        expected = [len(inputs), len(objective.class_names())]
    else:
        inputs = call("example_input", objective.example_input)
        expected = [len(inputs)]
    require(len(inputs) >= 2, f"example_input gave {len(inputs)}; give 2 inputs or more")
    with torch.no_grad():
        shape = tuple(call("the network", network, torch.from_numpy(inputs)).shape)
    fits = list(shape[: len(expected)]) == expected
    require(fits, f"of inputs {inputs.shape} the network made {shape}, not {tuple(expected)}")
    call("torch.export of the network", torch.export.export, network.eval(), (torch.from_numpy(inputs),))
    return None


def check_images(specimen: Specimen) -> str | None:
    """A classifier's classes, images, folds and framing fit each other, and it can be refitted."""
    objective = specimen.objective
    if not isinstance(objective, ImageClassifier):
        return Absent("it is not an ImageClassifier of objectives.base")
    classes = call("class_names", objective.class_names)
    valid = isinstance(classes, tuple) and all(isinstance(name, str) and name for name in classes)
    require(valid and len(set(classes)) == len(classes) > 1, f"class_names gave {classes!r}; give different texts")
    images, labels = call("validation_images", objective.validation_images)
    valid = images.ndim == 4 and images.dtype == "uint8" and labels.shape == images.shape[:1]
    answer = f"{images.dtype} {images.shape}, labels {labels.shape}"
    require(valid, f"validation_images gave {answer}; give uint8 (n, c, h, w), (n,)")
    first, last, k = labels.min(), labels.max(), len(classes)
    require(0 <= first <= last < k, f"labels go from {first} to {last}; there are {k} classes, the first is 0")
    framing = call("framing", lambda: Framing(**objective.framing()))
    shape = (framing.channels, *framing.size)
    require(shape == images.shape[1:], f"framing says (c, h, w) is {shape}, and images are {images.shape[1:]}")
    epochs = call("refit_epochs", objective.refit_epochs, specimen.epochs)
    require(isinstance(epochs, int) and epochs > 0, f"refit_epochs gave {epochs!r}; give a whole number above 0")
    result = pull(specimen.start(replace(specimen.sample().task, refit=True, epochs=epochs)))
    require(result is not None and result.step == 1, "a training with task.refit ended before its first result")
    _check_folds(specimen, objective)
    return None


def _check_folds(specimen: Specimen, objective: ImageClassifier) -> None:
    """The folds of a division hold every image once, and a training predicts those of its fold."""
    if (folds := objective_calls.folds_of(specimen.objective)) is None:
        return
    sizes = [len(objective_calls.scored_images(objective, fold)[1]) for fold in range(folds.number)]
    hold = f"the {folds.number} folds hold {sum(sizes)} images; training and validation have {folds.n_images}"
    require(sum(sizes) == folds.n_images and min(sizes), f"{hold}, and every fold needs some")
    training = specimen.start(replace(specimen.sample().task, fold=1))
    predictions, shape = None, (sizes[1], len(objective.class_names()))
    for _ in range(specimen.epochs * specimen.objective.steps_per_epoch() + 1):  # some predict only at their end
        ended = pull(training) is None
        predictions = call("outcome", training.outcome).predictions
        if ended or predictions is not None:
            break
    answer = f"predictions of a training with task.fold are {None if predictions is None else predictions.shape}"
    fits = predictions is not None and predictions.shape == shape
    require(fits, f"{answer}, not {shape}; train without that fold, and predict its images")


def check_cost(specimen: Specimen) -> str | None:
    """Its number of parameters is true, and its latency is a number."""
    objective, sample = specimen.objective, specimen.sample()
    if isinstance(objective, Sized):
        count = call("n_parameters", objective.n_parameters, sample.task.params)
        require(isinstance(count, int) and count >= 0, f"n_parameters gave {count!r}; give a whole number")
        trained = sample.outcomes[-1].metrics.get("parameters", count)
        require(trained == count, f"n_parameters says {count}, and the trained network has {trained:g}")
    if isinstance(objective, Timed):
        latency_ms = float(call("latency_ms", objective.latency_ms, sample.task.params, specimen.device))
        require(math.isfinite(latency_ms) and latency_ms >= 0, f"latency_ms gave {latency_ms}; give milliseconds")
    parts = {"n_parameters": Sized, "latency_ms": Timed}
    missing = [method for method, part in parts.items() if not isinstance(objective, part)]
    return Absent(f"it has no {' and no '.join(missing)}") if len(missing) == len(parts) else None


CHECKS = (
    *(
        check_names,
        check_suggest,
        check_baselines,
        check_words,
        check_schedule,
        check_space_scales,
        check_protocols,
        check_examples,
    ),
    *(check_training, check_repeats, check_resume, check_outcome, check_plain_data, check_range),
    *(check_images, check_network, check_cost),
)
