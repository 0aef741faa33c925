"""The built-in objective. Studies name it `objectives.images:ImageClassification`. torch is imported on first use."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "ImageClassification":
        raise AttributeError(f"module 'objectives.images' has no attribute {name!r}")
    from objectives.images.objective import ImageClassification

    return ImageClassification
