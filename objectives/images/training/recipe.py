"""How a network is trained, as plain data: the recipe that a trial samples, and the precision it is computed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"]
    lr: float
    """The peak, where the schedule has one."""
    batch_size: int
    weight_decay: float = 0.0
    momentum: float = 0.0
    """SGD only, in Nesterov's form when positive."""
    schedule: Literal["one_cycle", "constant"] = "one_cycle"
    augmentation: float = 0.0
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Numerics:
    """How an update computes. Weights, optimizer and loss are float32 in any case.

    bfloat16 is there to be compared. In networks this small, starting kernels and moving memory takes the time, and
    casts add to both.
    """

    precision: Literal["float32", "tf32", "bfloat16"] = "tf32"
    """For matrix products and convolutions. `tf32` is float32 on devices without TF32; `bfloat16` uses autocast."""
    channels_last: bool = True
    """Memory format of convolutions. On the CPU it makes the strong CNN 1.38 times as fast: 79 ms a batch, not 109.

    (Medians of 15 alternating pairs of 4 batches of 128 MNIST images, one thread's own time beside other work, Xeon 2.5
    GHz, torch 2.15.)
    """


DEFAULT = Numerics()
