"""How many workers share a GPU: as many as fit its memory and make training faster, found by measuring.

On NVIDIA GPUs more than two are of use only with `search.executors.mps`.
"""

from collections.abc import Callable, Sequence
from statistics import geometric_mean

from objectives.base import Task

MAX_WORKERS_PER_GPU = 8  # each needs a core of its own and a CUDA context of about half a GiB
TURNS_PER_GPU = 2  # where workers take turns, one trains while the other is between two trials
WORKER_BYTES = 3 * 2**30  # GPU memory of a worker: of our networks for 32x32 pixels, the widest need 2 GiB to train
MEASURE_S = 0.2
SLOW_PULLS_PER_S = 1.0  # of a worker; if it is slower, measuring costs more time than more workers can save
MIN_GAIN = 0.2  # half of it is worth the memory and cores of more workers, half may be noise


def max_workers(cores: int, gpus: int, per_gpu: int = MAX_WORKERS_PER_GPU) -> int:
    """Return how many workers to start: one per core, on GPUs at least one and at most `per_gpu` per GPU."""
    return max(gpus, min(cores, per_gpu * gpus)) if gpus else cores


def choose_workers(
    rate: Callable[[int, Task, float], float], tasks: Sequence[Task], most: int, *, gpus: int = 1
) -> tuple[int, str]:
    """Double the number of workers, from two per GPU up to `most`, as long as training becomes faster.

    Returns the number and the reason; one worker per GPU if two fail. `rate` measures for about some seconds how many
    pulls of a task a number of workers do per second, and returns 0 when that fails. The geometric mean over `tasks`
    must grow by `MIN_GAIN`. While noise is a few percent, that excludes it better than two measurements that must both
    gain half as much, and takes half the time.
    """
    workers, best = gpus, 0.0
    while workers < most:
        larger, rates = min(2 * workers, most), []
        for task in tasks:
            # First load libraries and capture CUDA graphs. Workers that cannot capture the task are replaced.
            is_warm = rate(larger, task, 0.0) or rate(larger, task, 0.0)
            measured = rate(larger, task, MEASURE_S) if is_warm else 0.0
            if not measured:
                return workers, f"{larger} failed when they were measured"
            rates.append(measured)
            if not best and measured < SLOW_PULLS_PER_S * larger:
                return larger, "more were not tried: a step takes longer than a second"
        faster = geometric_mean(rates)
        if faster <= (1 + MIN_GAIN) * best:
            return workers, f"{larger} were {faster / best:.2f} times as fast"
        workers, best = larger, faster
    return workers, "as many as cores and memory allow"
