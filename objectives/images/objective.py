"""The image-classification objective: its search space, its networks and its trainings."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from objectives.base import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE, ObjectiveError, Params, Suggest, Task, TestScore, Training
from objectives.data.datasets import Dataset, framing, load_dataset, load_test_split
from objectives.data.names import dataset_slug, may_be_mirrored
from objectives.failures import describe_value
from objectives.images import families, training_params
from objectives.images.baselines import known_configurations, portfolio
from objectives.images.geometry import is_tiny
from objectives.images.training_params import TRAINING_PARAMETERS, choose_epochs, learning_rate, make_recipe, of_network
from objectives.metrics import METRICS, Metric, direction_of, is_unequal, metric_of

if TYPE_CHECKING:  # torch takes seconds to import, and sampling parameters does not need it
    from torch import nn

    from objectives.images.models import InputSpec
    from objectives.images.training.cuda_graphs import GraphCache
    from objectives.images.training.update import TrainingData

LARGE_FROM_IMAGES = 20_000
"""Training splits of at least this size have larger batches, and are evaluated within an epoch."""


class ImageClassification:
    """Classify small images: an MLP, a CNN or a residual network, its optimizer and its augmentation.

    A subclass with `suggest_network` and `build_network` searches its own networks instead; see docs/networks.md.

    `dataset` is a name that `objectives.data.datasets` accepts, and `data_dir` the folder of its files. `metric` is
    what is searched; None: what the class names, which is the accuracy here. `image_size` is pixels a side; None: the
    dataset's own. `data` is the dataset itself, for machines without the files.

    Raises ObjectiveError if `metric` is unknown, if it is given to a subclass with a metric of its own, or if a
    subclass names one of these metrics with the wrong direction.
    """

    metric = "val_accuracy"
    direction: Literal["maximize", "minimize"] = "maximize"
    space_scales = tuple(families.SCALES)
    space_scale = space_scales[-1]
    capture = True

    def __init__(
        self,
        dataset: str = "mnist",
        data_dir: str | None = None,
        *,
        metric: Metric | None = None,
        image_size: int | None = None,
        data: Dataset | None = None,
    ) -> None:
        self.dataset_name, self.image_size, self._asked_metric = dataset, image_size, metric
        self._choose(metric)
        self.data_dir = Path(data_dir) if data_dir else None
        if not hasattr(type(self), "name"):
            self.name = dataset_slug(dataset) + (f"-{type(self).__name__}" if self.has_own_networks else "")
        if image_size is not None and not MIN_IMAGE_SIZE <= image_size <= MAX_IMAGE_SIZE:
            raise ObjectiveError(f"image_size={image_size} is not from {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels")
        self._on_device: dict[str, TrainingData] = {}
        self._graphs: dict[str, GraphCache] = {}
        if data is not None:
            self.dataset = data

    def _choose(self, metric: Metric | None) -> None:
        """Search `metric`; None: that of the class."""
        if metric is not None:
            if metric not in METRICS:
                raise ObjectiveError(f"metric={metric!r} is not one of {', '.join(METRICS)}")
            if metric_of(self.metric) is None:
                both = f"metric={metric!r} is given, but {type(self).__name__} has its own, {self.metric!r}"
                raise ObjectiveError(f"{both}; leave out metric (or --metric), or remove the metric of the class")
            self.metric, self.direction = f"val_{metric}", direction_of(metric)
        elif (ours := metric_of(self.metric)) and self.direction != (direction := direction_of(ours)):
            contrary = f"{type(self).__name__} has metric = {self.metric!r} and direction = {self.direction!r}"
            raise ObjectiveError(f"{contrary}; write direction = {direction!r}, or rename the metric if it is its own")

    def prepare(self) -> None:
        self.dataset = load_dataset(self.dataset_name, self.data_dir, image_size=self.image_size)

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset, which `prepare` has verified, here or in the coordinator."""
        return load_dataset(self.dataset_name, self.data_dir, image_size=self.image_size, download=False, verify=False)

    @property
    def is_large(self) -> bool:
        """Whether an epoch is long enough to be measured in parts."""
        return len(self.dataset.train) >= LARGE_FROM_IMAGES

    @cached_property
    def is_unequal(self) -> bool:
        """Whether the classes are of very unequal size, test images not counted. Trainings may then weigh them."""
        return is_unequal(self.dataset.class_counts.values())

    def portable(self) -> Mapping[str, Any]:
        images, labels = np.asarray(self.dataset.images), np.asarray(self.dataset.labels)  # not mapped from files
        data = replace(self.dataset, images=images, labels=labels)
        arguments = {"dataset": self.dataset_name, "image_size": self.image_size, "metric": self._asked_metric}
        return {**arguments, "data": data}

    def class_names(self) -> tuple[str, ...]:
        return self.dataset.classes

    def validation_images(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        index = self.dataset.validation
        return self.dataset.images[index], self.dataset.labels[index]

    @property
    def n_folds(self) -> int:
        """The dataset's number of folds. 0 for a subclass that trains or validates in its own way and has no folds."""
        return 0 if self._replaces("start") or self._replaces("validation_images") else self.dataset.n_folds

    def fold_images(self, fold: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        index = self.dataset.fold(fold, self.n_folds)
        return self.dataset.images[index], self.dataset.labels[index]

    def dataset_info(self) -> Mapping[str, Any]:
        data = self.dataset
        sizes = {"n_train": len(data.train), "n_validation": len(data.validation), "shape": list(data.images.shape[1:])}
        extent = {"n_test": data.n_test, "classes": data.class_counts, "original_size": data.original_size}
        names = ("name", "digest", "source", "left_out", "image_size", "origins", "test_classes", "duplicates", "notes")
        return {**{name: getattr(data, name) for name in names}, **sizes, **extent}

    def framing(self) -> Mapping[str, Any]:
        return asdict(framing(self.dataset))

    @property
    def searched(self) -> Metric:
        """The metric of a training's value: the accuracy if the class names another metric than ours."""
        return metric_of(self.metric) or "accuracy"

    @property
    def channels(self) -> int:
        """Channels of an image: 1 for grey, 3 for colours."""
        return self.dataset.channels

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        return self.dataset.size

    @property
    def n_classes(self) -> int:
        """Number of classes, which is the number of a network's outputs."""
        return len(self.dataset.classes)

    def suggest_network(self, trial: Suggest) -> Params:
        """Sample the parameters of a network. A subclass gives its own, with `build_network`; or none, as {}."""
        return families.suggest(trial, self.dataset.size, self.space_scale)

    def build_network(self, params: Params) -> nn.Module:
        """Build an untrained network of what `suggest_network` returned.

        It maps normalised images (n, c, h, w), float32, to logits (n, k). Equal parameters must give equal layers.
        """
        if self._replaces("suggest_network") and "family" not in params:
            sampled = f"{type(self).__name__} samples networks in suggest_network"
            raise ObjectiveError(f"{sampled}; add build_network(params), which builds one of them")
        return families.build(self._inputs, params)

    def describe_network(self, params: Params) -> str:
        """A few words for a run's name. A subclass may give its own."""
        if self._replaces("suggest_network"):
            return " ".join(f"{name}={_short(value)}" for name, value in params.items()) or type(self).__name__
        return families.describe(params)

    @property
    def has_own_networks(self) -> bool:
        """Whether a subclass samples or builds the networks."""
        return self._replaces("suggest_network") or self._replaces("build_network")

    def _replaces(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(ImageClassification, method)

    def check(self, params: Params) -> None:
        """Raise ObjectiveError if an own network cannot be built, trained or registered. Ours need no check."""
        if not self.has_own_networks:
            return
        from objectives.images.own_networks import check_network

        check_network(type(self), lambda: self.build_model(params), self._inputs)

    def suggest(self, trial: Suggest) -> Params:
        """Sample one configuration: of the network, then of its training."""
        earlier = set(getattr(trial, "params", ()))
        network = self.suggest_network(trial)
        if not isinstance(network, Mapping):
            hint = ": return is missing" if network is None else ""
            raise ObjectiveError(f"suggest_network gave {describe_value(network)}; give a dict of parameters{hint}")
        asked = set(getattr(trial, "params", ())) - earlier
        if taken := TRAINING_PARAMETERS & (asked | network.keys()):
            shown, advice = ", ".join(sorted(taken)), f"use another name, such as network_{min(taken)}"
            raise ObjectiveError(f"suggest_network uses {shown}, which every training has as a parameter; {advice}")
        traits = {"may_flip": may_be_mirrored(self.dataset_name), "is_unequal": self.is_unequal}
        large_batches = self.is_large or is_tiny(self.size)
        return {**network, **training_params.suggest(trial, large_batches=large_batches, **traits)}

    def may_propose(self, params: Params, narrowed: Set[str]) -> bool:
        """A constant learning rate is for the tutorials' baselines, unless the user asks for it."""
        return self._replaces("suggest") or params["schedule"] != "constant" or "schedule" in narrowed

    def baselines(self) -> Mapping[str, Params]:
        """Configurations of our networks. A subclass that samples others has none, unless it gives its own."""
        if self._replaces("suggest_network"):
            return {}
        balanced = self.searched in ("balanced_accuracy", "macro_f1")  # small classes count as much as large ones
        may_flip, is_weighted = may_be_mirrored(self.dataset_name), self.is_unequal
        traits = {"may_flip": may_flip, "is_weighted": is_weighted, "balanced": balanced}
        return known_configurations(self.size, self.channels, width=families.max_cnn_width(self.space_scale), **traits)

    def portfolio(self) -> Sequence[Params]:
        """Configurations that did well on similar data. A subclass with another space has none."""
        is_ours = not self._replaces("suggest_network") and not self._replaces("suggest")
        return portfolio(self.channels, is_large=self.is_large) if is_ours else ()

    def choose_space_scale(self, device: str, free_bytes: int) -> str:
        return families.choose_scale(device, free_bytes, self.channels, is_large=self.is_large)

    def epochs(self, device: str) -> int:
        return choose_epochs(len(self.dataset.train), (self.channels, *self.size), device, is_large=self.is_large)

    def refit_epochs(self, epochs: int) -> int:
        times, most = (4, 32) if is_tiny(self.size) else (12, 24)  # 36 did not help on CIFAR-10
        return min(times * epochs, max(2 * epochs, most))

    def steps_per_epoch(self) -> int:
        """Parts of long epochs, so a bad configuration is pruned early: quarters for grey images, else halves."""
        return (4 if self.channels == 1 else 2) if self.is_large else 1

    def fingerprint(self) -> Mapping[str, str]:
        size = {} if self.image_size is None else {"--image-size": str(self.image_size)}
        return {"dataset": self.dataset.digest, **size}

    def describe(self, params: Params) -> str:
        mantissa, exponent = f"{learning_rate(params):.1e}".split("e")
        return f"{self.describe_network(of_network(params))} {params['optimizer']} {mantissa}e{int(exponent)}"

    def n_parameters(self, params: Params) -> int:
        """Weights and biases of a configuration's network, built on torch's `meta` device: no memory, no numbers."""
        import torch

        try:
            with torch.device("meta"):
                model = self.build_model(params)
        except Exception:
            if not self._replaces("build_network"):
                raise
            model = self.build_model(params)  # own networks may need numbers, for example those of torch.linspace
        return sum(weight.numel() for weight in model.parameters())

    def latency_ms(self, params: Params, device: str) -> float:
        from objectives.images.latency import latency_ms
        from objectives.images.models import predictor

        model = predictor(self.build_model(params), flip=bool(params.get("flip")))
        return latency_ms(model, (self.dataset.channels, *self.dataset.size), device)

    def build_model(self, params: Params) -> nn.Module:
        """The untrained network behind the normalisation: (n, c, h, w) in [0, 1] to logits (n, k)."""
        from objectives.images.models import normalised

        network: Any = self.build_network(of_network(params))
        if not self._replaces("build_network"):
            return normalised(self._inputs, network)
        from objectives.images.own_networks import own_network

        return own_network(self._inputs, network, of_network(params))

    def start(self, task: Task, device: str) -> Training:
        import torch

        from objectives.images.own_networks import takes_channels_last
        from objectives.images.training.loop import ImageTraining

        if task.refit and device == "cpu" and is_tiny(self.size) and not self.has_own_networks:
            torch.set_num_threads(1)  # a second thread makes steps longer, 7.4 instead of 7.1 ms for 8x8 pixels
        torch.manual_seed(task.seed)
        model = self.build_model(task.params)
        if not self._replaces("build_network") or takes_channels_last(model, self._inputs):
            model = model.to(memory_format=torch.channels_last)
        data = self._data(device)
        if task.refit:
            data = data.of_refit()
        elif task.fold is not None:
            data = data.of_fold(self.dataset.fold(task.fold, self.n_folds))
        counts = np.bincount(self.dataset.labels[data.train.numpy()], minlength=self.n_classes).tolist()
        recipe, graphs = make_recipe(task.params, counts), self._graph_cache(device)
        return ImageTraining(
            data, model, recipe, task, steps_per_epoch=self.steps_per_epoch(), graphs=graphs, metric=self.searched
        )

    def score_test(self, model: nn.Module, device: str) -> TestScore:
        import torch

        from objectives.images.training.loop import evaluate

        images, labels = load_test_split(self.dataset_name, self.data_dir, self.image_size)
        tensors = (torch.tensor(array, device=device) for array in (images, labels, np.arange(len(labels))))
        loss, accuracy, probabilities = evaluate(model.to(device), *tensors)
        return TestScore(accuracy, loss, images, labels, probabilities.cpu().numpy())

    def load_weights(self, params: Params, weights: bytes) -> nn.Module:
        import torch

        from objectives.images.models import predictor

        model = self.build_model(params)
        model.load_state_dict(torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True))
        return predictor(model, flip=bool(params.get("flip"))).eval()

    @cached_property
    def _inputs(self) -> InputSpec:
        from objectives.images.models import InputSpec

        return InputSpec.of(self.dataset)

    def _data(self, device: str) -> TrainingData:
        """The splits on `device`, kept for the next training there."""
        from objectives.images.training.update import TrainingData

        if device not in self._on_device:
            self._on_device[device] = TrainingData.of(self.dataset, device)
        return self._on_device[device]

    def _graph_cache(self, device: str) -> GraphCache | None:
        """The CUDA graphs on `device`, kept for the next training there. Without captures it computes the same."""
        if not device.startswith("cuda"):
            return None
        from objectives.images.training.cuda_graphs import CudaGraphRecorder, GraphCache

        if device not in self._graphs:
            self._graphs[device] = GraphCache(CudaGraphRecorder(device) if self.capture else None)
        return self._graphs[device]


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
