"""What can be searched: objectives, their data, their networks and their trainings.

The names here are for authors of objectives; `objectives.base` says what each of them promises. They import no torch.
"""

from objectives.base import (
    Diverged,
    EpochResult,
    Exportable,
    ImageClassifier,
    Objective,
    ObjectiveError,
    Outcome,
    Params,
    Portable,
    Sized,
    Suggest,
    Task,
    TestScore,
    Timed,
    Training,
)

__all__ = [
    "Diverged",
    "EpochResult",
    "Exportable",
    "ImageClassifier",
    "Objective",
    "ObjectiveError",
    "Outcome",
    "Params",
    "Portable",
    "Sized",
    "Suggest",
    "Task",
    "TestScore",
    "Timed",
    "Training",
]
