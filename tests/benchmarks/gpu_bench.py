"""What the parts of row 8 share: configurations, sizes, and what later parts need of earlier ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from objectives.base import Params
from objectives.images.baselines import STRONG, TUTORIAL, TUTORIAL_MLP
from objectives.images.objective import ImageClassification
from tests.benchmarks.measure import Line, Options, Skipped

BATCH = 128
CNN: Params = {**STRONG, "cnn_width": 24, "cnn_convs": 1}
MLP: Params = {**TUTORIAL, **TUTORIAL_MLP, "optimizer": "adam", "adam_lr": 1e-3, "batch_size": BATCH}
SETTINGS: dict[str, Params] = {
    "MLP": MLP,
    "MLP, dropout, augmentation": {**MLP, "mlp_dropout": 0.2, "rotation_zoom": 0.5, "translation": 0.5},
    "CNN": {**CNN, "cnn_dropout": 0.0, "rotation_zoom": 0.0, "translation": 0.0},
    "CNN, dropout, augmentation": CNN,
}
"""All in batches of `BATCH` images."""
FAMILIES = {"mlp": 12, "cnn": 8}
"""Trials of a family in one measurement of workers, at least."""


@dataclass
class Bench:
    """What is measured where, and what later parts need of earlier ones."""

    options: Options
    device: str
    counts: Sequence[int]
    """Numbers of workers."""
    mlp: tuple[str, float] | None = None
    """Our trials a minute of MLPs: of which line, and how many. Of the command, if it was measured."""

    @property
    def dataset(self) -> str:
        return "digits" if self.options.quick else "mnist"

    @property
    def epochs(self) -> int:
        """Epochs of a trial."""
        return self.options.size(5, 1)


Lines = Iterator[Line | Skipped]


def sampled(objective: ImageClassification, family: str, n: int) -> list[Params]:
    """So many settings of the space, of one family; always the same."""
    import optuna

    from search.study.storage.storage import quiet_optuna

    quiet_optuna()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(n):
        study.enqueue_trial({"family": family})
    return [objective.suggest(study.ask()) for _ in range(n)]
