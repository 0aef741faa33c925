"""Calls of an objective: an exception or an unusable answer becomes an error that names the method."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from objectives.base import Objective, ObjectiveError, Params

CHECK_HINT = "To see more, type: python -m search check-objective MODULE:ATTR"


@contextmanager
def objective_call(method: str) -> Iterator[None]:
    """Raise ObjectiveError for any exception of the block, while `method` of an objective is called."""
    try:
        yield
    except ObjectiveError:
        raise
    except Exception as error:
        raise ObjectiveError(
            f"the objective's {method} failed: {type(error).__name__}: {error}. {CHECK_HINT}"
        ) from error


def check_answers(objective: Objective) -> None:
    """Raise ObjectiveError for answers that no search can start with; `search.testing.checks` checks more."""
    for part in ("name", "metric"):
        _require(isinstance(getattr(objective, part), str), f"{part} is {getattr(objective, part)!r}; give a text")
    with objective_call("epochs"):
        epochs = objective.epochs("cpu")
    with objective_call("steps_per_epoch"):
        steps = objective.steps_per_epoch()
    for part, given in (("epochs", epochs), ("steps_per_epoch", steps)):
        _require(is_count(given), f"{part} gave {given!r}; give a whole number above 0")
    with objective_call("fingerprint"):
        fingerprint = objective.fingerprint()
        _require(isinstance(fingerprint, Mapping), f"fingerprint gave {fingerprint!r}; give a dict")
        json.dumps(dict(fingerprint))
    with objective_call("baselines"):
        baselines = objective.baselines()
    valid = isinstance(baselines, Mapping) and all(isinstance(params, Mapping) for params in baselines.values())
    _require(valid, f"baselines gave {baselines!r}; give a dict of configurations by name, or an empty one")


def is_count(given: object) -> bool:
    """True for a whole number above 0."""
    return isinstance(given, int) and not isinstance(given, bool) and given > 0


def described(objective: Objective, params: Params) -> str:
    """The objective's description of a configuration. Raises ObjectiveError if it is not a text."""
    with objective_call("describe"):
        text = objective.describe(params)
    _require(isinstance(text, str), f"describe gave {text!r}; give a few words on one line, such as 'lr 0.01'")
    return text


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ObjectiveError(f"the objective's {message}. {CHECK_HINT}")
