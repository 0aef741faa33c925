"""How an objective is made, the same in every process: from a name to import, or from a pickled object."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import operator
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Self, get_args

from objectives.base import Direction, Objective, ObjectiveError
from objectives.failures import describe_error, describe_value
from objectives.functions.objective import FunctionObjective

PARTS = [*Objective.__annotations__, *(name for name in vars(Objective) if not name.startswith("_"))]
importing: ContextVar[str | None] = ContextVar("importing", default=None)
"""The target of the objective that is being imported. A search cannot begin meanwhile."""
HINT = "type for example --objective train.py:objective or --objective my_module:MyObjective"


@dataclass(frozen=True)
class ObjectiveSpec:
    """The name of an objective and its keyword arguments."""

    target: str
    """`package.module:attribute` or `folder/file.py:attribute`.

    It names an objective, a callable that returns one, or a function of an Optuna trial.
    """
    options: Mapping[str, Any] = field(default_factory=dict)
    direction: Direction | None = None
    """Direction of a function's value. None: minimize, as in Optuna. Other objectives have a direction of their own."""
    pickled: bytes | None = field(default=None, repr=False)
    """The named object, pickled by the process that searches, for its own workers. It is never stored."""
    path: tuple[str, ...] = ()
    """Entries of `sys.path` that the pickled object needs."""
    identity: str | None = None
    """A digest of an object that only this process has: of its code, and of the plain values that it holds."""

    @property
    def is_unnamed(self) -> bool:
        """True if only the process that made it has this objective: it cannot be imported by its name."""
        return self.target.startswith("__main__:")

    @property
    def is_here(self) -> bool:
        """True if this process has the objective: it can be imported, or was defined in this notebook or program."""
        if not self.is_unnamed:
            return True
        try:
            found = operator.attrgetter(self.target.partition(":")[2])(sys.modules["__main__"])
        except AttributeError:
            return False
        return getattr(found, "__module__", None) == "__main__"

    def is_made(self) -> bool:
        """Return True if the target is the objective itself, and nothing that is called to make it."""
        with self._explained():
            return not callable(self._target())

    def accepted(self, names: Iterable[str]) -> set[str]:
        """The names among `names` that the target takes as keyword arguments. Raises ObjectiveError as `load` does."""
        with self._explained():
            target = self._target()
        if is_function(target):  # it is called with a trial, and its other arguments keep their defaults
            return set()
        try:
            parameters = inspect.signature(target).parameters.values() if callable(target) else ()
        except (TypeError, ValueError):  # some callables that are written in C
            return set()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return set(names)
        by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return {parameter.name for parameter in parameters if parameter.kind in by_name} & set(names)

    def load(self) -> Objective:
        """Import and make the objective.

        Raises ObjectiveError when the target cannot be imported or lacks a part of the contract.
        """
        with self._explained():
            made = self._target()
            if callable(made) and not is_function(made):
                made = made(**self.options)
            if is_function(made):
                return FunctionObjective(made, function_name(self.target), self.direction or "minimize")
            return self._checked(made)

    def with_code(self) -> Self:
        """Return this objective with the code of its file, which other machines do not have."""
        place = self.target.rpartition(":")[0]
        if self.pickled is not None or not place.endswith(".py"):
            return self
        import cloudpickle  # type: ignore[import-untyped, unused-ignore]

        cloudpickle.register_pickle_by_value(self._import(place))
        return replace(self, pickled=cloudpickle.dumps(self._target()))

    def _target(self) -> Any:
        token = importing.set(self.target)
        try:
            return self._imported()
        finally:
            importing.reset(token)

    def _imported(self) -> Any:
        if self.pickled is not None:
            import cloudpickle  # type: ignore[import-untyped, unused-ignore]

            sys.path.extend(entry for entry in self.path if entry not in sys.path)
            return cloudpickle.loads(self.pickled)
        place, _, attribute = self.target.rpartition(":")
        if not place or not attribute:
            raise ObjectiveError(f"--objective {self.target!r} is neither FILE.py:NAME nor MODULE:NAME; {HINT}")
        module = self._import(place)
        try:
            return operator.attrgetter(attribute)(module)
        except AttributeError:
            own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
            has = f"it has {', '.join(own[:10])}" if own else "it defines nothing"
            problem = f"--objective {self.target!r}: {place} has no {attribute!r}; {has}."
            raise ObjectiveError(f"{problem}{hidden_file(place)}") from None

    def _import(self, place: str) -> ModuleType:
        if not place.endswith(".py"):
            return import_module(place)
        if not Path(place).is_file():
            raise ObjectiveError(f"--objective {self.target!r}: there is no file {place}; {HINT}")
        return import_file(Path(place))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise ObjectiveError for an exception of any kind in the user's module.

        Its output goes to standard error: programs read lines of JSON from standard output.
        """
        try:
            with redirect_stdout(sys.stderr):
                yield
        except ObjectiveError:
            raise
        except (Exception, SystemExit) as error:
            reason, hidden = describe_error(error).removesuffix("."), hidden_file(self.target.partition(":")[0])
            raise ObjectiveError(
                f"--objective {self.target!r} cannot be made: {reason}. The module must be importable from the folder "
                "where you run the command. The attribute is a function of a trial, an objective, or a callable that "
                "returns one. That callable may take dataset and data_dir. If it needs other arguments, call it in the "
                f"file and name the result, as after `objective = Objective(data)`.{hidden}"
            ) from error

    def _checked(self, made: Objective) -> Objective:
        if not any(hasattr(made, part) for part in PARTS):
            problem = f"--objective {self.target!r} gives {describe_value(made, 60)}, which cannot be searched"
            advice = "Name a function of one argument, def objective(trial), or a class of docs/objectives.md"
            raise ObjectiveError(f"{problem}. {advice}")
        if missing := [part for part in PARTS if not hasattr(made, part)]:
            hint = "see the example in docs/objectives.md"
            raise ObjectiveError(f"--objective {self.target!r} lacks {', '.join(missing)}; {hint}")
        if made.direction not in get_args(Direction):
            allowed, given = ", ".join(get_args(Direction)), describe_value(made.direction)
            raise ObjectiveError(f"--objective {self.target!r} has direction {given}; allowed: {allowed}")
        return made


def is_function(made: object) -> bool:
    """True for a callable that takes one trial, such as a function written for `study.optimize`."""
    if not callable(made) or isinstance(made, type) or hasattr(made, "suggest"):
        return False
    try:
        signature = inspect.signature(made)
    except (TypeError, ValueError):
        return False
    parameters = signature.parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind in (0, 1)]  # positional
    if not required:  # a decorator without functools.wraps hides what it passes on
        return any(p.kind is p.VAR_POSITIONAL for p in parameters) and _binds(signature)
    return len(required) == 1 and _binds(signature) and required[0] not in ("dataset", "data_dir")


def _binds(signature: inspect.Signature) -> bool:
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True


def function_name(target: str) -> str:
    """The default name of a function's study: `train` for `train.py:objective`, else `train-NAME`."""
    place, _, attribute = target.rpartition(":")
    stem = Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]
    stem, short = (re.sub(r"\W+", "-", name).strip("-") for name in (stem, attribute))
    if stem == "__main__":
        return short
    return stem if attribute.lower() == "objective" else f"{stem}-{short}"


