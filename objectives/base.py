"""The contract between a search and the thing it optimises.

A search asks an `Objective` for parameters and for a `Training`, then pulls that training one `EpochResult` at a
time. Pruning means not to pull again, so an objective knows nothing of pruning, storage or tracking. Only plain data
is exchanged, so the same objective runs in this process, in another one or on another machine.

A `Training` is used by one thread of one process. The caller of `start` drops it when done; there is nothing to close.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

ParamValue = bool | int | float | str | None
Params = dict[str, ParamValue]
Direction = Literal["maximize", "minimize"]

Metric = Literal["accuracy", "balanced_accuracy", "macro_f1", "log_loss"]
METRICS: tuple[Metric, ...] = get_args(Metric)
"""The figures of merit of an image classifier that a search can improve."""
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 8, 224
"""Limits of the pixels a side to which images are resized."""
MAX_DUPLICATES = 1_000
"""Number of duplicates that `ImageClassifier.dataset_info` lists."""


class ObjectiveError(Exception):
    """The objective cannot be made from the user's input. Users see the message."""


class DatasetError(ObjectiveError):
    """A dataset is unknown, missing, damaged or unusable."""


class DatasetUnavailableError(DatasetError):
    """The files of a dataset are missing and cannot be downloaded."""


class PictureError(ObjectiveError):
    """A file cannot be read safely as an image."""


class DeviceError(ObjectiveError):
    """The requested device does not exist."""


class Diverged(Exception):
    """The loss of a training became NaN or infinite. This trial ends, and the search goes on."""


class CaptureError(Exception):
    """A training cannot be captured as a CUDA graph. It begins again in another process, which captures nothing."""


@dataclass(frozen=True)
class Task:
    """One training to do."""

    number: int
    params: Params
    seed: int
    epochs: int
    checkpoint: bytes | None = None
    """A result of `Training.checkpoint` to resume from."""
    refit: bool = False
    """Train on the training and validation splits together, and measure only the training. It runs alone."""
    fold: int | None = None
    """Train on all images but those of this fold, which is scored. See `Foldable`."""
    max_latency_ms: float | None = None
    """Measure the time of one prediction, and do not train if it takes longer. None: do not measure."""


@dataclass(frozen=True)
class EpochResult:
    """The result of one pull of a training: one step, which is an epoch or a fixed fraction of one."""

    step: int
    """Steps trained so far, 1-based; the unit in which pruners count."""
    epoch: float
    """The position after this step, in epochs."""
    value: float | None
    """The objective's metric, or None if this step did not measure it. NaN means that the training diverged."""
    metrics: Mapping[str, float]
    """Measured curve points, named `group/name`. One that is not a finite number is left out."""
    train_seconds: float
    """Seconds of pure training, evaluation excluded. An asynchronous device may report several pulls together."""
    notice: str | None = None
    """A notice for the user about how this worker trains, given once."""


@dataclass(frozen=True)
class Outcome:
    """The results of a training that ran to its end or was stopped early."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    weights: bytes | None = None
    """A state_dict in torch's zip format that `torch.load(..., weights_only=True)` reads."""
    predictions: NDArray[np.float32] | None = None
    """Validation class probabilities, shape (n, k), in the order of the validation split, or of `Task.fold`."""


class Suggest(Protocol):
    """The part of `optuna.Trial` that a search space may use.

    Bounds are numbers, of numpy too. Choices are texts, numbers, True, False or None.
    """

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


class Training(Protocol):
    """An iterator over one trial's training."""

    def __next__(self) -> EpochResult:
        """Train one step. Raises StopIteration at the end, `Diverged` when the loss is not finite."""

    def checkpoint(self) -> bytes:
        """State to resume from, between two pulls; readable with `weights_only=True`."""

    def outcome(self) -> Outcome:
        """The results so far. May be called after any pull."""


class Objective(Protocol):
    """The thing that a search optimises."""

    name: str
    """Part of the study's default name and the registered model's name."""
    metric: str
    direction: Direction

    def suggest(self, trial: Suggest) -> Params:
        """Sample one configuration. Called in the coordinator, so it must be quick.

        It is called again with the values of a stored trial, and must then return the same parameters.
        """

    def start(self, task: Task, device: str) -> Training:
        """Begin or resume a training on `device` (`cpu`, `cuda:0`, `mps`).

        The objective may keep data on the device between trainings; it is made again after a training that ran out of
        memory. On a GPU some trainings are abandoned, to find out how many workers pay off.
        """

    def baselines(self) -> Mapping[str, Params]:
        """Known-good configurations by name, tried first."""

    def epochs(self, device: str) -> int:
        """Default number of epochs of a trial on `device`."""

    def steps_per_epoch(self) -> int:
        """Number of pulls in an epoch."""

    def fingerprint(self) -> Mapping[str, str]:
        """Facts that must be equal for two values to be comparable, such as the dataset's digest.

        The study itself checks the space. Changes of the code, such as another network, are not noticed.
        """

    def describe(self, params: Params) -> str:
        """A few words for a run's name, such as `cnn-3x32 adamw 3.1e-3`."""


@runtime_checkable
class Bounded(Protocol):
    """Optional part of an objective: its metric has a smallest or a largest possible value."""

    metric_range: tuple[float | None, float | None]
    """The smallest and the largest possible value; None for no limit. For example (0, 1). Intervals end there."""


@runtime_checkable
class Capturing(Protocol):
    """Optional part of an objective: its trainings are captured as CUDA graphs, and may raise `CaptureError`."""

    capture: bool
    """Whether they are captured. False in a worker that takes the place of one whose capture failed."""


