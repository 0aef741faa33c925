"""How a network is trained, as plain data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """The sampled hyperparameters of a training. Strengths are from 0 to 1."""

    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"]
    lr: float
    """The peak, if the schedule has one."""
    batch_size: int
    weight_decay: float = 0.0
    """It shrinks matrices and kernels, but not biases or the parameters of normalisation."""
    momentum: float = 0.0
    """SGD only; Nesterov's form when positive."""
    schedule: Literal["one_cycle", "constant"] = "one_cycle"
    averaging: float = 0.0
    """Time constant of the moving average of the weights, as a share of the training. 0: no average."""
    rotation_zoom: float = 0.0
    """Strength of a random rotation and a random zoom."""
    translation: float = 0.0
    """Strength of a random shift."""
    flip: bool = False
    """Mirror half of the images, left to right."""
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    """Factors of the losses of each class's images, (k,). None: all weigh 1.

    The loss of a batch is the sum of its weighted losses, divided by the number of its images. What is reported as
    train/loss is not weighted, so that it can be compared with that of other trainings.
    """

    @property
    def is_augmented(self) -> bool:
        """Whether images are moved or mirrored."""
        return self.flip or self.rotation_zoom > 0 or self.translation > 0

    @property
    def strengths(self) -> dict[str, float]:
        """Strengths of random changes, by name."""
        return {"rotation_zoom": self.rotation_zoom, "translation": self.translation}
