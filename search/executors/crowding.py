"""How many trainers pay on a GPU: as many as its memory bears and make the whole faster, found by trying."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

PER_GPU = 8
"""More are not tried: each needs a core to itself and a CUDA context of about half a GiB."""

TRAINER_BYTES = 2**30
"""Room that a trainer finds when it starts: a small network, its optimizer and some recordings need a part of it."""

PROBE_S = 0.4
SLOW = 1.0
"""Pulls a second of one trainer. Where a pull takes longer, trying crowds would cost more than the best one gains."""

GAIN = 0.1
"""A larger crowd must train this much faster, as a share, to be worth its memory and its cores."""


@dataclass(frozen=True)
class Crowd:
    """What was chosen, and why."""

    trainers: int
    why: str


def most_trainers(cores: int, gpus: int) -> int:
    """How many to start: one per core; on GPUs no more than are tried, and at least one for each."""
    return max(gpus, min(cores, PER_GPU * gpus)) if gpus else cores


def affordable(trainers: int, free_bytes: int) -> int:
    """How many of a GPU's `trainers`, all set up, `free_bytes` of its memory bear; at least one."""
    return max(1, min(trainers, free_bytes // TRAINER_BYTES))


def together(trainers: Sequence[tuple[float, Sequence[float]]]) -> float:
    """Pulls a second of all `trainers`, counted while every one of them was at work; 0 where there was no such time.

    Each is given by when it began and when its pulls came, in seconds. One that is alone before the others begin, or
    after they end, would make any crowd look fast.
    """
    start = max(began for began, _ in trainers)
    end = min(max(pulled, default=began) for began, pulled in trainers)
    pulls = sum(start < at <= end for _, pulled in trainers for at in pulled)
    return pulls / (end - start) if end > start else 0.0


def grow(rate: Callable[[int], float], most: int, *, step: int = 1) -> Crowd:
    """Double the crowd as long as that pays, up to `most`.

    `rate` measures a crowd of so many, in anything per second, and gives 0 where it failed. `step`: the smallest
    crowd, one trainer on every GPU.
    """
    chosen, found = step, rate(step)
    if 0 < found < SLOW * step and chosen < most:
        return Crowd(chosen, "more were not tried: a step takes longer than a second")
    while chosen < most:
        larger = min(2 * chosen, most)
        then = rate(larger)
        if then <= (1 + GAIN) * found:
            slower = f"{larger} were {then / found:.2f} times as fast" if found else "the measurement failed"
            return Crowd(chosen, slower)
        chosen, found = larger, then
    return Crowd(chosen, "as many as cores and memory bear")
