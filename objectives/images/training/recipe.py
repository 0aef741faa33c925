"""How a network is trained, as plain data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """The sampled hyperparameters of a training."""

    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"]
    lr: float
    """The peak, if the schedule has one."""
    batch_size: int
    weight_decay: float = 0.0
    momentum: float = 0.0
    """SGD only; Nesterov's form when positive."""
    schedule: Literal["one_cycle", "constant"] = "one_cycle"
    augmentation: float = 0.0
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    """Factors of the losses of each class's images, (k,). None: all weigh 1.

    The loss of a batch is the sum of its weighted losses, divided by the number of its images. What is reported as
    train/loss is not weighted, so that it can be compared with that of other trainings.
    """
