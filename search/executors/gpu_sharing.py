"""How many workers share a GPU: as many as fit its memory and make training faster, found by measuring.

On NVIDIA GPUs several workers are of use only with `search.executors.mps`.
"""

from collections.abc import Callable, Sequence

MAX_WORKERS_PER_GPU = 8  # each needs a core of its own and a CUDA context of about half a GiB
WORKER_BYTES = 2**30  # GPU memory of a worker: a small network, its optimizer and some recordings fit well
MEASURE_S = 0.4
SLOW_PULLS_PER_S = 1.0  # if one worker is slower, measuring more of them costs more time than it can save
MIN_GAIN = 0.1  # a larger number of workers must be faster by this share to be worth its memory and cores


def max_workers(cores: int, gpus: int, per_gpu: int = MAX_WORKERS_PER_GPU) -> int:
    """Return how many workers to start: one per core, on GPUs at least one and at most `per_gpu` per GPU."""
    return max(gpus, min(cores, per_gpu * gpus)) if gpus else cores


def fit_memory(workers: int, free_bytes: int) -> int:
    """Return how many of a GPU's `workers` fit into `free_bytes` of its memory; at least one."""
    return max(1, min(workers, free_bytes // WORKER_BYTES))


def joint_rate(workers: Sequence[tuple[float, Sequence[float]]]) -> float:
    """Return the pulls per second of all `workers` during the time in which all of them trained; 0 without such time.

    Each worker is given by its start and the times of its pulls, in seconds. Times at which only some of the workers
    trained are left out, because they would make any number of workers look fast.
    """
    start = max(started for started, _ in workers)
    end = min(max(pulls, default=started) for started, pulls in workers)
    n_pulls = sum(start < at <= end for _, pulls in workers for at in pulls)
    return n_pulls / (end - start) if end > start else 0.0


def choose_workers(rate: Callable[[int], float], most: int, *, step: int = 1) -> tuple[int, str]:
    """Double the number of workers as long as training becomes faster, up to `most`. Returns it and the reason.

    `rate` measures a number of workers, in anything per second, and returns 0 when that fails. `step` is the smallest
    number: one worker on every GPU.
    """
    workers, best = step, rate(step)
    if 0 < best < SLOW_PULLS_PER_S * step and workers < most:
        return workers, "more were not tried: a step takes longer than a second"
    while workers < most:
        larger = min(2 * workers, most)
        faster = rate(larger)
        if faster <= (1 + MIN_GAIN) * best:
            reason = f"{larger} were {faster / best:.2f} times as fast" if best else "the measurement failed"
            return workers, reason
        workers, best = larger, faster
    return workers, "as many as cores and memory allow"
