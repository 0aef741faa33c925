"""Find configurations to try early: `python -m tests.tools.portfolio KIND FOLDER`, from the repository's root.

A search of each of several datasets of one kind proposes its best configurations. Every one is then trained on all
datasets, and so are the baselines, which a search tries first. A greedy choice keeps those that are best where the
baselines and the ones before them are not. Only training and validation images of MNIST, Fashion-MNIST and CIFAR-10
are used. The digits are left out, so that a benchmark can search them.

Source of the greedy choice: M. Feurer et al., Auto-Sklearn 2.0, JMLR 23 (2022), section 3.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional

from objectives.base import Diverged, Params, Task
from objectives.data.datasets import load_dataset
from objectives.images.baselines import LARGEST_PORTFOLIO, PORTFOLIO
from objectives.images.objective import ImageClassification
from search.common.system import usable_cores
from search.study.records import StudyRecord
from search.study.selection.winner import completed

TRIALS = 50
TAKEN = 5
"""Configurations taken from each search."""
CIFAR = "BENCHMARK_CIFAR10"
"""Environment variable with the name of a dataset to take for cifar10, such as folder:PATH."""

Images = NDArray[np.uint8]


def as_they_are(images: Images) -> Images:
    return images


def rotated(images: Images) -> Images:
    """Turn each image (c, h, w) by up to 40 degrees."""
    angles = np.random.default_rng(1).uniform(-40, 40, len(images))
    turned = [functional.rotate(torch.from_numpy(image), angle) for image, angle in zip(images, angles, strict=True)]
    return torch.stack(turned).numpy()


def noisy(images: Images) -> Images:
    """Add normal noise with a deviation of 40 of 255."""
    noise = np.random.default_rng(2).normal(0, 40, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


Variant = tuple[str, int, Callable[[Images], Images]]
"""A dataset's name, how many of its images, and a change of them."""

KINDS: Mapping[str, Sequence[Variant]] = {
    "grey-small": [
        ("mnist", 1_500, as_they_are),
        ("mnist", 6_000, rotated),
        ("mnist", 3_000, noisy),
        ("fashion-mnist", 3_000, as_they_are),
    ],
    "grey-large": [
        ("mnist", 32_000, as_they_are),
        ("mnist", 32_000, rotated),
        ("mnist", 32_000, noisy),
        ("fashion-mnist", 32_000, as_they_are),
    ],
    "colour-small": [("cifar10", 6_000, as_they_are), ("cifar10", 6_000, noisy)],
    "colour-large": [("cifar10", 32_000, as_they_are), ("cifar10", 32_000, noisy)],
}
"""Large begins at 20,000 training images, which are 64% of these."""


def write_variants(kind: str, folder: Path) -> list[str]:
    """Write the datasets of a kind. Returns their names."""
    names = []
    for source, n, change in KINDS[kind]:
        file = folder / f"{kind}-{source}-{change.__name__}.npz"
        names.append(f"npz:{file}")
        if file.exists():
            continue
        data = load_dataset(os.environ.get(CIFAR, source) if source == "cifar10" else source, None)
        chosen = np.sort(np.random.default_rng(0).permutation(len(data.labels))[:n])
        images = change(np.asarray(data.images[chosen]))
        pixels = images[:, 0] if data.channels == 1 else images.transpose(0, 2, 3, 1)
        np.savez(file, images=pixels, labels=data.labels[chosen])
    return names


def best_of_search(dataset: str, folder: Path) -> list[Params]:
    """Search a dataset, or go on with that. Returns its best configurations, baselines not counted."""
    study = dataset.rpartition("/")[2].removesuffix(".npz")
    words = ["--dataset", dataset, "--study", study, "--trials", str(TRIALS), "--confirm", "0", "--no-refit"]
    command = [sys.executable, "-m", "search", *words, "--no-register", "--workspace", str(folder)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    record = StudyRecord.of(optuna.load_study(study_name=study, storage=f"sqlite:///{folder / 'optuna.db'}"))
    return [dict(trial.params) for trial in completed(record) if trial.baseline is None][:TAKEN]


def trained(dataset: str, params: Params, seed: int) -> float:
    """Train a configuration as a trial would be. Returns the validation accuracy."""
    torch.set_num_threads(1)
    objective = ImageClassification(dataset)
    training = objective.start(Task(0, params, seed, objective.epochs("cpu")), "cpu")
    try:
        return [result.value for result in iter(lambda: next(training, None), None)][-1]
    except Diverged:
        return 0.0


def greedy(values: NDArray[np.float64], n: int, *, given: int) -> list[int]:
    """Choose up to `n` rows of accuracies (configurations, datasets), best first, beside the first `given` rows.

    Each choice makes the mean over datasets of the smallest regret as small as it can. Regret is the distance to the
    best accuracy, in units of the distance of the median.
    """
    best = values.max(axis=0)
    regret = (best - values) / np.maximum(best - np.median(values, axis=0), 1e-9)
    chosen = list(range(given))
    while len(chosen) < given + n:
        so_far = regret[chosen].min(axis=0, initial=np.inf)
        means = np.minimum(regret, so_far).mean(axis=1)
        row = int(means.argmin())
        if row in chosen or means[row] >= so_far.mean():
            break
        chosen.append(row)
    return chosen[given:]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--seeds", default=2, help="Trainings of each configuration on each dataset.  [default: 2]")
def main(kind: str, folder: Path, seeds: int) -> None:
    """Find the portfolio of a KIND of data, and write it to objectives/images/portfolio.json.

    FOLDER keeps datasets and searches. After an interruption, the same command goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.absolute()
    datasets = write_variants(kind, folder)
    objective = ImageClassification(datasets[0])
    objective.prepare()
    objective.space_scale = objective.choose_space_scale("cpu", 0)
    known = list(objective.baselines().values())
    found = known + [params for dataset in datasets for params in best_of_search(dataset, folder)]
    with ProcessPoolExecutor(usable_cores(), get_context("spawn")) as pool:
        runs = [
            [[pool.submit(trained, name, params, seed) for seed in range(seeds)] for name in datasets]
            for params in found
        ]
        values = np.array([[np.mean([run.result() for run in cell]) for cell in row] for row in runs])
    chosen = greedy(values, LARGEST_PORTFOLIO, given=len(known))
    for row in (*range(len(known)), *chosen):
        click.echo(f"{np.round(100 * values[row], 2)} {found[row]}")
    click.echo(
        f"best on each: {np.round(100 * values.max(axis=0), 2)}, median {np.round(100 * np.median(values, axis=0), 2)}"
    )
    stored: dict[str, Any] = json.loads(PORTFOLIO.read_text(encoding="utf-8")) if PORTFOLIO.exists() else {}
    stored[kind] = [found[row] for row in chosen]
    PORTFOLIO.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(prog_name="python -m tests.tools.portfolio")