@runtime_checkable
class Checkable(Protocol):
    """Optional part of an objective: it can find mistakes in a configuration before a search begins."""

    def check(self, params: Params) -> None:
        """Raise ObjectiveError if no search can train `params`, an example. Called in the coordinator."""


@runtime_checkable
class Scaled(Protocol):
    """Optional part of an objective: it samples larger networks on a larger device.

    A study has one scale, chosen when its first workers are ready.
    """

    space_scales: Sequence[str]
    """The names of the scales. The last one's space contains those of the others."""
    space_scale: str
    """The scale of what `suggest` samples, set by the search: "" for a study that began before there were scales."""

    def choose_space_scale(self, device: str, free_bytes: int) -> str:
        """The scale for workers on `device` with this much free memory; 0 if it is unknown, as on the CPU."""


@runtime_checkable
class Selective(Protocol):
    """Optional part of an objective: some configurations of its space are not for samplers."""

    def may_propose(self, params: Params, narrowed: Set[str]) -> bool:
        """Whether a sampler may propose this configuration. If not, it samples another one, which costs no trial.

        `narrowed`: names of the parameters that the user has fixed or narrowed. Baselines and other configurations
        that are tried first are not asked about. Called in the coordinator for every sampled configuration.
        """


@runtime_checkable
class Experienced(Protocol):
    """Optional part of an objective: configurations that have done well on similar data."""

    def portfolio(self) -> Sequence[Params]:
        """Configurations to try after the baselines, best first. What they leave out is sampled.

        Unlike baselines they may be pruned. One that does not fit the space or the limits of a search is left out.
        """


@runtime_checkable
class Sized(Protocol):
    """Optional part of an objective: the size of its networks can be limited."""

    def n_parameters(self, params: Params) -> int:
        """Number of weights of a configuration's network. Called in the coordinator for every sampled configuration.

        Counting takes milliseconds if the network is built on torch's `meta` device.
        """


@runtime_checkable
class Timed(Protocol):
    """Optional part of an objective: the latency of its models can be limited."""

    def latency_ms(self, params: Params, device: str) -> float:
        """Time of one prediction of a configuration's untrained model on `device`. Called in a worker.

        `objectives.images.latency.latency_ms` measures a torch module.
        """


@runtime_checkable
class Portable(Protocol):
    """Optional part of an objective: its workers may run on machines without its files."""

    def portable(self) -> Mapping[str, Any]:
        """Keyword arguments that make the same objective there, including its data. Called once, in the coordinator.

        numpy arrays are copied once to each machine; its workers share them, read-only.
        """


@dataclass(frozen=True)
class TestScore:
    """Scores of one model on the test split."""

    __test__ = False  # tells pytest that this is not a test class

    accuracy: float
    loss: float
    images: NDArray[np.uint8]
    """Shape (n, c, h, w)."""
    labels: NDArray[np.int64]
    """True classes, shape (n,)."""
    probabilities: NDArray[np.float32]
    """Shape (n, k)."""


@runtime_checkable
class ImageClassifier(Protocol):
    """Optional part of an objective: it classifies images. The search tests, exports and registers the winner."""

    def prepare(self) -> None:
        """Download and verify the dataset. Called once, before anything else. Raises DatasetError."""

    def class_names(self) -> tuple[str, ...]:
        """Names of the k classes, in the order of the network's outputs."""

    def load_weights(self, params: Params, weights: bytes) -> torch.nn.Module:
        """A trained network on the CPU, in evaluation mode: float32 (n, c, h, w) in [0, 1] to class logits (n, k)."""

    def validation_images(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images (n, c, h, w) and labels (n,) of the validation split."""

    def refit_epochs(self, epochs: int) -> int:
        """Epochs of the winner's refit if trials trained for `epochs`."""

    def score_test(self, model: torch.nn.Module, device: str) -> TestScore:
        """Score a trained network on the test split. The only method that reads it.

        The network may be one of `load_weights`, or an ensemble of several, inside a module that divides its logits by
        a temperature.
        """

    def dataset_info(self) -> Mapping[str, Any]:
        """For tracking: `name`, `digest` (at most 36 characters), `source`, `n_train`, `n_validation`, `shape`.

        If known, also `n_test`, `classes` (images by class, test split excluded), `original_size` (median (h, w) of
        resized images), `left_out` (a sentence about files that are not in the dataset), and `image_size`, `origins`,
        `test_classes`, `duplicates` and `notes` as in `objectives.data.datasets.Dataset`.
        """

    def framing(self) -> Mapping[str, Any]:
        """The fields of `objectives.data.files.image_files.Framing`: how an image must be framed for the network."""


@runtime_checkable
class Foldable(Protocol):
    """Optional part of an `ImageClassifier`: its best configurations are confirmed by folds, not by seeds on one split.

    The data alone divide all images for training and validation into folds. Fold i is in division i // n_folds.
    """

    n_folds: int
    """Folds in a division, at least 2; 0: confirm by seeds."""

    def fold_images(self, fold: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images (n, c, h, w) and labels (n,) of a fold, in the order of predictions if `Task.fold` is this fold."""


@runtime_checkable
class Exportable(Protocol):
    """Optional part of an objective that is not an `ImageClassifier`: its winner can be registered."""

    def load_weights(self, params: Params, weights: bytes) -> torch.nn.Module:
        """A trained network on the CPU, in evaluation mode: one tensor to one tensor, with n as first dimension."""

    def example_input(self) -> NDArray[np.float32]:
        """A few inputs of the network, shape (n, ...), n >= 2."""
