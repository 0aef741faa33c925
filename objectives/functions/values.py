"""Values of a user's function, of any library, as plain ones that every process can read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from objectives.failures import describe_value
from objectives.functions.questions import Returned, Unusable


def plain(value: Any) -> Any:
    """The value as JSON can hold it; tuples stay tuples. Raises TypeError if it cannot.

    A number of numpy or another library becomes Python's, an array a list. A text or a number of a class of its own,
    such as an Enum, loses that class.
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
    if hasattr(value, "shape") and hasattr(value, "tolist"):  # an array or a tensor
        return plain(value.tolist())
    raise TypeError(f"{describe_value(value)} is not a plain value")


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
    """Convert the returned value as `study.optimize` does. Raises ValueError with Optuna's text."""
    if value is None:
        raise ValueError("The value None could not be cast to float.")
    several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if several and len(value) != 1:
        return Unusable(
            f"the function returned {len(value)} values, {describe_value(value)}. A search has one value. "
            "Return one number, and keep the others with trial.set_user_attr(NAME, NUMBER)"
        )
    item = value[0] if several else value
    try:
        if isinstance(item, str | bytes):  # of a number as a text, too
            raise TypeError
        result = float(item)
    except (TypeError, ValueError):
        raise ValueError(f"The value {item!r} could not be cast to float") from None
    if math.isnan(result):
        raise ValueError(f"The value {item} is not acceptable")
    return Returned(result)
