"""Contract checks of what an objective offers beyond training: images, a network to register, size and latency."""

from __future__ import annotations

import math
from dataclasses import replace

from objectives.base import Exportable, ImageClassifier, Sized, Timed, missing_methods
from objectives.data.image_files import Framing
from search.testing.specimen import Specimen, call, pull, require, start


def check_whole(specimen: Specimen) -> None:
    """It implements every method of each optional protocol that it begins."""
    missing = missing_methods(specimen.objective)
    require(missing is None, f"{missing}; add what it lacks, or take the others away")


def check_images(specimen: Specimen) -> None:
    """A classifier's classes, images and framing fit each other, and it can be refitted."""
    objective = specimen.objective
    if not isinstance(objective, ImageClassifier):
        return
    classes = call("class_names", objective.class_names)
    sound = isinstance(classes, tuple) and all(isinstance(name, str) and name for name in classes)
    require(sound and len(set(classes)) == len(classes) > 1, f"class_names gave {classes!r}; give different texts")
    images, labels = call("validation_images", objective.validation_images)
    require(
        images.ndim == 4 and images.dtype == "uint8" and labels.shape == images.shape[:1],
        f"validation_images gave {images.dtype} {images.shape}, labels {labels.shape}; give uint8 (n, c, h, w), (n,)",
    )
    require(
        labels.min() >= 0 and labels.max() < len(classes),
        f"labels go from {labels.min()} to {labels.max()}; there are {len(classes)} classes, the first is 0",
    )
    framing = call("framing", lambda: Framing(**objective.framing()))
    require(
        (framing.channels, *framing.size) == images.shape[1:],
        f"framing says {framing.channels} channels of {tuple(framing.size)}, and images are {images.shape[1:]}",
    )
    epochs = call("refit_epochs", objective.refit_epochs, specimen.epochs)
    require(isinstance(epochs, int) and epochs > 0, f"refit_epochs gave {epochs!r}; give a whole number above 0")
    first = pull(start(specimen, replace(specimen.sample().task, refit=True, epochs=epochs)))
    require(first is not None and first.step == 1, "a training with task.refit ended before its first result")


def check_network(specimen: Specimen) -> None:
    """A network to register takes the example inputs, and gives one output for each."""
    objective = specimen.objective
    if not isinstance(objective, ImageClassifier | Exportable):
        return
    import torch

    sample = specimen.sample()
    weights = sample.outcomes[-1].weights
    require(weights is not None, "the outcome has no weights, without which the winner cannot be registered")
    network = call("load_weights", objective.load_weights, sample.task.params, weights)
    if isinstance(objective, ImageClassifier):
        given = (objective.validation_images()[0][:4] / 255).astype("float32")
    else:
        given = call("example_input", objective.example_input)
    require(len(given) >= 2, f"example_input gave {len(given)}; give 2 inputs or more, so that any number can be taken")
    with torch.no_grad():
        outputs = call("the network", network, torch.from_numpy(given))
    expected = [len(given)]
    if isinstance(objective, ImageClassifier):
        expected.append(len(objective.class_names()))
    require(
        list(outputs.shape[: len(expected)]) == expected,
        f"of inputs {given.shape} the network made {tuple(outputs.shape)}, not {tuple(expected)}",
    )
    call("torch.export of the network", torch.export.export, network.eval(), (torch.from_numpy(given),))


def check_cost(specimen: Specimen) -> None:
    """Its number of parameters is true, and its latency is a number."""
    params = specimen.sample().task.params
    if isinstance(specimen.objective, Sized):
        count = call("n_parameters", specimen.objective.n_parameters, params)
        require(isinstance(count, int) and count >= 0, f"n_parameters gave {count!r}; give a whole number")
        trained = specimen.sample().outcomes[-1].metrics.get("parameters", count)
        require(trained == count, f"n_parameters says {count}, and the trained network has {trained:g}")
    if isinstance(specimen.objective, Timed):
        took = float(call("latency_ms", specimen.objective.latency_ms, params, specimen.device))
        require(math.isfinite(took) and took >= 0, f"latency_ms gave {took}; give milliseconds")
