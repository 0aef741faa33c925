"""Row 8: what several workers do on one GPU."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from contextlib import closing

from objectives.base import Params, Task
from objectives.images.objective import ImageClassification
from objectives.spec import ObjectiveSpec
from search.common.system import environment
from search.executors.base import EpochDone, Executor, Failed, Finished
from search.executors.local import LocalExecutor
from search.executors.mps import WITHOUT_MPS, Mps
from tests.benchmarks.gpu_bench import FAMILIES, MLP, Bench, Lines, sampled
from tests.benchmarks.measure import Line, Skipped, sample

WAIT_S = 120.0


def start(bench: Bench) -> Lines:
    """How long a search waits for its workers, and for the choice of their number."""
    objective = ImageClassification(bench.dataset)
    objective.prepare()
    tasks = [Task(0, params, 1, 16) for params in (MLP, [*objective.baselines().values()][-1])]
    spec = ObjectiveSpec("objectives.images:ImageClassification", {"dataset": bench.dataset})
    begun = time.perf_counter()
    with closing(LocalExecutor(spec, bench.device, None)) as executor:
        devices = executor.ready()
        ready = time.perf_counter()
        yield Line(8, f"{len(devices)} workers are ready", "s", sample([ready - begun]), higher_is_better=False)
        choice = executor.tune_workers(tasks)
        seconds = sample([time.perf_counter() - ready])
    yield Line(8, "choice of their number", "s", seconds, higher_is_better=False, notes={"choice": choice or "none"})


def workers(bench: Bench, *, mps: bool, families: Sequence[str] = tuple(FAMILIES)) -> Lines:
    """Trials a minute of sampled settings that some numbers of workers train, the time between trials included.

    Other workers are idle meanwhile. All numbers of workers train the same settings, with CUDA graphs of their own.
    """
    device, counts = bench.device, bench.counts
    objective = ImageClassification(bench.dataset)
    objective.prepare()
    spec = ObjectiveSpec("tests.benchmarks.objectives:Anew", {"dataset": bench.dataset})
    with closing(Mps(device if mps else "cpu", counts[-1])) as sharing:
        if sharing.problem:
            raise Skipped(sharing.problem)
        variables = sharing.variables if mps else WITHOUT_MPS
        with environment(variables), closing(LocalExecutor(spec, device, counts[-1])) as executor:
            executor.ready()
            seeds = itertools.count(1)
            how = "" if device == "cpu" else f" {'with' if mps else 'without'} CUDA MPS"
            for family in families:
                least = bench.options.size(FAMILIES[family], 1)
                settings = sampled(objective, family, 2 * counts[-1] + least)
                trials_per_minute(executor, counts[-1], settings, 1, next(seeds), 1)  # libraries are loaded
                rates: dict[int, float] = {}
                for n in counts:
                    name = f"{family}: {n} worker{'s' if n > 1 else ''}{how}"
                    if bench.options.left_s <= 0:
                        yield Skipped(f"{name}: not measured, since no time was left")
                        continue
                    trials = max(least, bench.options.size(2 * n, 1))
                    rates[n], notices = trials_per_minute(executor, n, settings, trials, next(seeds), bench.epochs)
                    if family == "mlp" and (bench.mlp is None or rates[n] > bench.mlp[1]):
                        bench.mlp = name, rates[n]
                    one = sample([rates[1]]) if n > 1 else None
                    notes = {"trials": trials, "epochs": bench.epochs, "theirs": "one worker"} if one else {}
                    notes |= {"notices": sorted(notices)} if notices else {}
                    yield Line(8, name, "trials/min", sample([rates[n]]), one, notes=notes)


def trials_per_minute(
    executor: Executor, n_workers: int, settings: Sequence[Params], trials: int, seed: int, epochs: int
) -> tuple[float, set[str]]:
    """Keep the first workers busy until so many trials are done. Of those under way, the measured epochs count too.

    Also gives the notices of the trainings. Raises RuntimeError when a trial fails, unless it diverges.
    """
    tasks = (Task(number, params, seed, epochs) for number, params in enumerate(itertools.cycle(settings)))
    done, trained, notices = 0, dict.fromkeys(range(n_workers), 0.0), set()
    begun = time.perf_counter()
    for slot in trained:
        executor.start(slot, next(tasks))
    while done < trials:
        for slot, event in listen(executor):
            match event:
                case EpochDone(result):
                    notices |= {result.notice} if result.notice else set()
                    trained[slot] = result.epoch if result.value is not None else trained[slot]
                    executor.advance(slot)
                case Finished() | Failed("diverged"):
                    done, trained[slot] = done + 1, 0.0
                    executor.start(slot, next(tasks))
                case _:
                    raise RuntimeError(f"worker {slot} answered {event}")
    rate = (done + sum(trained.values()) / epochs) / ((time.perf_counter() - begun) / 60)
    busy = set(trained)
    while busy:
        for slot, event in listen(executor):
            if isinstance(event, EpochDone):
                executor.stop(slot)
            else:
                busy.discard(slot)
    return rate, notices


def listen(executor: Executor) -> list[tuple[int, object]]:
    """What workers answer. Raises RuntimeError when none answers for long."""
    events = executor.wait(WAIT_S)
    if not events:
        raise RuntimeError(f"no worker answered for {WAIT_S:g} s")
    return list(events)
