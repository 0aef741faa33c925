"""Objectives that a search optimises, with their data, networks and trainings.

These names are for authors of objectives; `objectives.base` has the contract. They import no torch.
"""

from objectives.base import (
    Bounded,
    CaptureError,
    Capturing,
    Diverged,
    EpochResult,
    Experienced,
    Exportable,
    Foldable,
    ImageClassifier,
    Objective,
    ObjectiveError,
    Outcome,
    Params,
    Portable,
    Scaled,
    Selective,
    Sized,
    Suggest,
    Task,
    TestScore,
    Timed,
    Training,
)

__all__ = ["Diverged", "EpochResult", "Objective", "ObjectiveError", "Outcome", "Params", "Suggest", "Task", "Training"]
# For optional parts:
__all__ += ["Bounded", "CaptureError", "Capturing", "Experienced", "Exportable", "Foldable", "ImageClassifier"]
__all__ += ["Portable", "Scaled", "Selective", "Sized", "TestScore", "Timed"]
