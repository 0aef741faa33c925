"""The built-in objective. Studies name it `objectives.images:ImageClassification`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from objectives.images.objective import ImageClassification

__all__ = ["ImageClassification"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'objectives.images' has no attribute {name!r}")
    from objectives.images.objective import ImageClassification

    return ImageClassification
