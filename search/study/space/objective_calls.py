"""Calls of an objective, and the rules for its answers. Every error names the method.

A search applies these rules before it starts; `search.testing` applies them too, and checks more. The functions
`require_...` raise ContractError.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from objectives.base import Diverged, Objective, ObjectiveError, Params

CHECK_HINT = "To see more, type: python -m search check-objective MODULE:ATTR"


class ContractError(ObjectiveError):
    """An objective breaks its contract. The message begins with the method's name and says what to change."""


def require(condition: object, message: str) -> None:
    """Raise ContractError with this message unless the condition holds."""
    if not condition:
        raise ContractError(message)


def call(method: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a method of an objective. Raises ContractError when it fails; passes on Diverged and ObjectiveError."""
    try:
        return function(*arguments)
    except (Diverged, ObjectiveError):
        raise
    except Exception as error:
        raise ContractError(f"{method} failed: {type(error).__name__}: {error}") from error


@contextmanager
def explain_errors() -> Iterator[None]:
    """Replace a ContractError by an ObjectiveError whose message says how to find out more."""
    try:
        yield
    except ContractError as error:
        raise ObjectiveError(f"the objective's {error}. {CHECK_HINT}") from error


def check_answers(objective: Objective) -> None:
    """Raise ObjectiveError for answers that no search can start with."""
    with explain_errors():
        require_texts(objective)
        require_schedule(objective, "cpu")
        require_fingerprint(objective)
        require_baselines(objective)


def described(objective: Objective, params: Params) -> str:
    """The objective's description of a configuration. Raises ObjectiveError if it is not a text."""
    with explain_errors():
        text: str = call("describe", objective.describe, params)
        require(isinstance(text, str), f"describe gave {text!r}; give a few words on one line, such as 'lr 0.01'")
    return text


def require_texts(objective: Objective) -> None:
    """The name and the metric are texts."""
    for part in ("name", "metric"):
        value = getattr(objective, part)
        require(isinstance(value, str), f"{part} is {value!r}; give a text")


def require_schedule(objective: Objective, device: str) -> None:
    """The epochs, and the steps of an epoch, are whole numbers above 0."""
    for method, arguments in (("epochs", [device]), ("steps_per_epoch", [])):
        count = call(method, getattr(objective, method), *arguments)
        valid = isinstance(count, int) and not isinstance(count, bool) and count > 0
        require(valid, f"{method} gave {count!r}; give a whole number above 0")


def require_fingerprint(objective: Objective) -> Mapping[str, str]:
    """Return the fingerprint, a dict of plain data."""
    fingerprint: Mapping[str, str] = call("fingerprint", objective.fingerprint)
    require(isinstance(fingerprint, Mapping), f"fingerprint gave {fingerprint!r}; give a dict")
    try:
        json.dumps(dict(fingerprint))
    except (TypeError, ValueError) as error:
        raise ContractError(f"fingerprint gave {fingerprint!r}, which is not plain data; give texts by name") from error
    return fingerprint


def require_baselines(objective: Objective) -> Mapping[str, Params]:
    """Return the baselines, a dict of configurations by name."""
    baselines: Mapping[str, Params] = call("baselines", objective.baselines)
    valid = isinstance(baselines, Mapping) and all(isinstance(params, Mapping) for params in baselines.values())
    require(valid, f"baselines gave {baselines!r}; give a dict of configurations by name, or an empty one")
    return baselines
