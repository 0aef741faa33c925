"""Experiment-tracked hyperparameter search for small image classifiers.

`search.load` loads a registered classifier, `search.load_model` a registered model of any kind, `search.load_trial` the
network of any trial. `search.log` and others are for functions of a trial. All are imported on first use, so
`import search` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from objectives.functions.helpers import checkpoint, device, log, log_artifact, log_model, seed
    from search.commands.load import Model, Predictions, Predictor, load, load_model, load_trial

__all__ = ["Model", "Predictions", "Predictor", "load", "load_model", "load_trial"]
__all__ += ["checkpoint", "device", "log", "log_artifact", "log_model", "seed"]  # for functions of a trial


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    if name in ("checkpoint", "device", "log", "log_artifact", "log_model", "seed"):
        from objectives.functions import helpers

        return getattr(helpers, name)
    from search.commands import load

    return getattr(load, name)


def __dir__() -> list[str]:
    return sorted(__all__)
