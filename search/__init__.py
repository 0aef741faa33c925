"""Experiment-tracked hyperparameter search for small image classifiers.

`search.load` gives a registered winner, `search.load_trial` the network of any trial. Both are imported when they are
first used: `import search` loads nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.loading import Predictions, Predictor, load, load_trial

__all__ = ["Predictions", "Predictor", "load", "load_trial"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    from search import loading

    return getattr(loading, name)


def __dir__() -> list[str]:
    return sorted(__all__)
