"""How a network is trained, as plain data: the sampled recipe and the numerics."""

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


@dataclass(frozen=True)
class Numerics:
    """Precision and memory format. Weights, optimizer and loss are always float32.

    bfloat16 exists for comparison. Networks this small spend their time on starting kernels and moving memory, and
    casts add to both.
    """

    precision: Literal["float32", "tf32", "bfloat16"] = "tf32"
    """For matrix products and convolutions. `tf32` is float32 on devices without TF32; `bfloat16` uses autocast."""
    channels_last: bool = True
    """Memory format of convolutions. On the CPU it makes the strong CNN 1.38 times as fast: 79 ms a batch, not 109.

    (Medians of 15 alternating pairs of 4 batches of 128 MNIST images, thread time, Xeon 2.5 GHz, torch 2.15.)
    """
    deterministic: bool = True
    """Use only algorithms of cuDNN that give one seed the same weights every time. MLPs do that anyway."""


DEFAULT_NUMERICS = Numerics()
