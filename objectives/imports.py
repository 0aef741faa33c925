"""Imports of an objective's module, which may have the name of another module."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def import_module(name: str) -> ModuleType:
    """Import a module. The current folder's `test.py` comes before Python's own tests, which nothing else needs."""
    path = Path("test.py").absolute()
    if name == "test" and name not in sys.modules and path.is_file():
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None, "it ends in .py"
        assert spec.loader is not None, "it ends in .py"
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return importlib.import_module(name)


def hidden_file(name: str) -> str:
    """Say that a file of the current folder was not imported because of its name; else return an empty text."""
    top = name.partition(".")[0]
    path = next((path for path in (Path(f"{top}.py"), Path(top, "__init__.py")) if path.is_file()), None)
    imported = getattr(sys.modules.get(top), "__file__", None)
    if path is None or top not in sys.modules or (imported and Path(imported).resolve() == path.resolve()):
        return ""
    shown = path if path.name != "__init__.py" else path.parent
    return f" {shown} in this folder was not imported, because another module has its name. Rename it."