def import_module(name: str) -> ModuleType:
    """Import a module. The current folder's `test.py` comes before Python's own tests, which nothing else needs."""
    path = Path("test.py").absolute()
    with _as_script(name):
        if name == "test" and name not in sys.modules and path.is_file():
            return _load(name, path)
        return importlib.import_module(name)


def import_file(path: Path) -> ModuleType:
    """Import a file as `python FILE` would run it: with the modules in its folder, and without arguments.

    A file with the name of another module gets a name of its own. The modules in its folder are then found last.
    """
    path = path.resolve()
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(path) and module.__name__ != "__main__":
            return module
    name, folder = path.stem, str(path.parent)
    taken = _is_taken(name, folder)
    if taken or name in sys.modules or not name.isidentifier():
        name = f"objective_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if re.search(r"^\s*(import|from)\s+optuna\b", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE):
        with suppress(ImportError):  # the file will say so itself
            importlib.import_module("optuna")
    with _found(folder, first=not taken), _as_script(str(path)):
        module = _load(name, path)
    if name != path.stem:  # no other process can import it, so joblib must send what it defines
        for pickler in filter(None, map(sys.modules.get, ("cloudpickle", "joblib.externals.cloudpickle"))):
            pickler.register_pickle_by_value(module)
    return module


def _is_taken(name: str, folder: str) -> bool:
    """Return whether an installed module has this name."""
    others = [entry for entry in sys.path if os.path.realpath(entry) not in (folder, os.path.realpath(""))]
    spec = PathFinder.find_spec(name, others)
    return name in sys.stdlib_module_names or (spec is not None and spec.origin is not None)


@contextmanager
def _found(folder: str, *, first: bool) -> Iterator[None]:
    """Import from the folder inside the block, before anything else if `first`. From then on it is the last.

    So a file in it can hide no module from this program.
    """
    if folder not in sys.path:
        sys.path.append(folder)
    if first:
        sys.path.insert(0, folder)
    try:
        yield
    finally:
        if first and folder in sys.path[:-1]:
            sys.path.remove(folder)


@contextmanager
def _as_script(place: str) -> Iterator[None]:
    """Import inside the block: the module gets no arguments to parse, and may not run a search of its own."""

    def refuse(*_: Any, **__: Any) -> None:
        raise ObjectiveError(
            f"{place} runs study.optimize when it is imported. Put that under 'if __name__ == \"__main__\":', and type "
            "the same command again. The search calls the objective itself"
        )

    arguments, sys.argv = sys.argv, [place]
    study = getattr(sys.modules.get("optuna"), "Study", None)
    optimize = getattr(study, "optimize", None)
    if study is not None:
        study.optimize = refuse
    try:
        yield
    finally:
        sys.argv = arguments
        if study is not None:
            study.optimize = optimize


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "it ends in .py"
    assert spec.loader is not None, "it ends in .py"
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def hidden_file(name: str) -> str:
    """Say that a file of the current folder was not imported because of its name; else return an empty text."""
    top = name.partition(".")[0]
    path = next((path for path in (Path(f"{top}.py"), Path(top, "__init__.py")) if path.is_file()), None)
    imported = getattr(sys.modules.get(top), "__file__", None)
    if path is None or top not in sys.modules or (imported and Path(imported).resolve() == path.resolve()):
        return ""
    shown = path if path.name != "__init__.py" else path.parent
    return f" {shown} in this folder was not imported, because another module has its name. Rename it."
