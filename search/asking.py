"""Questions to an objective: an error while it answers, or an answer of no use, is said with the name of its part."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from objectives.base import Objective, ObjectiveError, Params

MORE = "To see more, type: python -m search check-objective MODULE:ATTR"


@contextmanager
def asking(part: str) -> Iterator[None]:
    """Raise ObjectiveError for whatever the block raises while `part` of an objective is called."""
    try:
        yield
    except ObjectiveError:
        raise
    except Exception as error:
        raise ObjectiveError(f"the objective's {part} failed: {type(error).__name__}: {error}. {MORE}") from error


def check_answers(objective: Objective) -> None:
    """Raise ObjectiveError for what no search can begin with; `search.contract` asks for more."""
    for part in ("name", "metric"):
        _require(isinstance(getattr(objective, part), str), f"{part} is {getattr(objective, part)!r}; give a text")
    with asking("epochs"):
        epochs = objective.epochs("cpu")
    with asking("steps_per_epoch"):
        steps = objective.steps_per_epoch()
    for part, given in (("epochs", epochs), ("steps_per_epoch", steps)):
        _require(is_count(given), f"{part} gave {given!r}; give a whole number above 0")
    with asking("fingerprint"):
        _require(isinstance(found := objective.fingerprint(), Mapping), f"fingerprint gave {found!r}; give a dict")
        json.dumps(dict(found))
    with asking("baselines"):
        known = objective.baselines()
    settings = isinstance(known, Mapping) and all(isinstance(params, Mapping) for params in known.values())
    _require(settings, f"baselines gave {known!r}; give a dict of settings by name, or an empty one")


def is_count(given: object) -> bool:
    """Whether an answer is a whole number above 0."""
    return isinstance(given, int) and not isinstance(given, bool) and given > 0


def described(objective: Objective, params: Params) -> str:
    """A setting in a few words. Raises ObjectiveError when there are none."""
    with asking("describe"):
        text = objective.describe(params)
    _require(isinstance(text, str), f"describe gave {text!r}; give a few words on one line, such as 'lr 0.01'")
    return text


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ObjectiveError(f"the objective's {message}. {MORE}")
