"""What a GPU does with this trainer, in about two minutes: `python -m tests.benchmarks.gpu_probe`.

Every line is printed as soon as it is known: microseconds a batch, with deterministic algorithms of cuDNN and with any;
what a new structure costs; whether one seed gives the same weights twice; trials a minute of sampled settings; and
pulls a second of several workers without and with CUDA MPS.
"""

from __future__ import annotations

import contextlib
import io
import time

import optuna
import torch

from objectives.base import Diverged, Params, Task
from objectives.images.baselines import STRONG, TUTORIAL, TUTORIAL_MLP
from objectives.images.objective import ImageClassification
from objectives.images.training.loop import ImageTraining
from objectives.spec import ObjectiveSpec
from search.common.system import environment
from search.executors.local import LocalExecutor
from search.executors.mps import PIPES

DEVICE = "cuda:0"
MLP: Params = {**TUTORIAL, **TUTORIAL_MLP, "optimizer": "adam", "adam_lr": 1e-3, "batch_size": 128}
SETTINGS: dict[str, Params] = {
    "MLP": {**MLP},
    "MLP, dropout, augmentation": {**MLP, "mlp_dropout": 0.2, "augmentation": 0.5},
    "CNN": {**STRONG, "cnn_dropout": 0.0, "augmentation": 0.0},
    "CNN, dropout, augmentation": {**STRONG},
}


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def train(objective: ImageClassification, params: Params, epochs: int, seed: int = 1) -> tuple[float, ImageTraining]:
    """Train to the end. Returns the seconds of the first pull and the training."""
    begun = time.perf_counter()
    training = objective.start(Task(0, dict(params), seed, epochs), DEVICE)
    assert isinstance(training, ImageTraining)
    results = [next(training)]
    torch.cuda.synchronize()
    first_s = time.perf_counter() - begun
    with contextlib.suppress(Diverged, StopIteration):
        while True:
            results.append(next(training))
    for result in results:
        if result.notice:
            say(f"   notice: {result.notice}")
    return first_s, training


def weights(training: ImageTraining) -> list[torch.Tensor]:
    """The weights at the end."""
    content = training.outcome().weights
    assert content is not None
    return list(torch.load(io.BytesIO(content), weights_only=True).values())


def batches(objective: ImageClassification, settings: dict[str, Params]) -> None:
    """What a batch and a structure cost, with CUDA graphs."""
    for label, params in settings.items():
        first_s, training = train(objective, params, 3)
        batch_s = training.metrics["seconds"] / training.update.batches
        kept, captured = weights(training), training.update.replay is not None
        pulled = training.update.batches / objective.steps_per_epoch()
        del training
        again_s, training = train(objective, params, 3)
        batch_s = min(batch_s, training.metrics["seconds"] / training.update.batches)
        same = all(torch.equal(a, b) for a, b in zip(kept, weights(training), strict=True))
        del training
        say(
            f"{label}: {1e6 * batch_s:.0f} us a batch, {'captured' if captured else 'CALLED'}; a new structure costs "
            f"{1e3 * (first_s - pulled * batch_s):.0f} ms, one seen before {1e3 * (again_s - pulled * batch_s):.0f}; "
            f"one seed twice gives the same weights: {same}"
        )


def calls(dataset: str) -> None:
    """What a batch costs without CUDA graphs."""
    objective = ImageClassification(dataset)
    objective.capture = False
    objective.prepare()
    for label, params in SETTINGS.items():
        training = train(objective, params, 2)[1]
        say(f"{label}: {1e6 * training.metrics['seconds'] / training.update.batches:.0f} us a batch without a graph")


def sampled(objective: ImageClassification) -> None:
    """Trials a minute of the space, in one process."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for family in ("mlp", "cnn"):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(10):
            study.enqueue_trial({"family": family})
        settings = [objective.suggest(study.ask()) for _ in range(10)]
        begun = time.perf_counter()
        for number, params in enumerate(settings):
            train(objective, params, 5, number)
        say(f"{family}: {600 / (time.perf_counter() - begun):.0f} trials a minute in one process, 5 epochs each")


def workers(dataset: str, counts: tuple[int, ...], *, mps: bool) -> None:
    """Pulls a second of some numbers of workers. With `mps` they share the GPU as those of a search do."""
    spec = ObjectiveSpec("objectives.images:ImageClassification", {"dataset": dataset})
    # A folder without a daemon counts as the user's own, and CUDA does without one.
    variables = {} if mps else {PIPES: "/nonexistent"}
    with environment(variables), contextlib.closing(LocalExecutor(spec, "auto", counts[-1])) as executor:
        executor.ready()
        for setting in ("MLP", "CNN, dropout, augmentation"):
            task = Task(0, SETTINGS[setting], 1, 16)
            if problem := executor.tune_workers([task]):
                say(problem)
                return
            executor.measure_rate(counts[-1], task, 0.0)
            rates = {n: executor.measure_rate(n, task, 1.5) for n in counts}
            told = ", ".join(f"{n}: {rate:.0f} ({rate / (rates[1] or 1):.2f})" for n, rate in rates.items())
            say(f"{'with' if mps else 'without'} MPS, {setting}: pulls a second of so many workers: {told}")


def main() -> None:
    """Measure."""
    dataset = "mnist"
    say(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, {dataset}")
    objective = ImageClassification(dataset)
    objective.prepare()
    train(objective, SETTINGS["CNN"], 1)  # libraries are loaded
    objective = ImageClassification(dataset)  # with no graphs
    objective.prepare()
    batches(objective, SETTINGS)
    free = ImageClassification(dataset, numerics={"deterministic": False})
    free.prepare()
    batches(free, {f"{label}, any algorithm": SETTINGS[label] for label in SETTINGS if label.startswith("CNN")})
    del free
    calls(dataset)
    sampled(objective)
    workers(dataset, (1, 4), mps=False)
    workers(dataset, (1, 2, 4, 8, 12), mps=True)


if __name__ == "__main__":
    main()
