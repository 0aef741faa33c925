"""Experiment-tracked hyperparameter search for small image classifiers.

`search.load` loads a registered model, `search.load_trial` the network of any trial. Both are imported on first use, so
`import search` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.commands.load import Predictions, Predictor, load, load_trial

__all__ = ["Predictions", "Predictor", "load", "load_trial"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    from search.commands import load

    return getattr(load, name)


def __dir__() -> list[str]:
    return sorted(__all__)
