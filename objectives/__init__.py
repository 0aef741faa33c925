"""Objectives that a search optimises, with their data, networks and trainings.

These names are for authors of objectives; `objectives.base` has the contract. They import no torch.
"""

from objectives.base import (
    Bounded,
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

__all__ = ["Diverged", "EpochResult", "Objective", "ObjectiveError", "Outcome", "Params", "Suggest", "Task", "Training"]
__all__ += ["Bounded", "Exportable", "ImageClassifier", "Portable", "Sized", "TestScore", "Timed"]  # of optional parts
