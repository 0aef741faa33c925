"""Values of a user's function, of any library, as plain ones that every process can read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from objectives.failures import describe_value
from objectives.functions.questions import Returned, Unusable


def plain(value: Any) -> Any:
    """The value as JSON can hold it; tuples stay tuples. Raises TypeError if it cannot.

    A number of numpy or another library becomes Python's. A text or a number of a class of its own, such as an Enum,
    loses that class.
    """
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return value if type(value) is kind else getattr(kind, f"__{kind.__name__}__")(value)
    if isinstance(value, tuple | list):
        return (tuple if isinstance(value, tuple) else list)(map(plain, value))
    if isinstance(value, dict):
        return {plain(key): plain(entry) for key, entry in value.items()}
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return plain(value.item())
    raise TypeError(f"{describe_value(value)} is no plain value")


def number(value: Any) -> Any:
    """A bound or a step as a plain value; numbers of other kinds, such as a Decimal, become floats."""
    try:
        return plain(value)
    except TypeError:
        return float(value)


def as_float(value: Any, what: str, kind: type = float) -> Any:
    """Convert an argument as Optuna does, and raise TypeError with its text."""
    try:
        return kind(value)
    except (TypeError, ValueError):
        article = "an" if kind is int else "a"
        raise TypeError(
            f"The `{what}` argument is of type '{type(value)}' but supposed to be {article} {kind.__name__}."
        ) from None


def returned(value: Any) -> Returned | Unusable:
    """What a function's value means, as `study.optimize` takes it. Raises ValueError with Optuna's text."""
    if value is None:
        raise ValueError("The value None could not be cast to float.")
    values = value if isinstance(value, Sequence) else [value]
    if len(values) != 1 and not isinstance(value, str | bytes):
        return Unusable(
            f"the function returned {len(values)} values, {describe_value(value)}. A search has one value. "
            "Return one number, and keep the others with trial.set_user_attr(NAME, NUMBER)"
        )
    if problems := [problem for item in values if (problem := _problem(item))]:
        raise ValueError("; ".join(problems))
    if len(values) != 1:  # the characters of a text
        raise ValueError(f"The number of the values {len(values)} did not match the number of the objectives 1")
    return Returned(float(values[0]))


def _problem(value: Any) -> str | None:
    try:
        result = float(value)
    except (TypeError, ValueError):
        return f"The value {value!r} could not be cast to float"
    return f"The value {value} is not acceptable" if math.isnan(result) else None
