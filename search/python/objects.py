"""Objectives that a Python program gives as objects: how they are named, and how they reach the workers."""

import functools
import importlib.util
import inspect
import operator
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import cloudpickle  # type: ignore[import-untyped, unused-ignore]

from objectives.failures import describe_error
from objectives.spec import ObjectiveSpec
from search.common.errors import UsageError
from search.python.identity import attributes_of, cells_of, identity_of


def spec_of(given: Any) -> ObjectiveSpec:
    """How workers get an objective: by its pickle, which only this process makes and only its workers read.

    Raises UsageError if it cannot be pickled.
    """
    path = tuple(dict.fromkeys(os.path.abspath(entry) for entry in sys.path))  # "" is the current folder
    spec = ObjectiveSpec(target_of(given), pickled=_pickled(given), path=path)
    return replace(spec, identity=identity_of(given)) if spec.is_unnamed else spec


def target_of(given: Any) -> str:
    """The name of an object, as after `--objective` if it can be imported, else below `__main__`.

    An object of a script is named by the script's file, one of an interactive session by nothing that can be imported.
    """
    named = given if hasattr(given, "__qualname__") else type(given)
    for module in (sys.modules.get(getattr(named, "__module__", "")), sys.modules["__main__"]):
        name = None if module is None else _name_in(module, given, named.__qualname__)
        if name is not None and (place := _place(module)) is not None:
            return f"{place}:{name}"
        if name is not None and module is sys.modules["__main__"]:
            return f"__main__:{name}"
    return f"__main__:{named.__qualname__}" + ("" if named is given else "()")


def _name_in(module: Any, given: Any, usual: str) -> str | None:
    """The name by which a module has an object; None if it has none, as for what a function has made."""
    try:
        found: Any = operator.attrgetter(usual)(module)
        if found is given:
            return usual
    except AttributeError:
        pass
    names: dict[str, Any] = vars(module)
    return next((name for name, value in names.items() if value is given and not name.startswith("_")), None)


def _place(module: Any) -> str | None:
    """The module or the file to type before the colon; None if another process cannot import it."""
    spec, file = getattr(module, "__spec__", None), getattr(module, "__file__", None)
    name = spec.name if module.__name__ == "__main__" and spec is not None else module.__name__
    if name != "__main__" and _is_importable(name):
        return str(name)
    if file is None or not file.endswith(".py") or not Path(file).is_file():
        return None
    return os.path.relpath(str(file))


def _is_importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _pickled(given: Any) -> bytes:
    try:
        return bytes(cloudpickle.dumps(given))
    except Exception as error:  # of any class that refuses it
        culprits = ", ".join(_culprits(given))
        name = getattr(given, "__qualname__", type(given).__qualname__)
        what = f"{culprits} cannot be sent to worker processes" if culprits else "it cannot be sent to worker processes"
        advice = "Open files, connections, locks and generators inside the objective, where the training needs them"
        raise UsageError(f"objective {name}: {what} ({describe_error(error)}). {advice}") from None


def _culprits(given: Any) -> Iterator[str]:
    """The names of what an object carries with it that cannot be pickled."""
    return (name for name, value in _carried(given).items() if not _can_be_sent(value))


def _can_be_sent(value: Any) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:
        return False
    return True


def _carried(given: Any) -> dict[str, Any]:
    """Return the values that are pickled with an object, by name: attributes, arguments and variables that it uses."""
    if isinstance(given, functools.partial):
        numbered = {f"argument {number}": value for number, value in enumerate(given.args, start=1)}
        return {**({} if _can_be_sent(given.func) else _carried(given.func)), **numbered, **given.keywords}
    if inspect.ismethod(given):
        return _carried(given.__self__)
    carried = {} if inspect.isroutine(given) else attributes_of(given)
    methods = vars(given).values() if isinstance(given, type) else vars(type(given)).values()
    for function in (given, *methods):
        if inspect.isfunction(function):
            used = {name: function.__globals__[name] for name in _names(function) if name in function.__globals__}
            carried |= {**used, **cells_of(function)}
    return {name: value for name, value in carried.items() if not inspect.isfunction(value) and value is not given}


def _names(function: FunctionType) -> Iterator[str]:
    """The names of variables and attributes in a function, and in the functions inside it."""
    codes = [function.__code__]
    for code in codes:  # which grows meanwhile
        yield from code.co_names
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
