"""Experiment-tracked hyperparameter search for small image classifiers, and for any function of an Optuna trial.

`search.run` runs a search. `search.load` loads a registered classifier, `search.load_model` a registered model of any
kind, `search.load_trial` the network of any trial. `search.log` and others are for functions of a trial. All are
imported on first use, so `import search` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from objectives.functions.helpers import checkpoint, device, log, log_artifact, log_model, seed
    from search.commands.load import Model, Predictions, Predictor, load, load_model, load_trial
    from search.common.errors import SearchError
    from search.python.result import Result
    from search.python.run import run

__all__ = ["Model", "Predictions", "Predictor", "Result", "SearchError", "load", "load_model", "load_trial", "run"]
__all__ += ["checkpoint", "device", "log", "log_artifact", "log_model", "seed"]  # for functions of a trial

_PLACES = {
    "search.commands.load": ("Model", "Predictions", "Predictor", "load", "load_model", "load_trial"),
    "search.common.errors": ("SearchError",),
    "search.python.result": ("Result",),
    "search.python.run": ("run",),
    "objectives.functions.helpers": ("checkpoint", "device", "log", "log_artifact", "log_model", "seed"),
}


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'search' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
