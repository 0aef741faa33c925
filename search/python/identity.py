"""Tells objects apart that no name distinguishes: by their code, and by the plain values that they hold.

A source has one digest in every process. Addresses, file names and line numbers do not count.
"""

import enum
import functools
import hashlib
import inspect
import numbers
from collections.abc import Iterator
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

SET_BY_SEARCH = {"space_scale"}
"""Attributes of an object that a search changes."""
LENGTH = 12
"""Digits of a digest."""
WRAPPERS: dict[type, tuple[str, ...]] = {
    classmethod: ("__func__",),
    staticmethod: ("__func__",),
    property: ("fget", "fset", "fdel"),
    functools.cached_property: ("func",),
}
NO_CODE = frozenset(
    ("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__slots__")
    + ("__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__", "__firstlineno__")
    + ("__static_attributes__",)
)
"""Attributes of a class that say nothing about its code."""


def identity_of(given: Any) -> str:
    """A digest of the code of a function, class or object, and of what it holds."""
    parts = _Parts()
    described = parts.of(given)
    if not isinstance(given, type) and not inspect.isroutine(given) and not isinstance(given, functools.partial):
        described = [described, parts.of_class(type(given)), parts.of(attributes_of(given))]
    return hashlib.sha256(repr(described).encode("utf-8", "surrogatepass")).hexdigest()[:LENGTH]


def attributes_of(given: Any) -> dict[str, Any]:
    """The attributes that an object itself has, also those in slots, without those that its class computes once."""
    attributes = dict(getattr(given, "__dict__", {}))
    for kind in type(given).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(given, name):
                attributes[name] = getattr(given, name)
    computed = SET_BY_SEARCH | {
        name for kind in type(given).__mro__ for name, value in vars(kind).items() if _is_cached(value)
    }
    return {name: value for name, value in attributes.items() if name not in computed}


def cells_of(function: FunctionType) -> dict[str, Any]:
    """The variables of the functions around it that a function uses, without those that have no value yet."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}


def _is_filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _is_cached(value: Any) -> bool:
    return isinstance(value, functools.cached_property)


class _Parts:
    """Turns objects into lists and texts whose `repr` is the same in every process."""

    def __init__(self) -> None:
        self._open: set[int] = set()  # what is being described; it may hold itself

    def of(self, value: Any) -> Any:
        if id(value) in self._open:
            return "itself"
        self._open.add(id(value))
        try:
            return self._of(value)
        finally:
            self._open.discard(id(value))

    def _of(self, value: Any) -> Any:
        match value:
            case None | bool() | str() | bytes():
                return repr(value)
            case enum.Enum():
                return str(value)
            case numbers.Integral():
                return repr(int(value))
            case numbers.Real():
                return repr(float(value))
            case list() | tuple():
                return [type(value).__name__, *map(self.of, value)]
            case set() | frozenset():
                return ["set", *sorted(repr(self.of(item)) for item in value)]
            case dict():
                return ["dict", *sorted(repr([self.of(key), self.of(item)]) for key, item in value.items())]
            case CodeType():
                names = [*value.co_names, *value.co_varnames, *value.co_freevars]
                return [value.co_code.hex(), names, self.of(value.co_consts)]
            case FunctionType():
                held = value.__defaults__, value.__kwdefaults__, cells_of(value)
                return [self.of(value.__code__), self.of(held)]
            case MethodType():
                return [self.of(value.__func__), self.of_class(type(value.__self__)), self._attributes(value.__self__)]
            case functools.partial():
                return ["partial", self.of(value.func), self.of(value.args), self.of(value.keywords)]
            case type():
                return self.of_class(value)
        return _name(type(value)) if not inspect.isbuiltin(value) else _name(value)

    def of_class(self, kind: type) -> Any:
        """The code of classes that no other process can import, the names of others."""
        return [self._own(base) if _is_own(base) else _name(base) for base in kind.__mro__]

    def _own(self, kind: type) -> list[Any]:
        return [kind.__name__, *sorted(repr([name, self.of(part)]) for name, part in _code(kind))]

    def _attributes(self, owner: Any) -> Any:
        return self.of(owner) if isinstance(owner, type) else self.of(attributes_of(owner))


def _is_own(kind: type) -> bool:
    return kind.__module__ == "__main__" or "<locals>" in kind.__qualname__


def _code(kind: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(kind).items():
        parts = next((names for wrapper, names in WRAPPERS.items() if isinstance(value, wrapper)), None)
        if name not in NO_CODE:
            yield name, ([getattr(value, part) for part in parts] if parts else value)


def _name(named: Any) -> str:
    return f"{getattr(named, '__module__', '')}.{named.__qualname__}"
