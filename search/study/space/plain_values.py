"""Plain values: what every part of a search can store, compare and show."""

import enum
from typing import Any


def plain(value: Any) -> Any:
    """Python's own number, text, truth value or None for one of a library. Other values are returned unchanged."""
    if isinstance(value, enum.Enum) and isinstance(value, int | float | str):
        value = value.value
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):  # of numpy or torch
        value = value.item()
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return str.__str__(value) if isinstance(value, str) else value


def is_plain(value: object) -> bool:
    """True for a value that every part of a search can store, compare and show: not for NaN or a lone surrogate."""
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    return isinstance(value, bool | int | float | None) and value == value


def is_number(value: object) -> bool:
    """True for a whole number or a float."""
    return isinstance(value, int | float) and not isinstance(value, bool)
