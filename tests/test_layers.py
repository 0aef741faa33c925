"""The import rules of docs/how-it-works.md, and that what must be quick or lean is."""

from __future__ import annotations

import ast
import graphlib
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from shell import environment

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")

CHEAP_OBJECTIVES = {
    "objectives.failures",  # what `search` may import from `objectives` at its own import: contracts and plain helpers
    "objectives",
    "objectives.base",
    "objectives.devices",
    "objectives.files",
    "objectives.functions",
    "objectives.functions.export",
    "objectives.functions.objective",
    "objectives.functions.output",
    "objectives.functions.questions",
    "objectives.worker.lifeline",
    "objectives.metrics",
    "objectives.spec",
    "objectives.data",
    "objectives.data.datasets",
    "objectives.data.names",
    "objectives.data.npz",
    "objectives.data.folders.folder",
    "objectives.data.files.image_files",
    "objectives.worker.messages",
    "objectives.worker.worker",
    "objectives.worker.ray_actor",
}
LEAN = ["objectives.worker.worker", "objectives.images.objective", "objectives.images.training.loop"]
HEAVY = ["torch", "mlflow", "optuna"]


def table(head: str) -> list[list[list[str]]]:
    """The words in backticks in each cell of the table with that head."""
    rows = PAGE[PAGE.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[re.findall(r"`([\w.]+)`", cell) for cell in row.strip("|").split("|")] for row in rows]


FOLDERS = {folder: set(below) for (folder,), _, below in table("| folder | answers")}
DOORS = {library: places for (library,), places in table("| library | known by")}


@cache
def modules(package: str) -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


@cache
def imported(path: Path) -> frozenset[str]:
    """Everything a file imports, inside functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def imports(path: Path) -> set[str]:
    """The modules of this project that a file imports."""
    known = {**modules("search"), **modules("objectives")}
    named = {name if name in known else name.rpartition(".")[0] for name in imported(path)}
    return {name for name in named if name.split(".")[0] in ("search", "objectives")}


def folder(name: str) -> str:
    """The folder of `search` that a module lies in; empty for the modules at the top."""
    return name.split(".")[1] if name.count(".") > 1 or name.removeprefix("search.") in FOLDERS else ""


def test_the_table_lists_the_folders():
    here = {path.parent.name for path in (ROOT / "search").glob("*/__init__.py")}
    assert here == set(FOLDERS)
    assert [path.name for path in (ROOT / "search").glob("*.py")] != []


def test_the_table_goes_down():
    rows = list(FOLDERS)
    for row, name in enumerate(rows):
        assert FOLDERS[name] <= set(rows[row + 1 :]), f"{name} may import only from rows below it"


@pytest.mark.parametrize("name", [name for name in modules("search") if folder(name)])
def test_search_imports_downwards(name: str):
    allowed = FOLDERS[folder(name)] | {folder(name)}
    for other in imports(modules("search")[name]):
        if other.startswith("search"):
            assert folder(other) in allowed, f"{name} imports {other}"


def at_import(path: Path) -> Iterator[str]:
    """The modules that a file imports when it is imported itself."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("name", modules("search"))
def test_search_imports_only_cheap_objectives(name: str):
    found = {other for other in at_import(modules("search")[name]) if other.split(".")[0] == "objectives"}
    assert found <= CHEAP_OBJECTIVES


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_its_doors(library: str):
    for name, path in modules("search").items():
        if library in {other.partition(".")[0] for other in imported(path)}:
            places = DOORS[library]
            assert any(f"{name}.".startswith(f"search.{place}.") for place in places), f"{name} imports {library}"


def test_optuna_private_parts_stay_in_two_folders():
    private = re.compile(r"\b(?:optuna(?:\.\w+)*|study|trial|distribution)\._[a-z]\w*")
    allowed = ("search.study.storage.", "search.study.sampling.")
    for name, path in modules("search").items():
        if not name.startswith(allowed):
            assert not private.search(path.read_text(encoding="utf-8")), f"{name} touches a private name of Optuna"


def test_nothing_imports_in_circles():
    both = {**modules("search"), **modules("objectives")}
    graphlib.TopologicalSorter({name: imports(path) - {name} for name, path in both.items()}).prepare()


@pytest.mark.parametrize("name", modules("objectives"))
def test_objectives_import_nothing_of_the_search(name: str):
    assert not {other for other in imports(modules("objectives")[name]) if other.startswith("search")}


@pytest.mark.parametrize("package", ["search", "objectives"])
def test_no_folder_is_crowded(package: str):
    """At most 12 entries in `search`, at most 10 modules in every other folder."""
    for where in {path.parent for path in modules(package).values()}:
        entries = {
            path.name
            for path in where.iterdir()
            if path.name not in ("__pycache__", "__init__.py", "py.typed", "templates")
        }
        assert len(entries) <= (12 if where == ROOT / "search" else 10), f"{where}: {sorted(entries)}"


@pytest.mark.parametrize("package", ["search", "objectives"])
def test_the_formatter_decides(package: str):
    for path in modules(package).values():
        assert "fmt: skip" not in path.read_text(encoding="utf-8"), path


def loaded_by(code: str) -> set[str]:
    """Packages that are loaded after `code` ran in a fresh interpreter."""
    program = f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True
    )
    return set(result.stdout.splitlines()[-1].split())


def test_a_training_loads_neither_stores_nor_search():
    train = f"""
import {", ".join(LEAN)}
from objectives.base import Task
from objectives.spec import ObjectiveSpec
from objectives.worker.messages import WorkerSettings
from objectives.worker.worker import Worker
spec = ObjectiveSpec("objectives.images:ImageClassification", {{"dataset": "digits"}})
worker = Worker(WorkerSettings(spec, "cpu", 0, 1, 1))
params = dict(next(iter(worker.objective.baselines().values())))
print(worker.start(Task(0, params, 1, 1)))
"""
    loaded_by('from objectives.data.datasets import load_dataset; load_dataset("digits", None); print()')
    loaded = loaded_by(train)
    assert "torch" in loaded
    assert not {"optuna", "mlflow", "search", "sqlalchemy", "sklearn", "torchvision"} & loaded


@pytest.mark.parametrize("words", ["--help", "predict --help"])
def test_help_loads_nothing_heavy(words: str):
    code = f"""
import sys
sys.argv = ["search", *{words.split()!r}]
from search.cli.main import answer
try:
    answer()
except SystemExit as end:
    assert end.code == 0
"""
    assert not set(HEAVY) & loaded_by(code)


def test_help_answers_at_once():
    """In the processor's own seconds: on a busy machine, those of a clock tell what else is going on."""
    command = [sys.executable, "-m", "search", "--help"]
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=environment(), capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert 0 < statistics.median(took) < 0.5
