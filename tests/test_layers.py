"""Who may import whom, from one table; and that what must be quick or lean is."""

from __future__ import annotations

import ast
import graphlib
import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from shell import environment

ROOT = Path(__file__).parent.parent

# A row of the table there imports, when it is imported, only from itself and from rows below. Imports inside functions
# are for what is heavy; they too may not reach further up.
PAGE = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")


def rows(head: str) -> list[list[str]]:
    """What is in backticks in each row of the table with that head."""
    table = PAGE[PAGE.index(head) :].split("\n\n")[0]
    return [re.findall(r"`([\w.]+)`", row) for row in table.splitlines()[2:]]


LEVEL = {f"search.{name}": -row for row, names in enumerate(rows("| layer | modules")) for name in names}
DOORS = {library: sorted(f"search.{name}" for name in names if name != "objectives")
         for library, *names in rows("| library | known by")}  # fmt: skip
OF_OBJECTIVES = {  # what `search` may know of the objectives at import: contracts and plain helpers, never a training
    "objectives.base", "objectives.messages", "objectives.devices", "objectives.worker", "objectives.actor",
    "objectives.lifeline", "objectives.files", "objectives.datasets", "objectives.pictures",
    "objectives.models", "objectives.download",
}  # fmt: skip
LEAN = ["objectives.worker", "objectives.images", "objectives.training"]
HEAVY = ["torch", "mlflow", "optuna"]


def modules(package: str) -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path) -> set[str]:
    """Whatever a file imports, wherever in it, but for type checkers alone."""
    found = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports(path: Path) -> set[str]:
    """Those of this project."""
    found = imported(path)
    known = {**modules("search"), **modules("objectives")}
    named = {name if name in known else name.rpartition(".")[0] for name in found}
    return {name for name in named if name.split(".")[0] in ("search", "objectives")}


def level(name: str) -> int:
    while name not in LEVEL:
        assert "." in name, f"{name} has no layer: give it one in docs/how-it-works.md"
        name = name.rpartition(".")[0]
    return LEVEL[name]


@pytest.mark.parametrize("name", [name for name in modules("search") if name != "search"])
def test_search_imports_downwards(name: str):
    own = level(name)
    for other in imports(modules("search")[name]):
        if other.startswith("objectives"):
            assert other in OF_OBJECTIVES, f"{name} imports {other}"
        elif other != "search":
            assert level(other) <= own, f"{name} imports {other}, which lies above it"


def test_the_table_lists_what_there_is():
    assert sorted(LEVEL) == sorted({".".join(name.split(".")[:2]) for name in modules("search") if name != "search"})


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_its_doors(library: str):
    knowing = {name for name, path in modules("search").items()
               if library in {other.partition(".")[0] for other in imported(path)}}  # fmt: skip
    assert sorted(knowing) == DOORS[library]


def test_nothing_imports_in_circles():
    """What is imported inside functions counts, too."""
    both = {**modules("search"), **modules("objectives")}
    graphlib.TopologicalSorter({name: imports(path) - {name} for name, path in both.items()}).prepare()


@pytest.mark.parametrize("name", modules("objectives"))
def test_objectives_import_nothing_of_the_search(name: str):
    assert not {other for other in imports(modules("objectives")[name]) if other.startswith("search")}


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
from objectives.base import ObjectiveSpec, Task
from objectives.messages import WorkerSettings
from objectives.worker import Worker
spec = ObjectiveSpec("objectives.images:ImageClassification", {{"dataset": "digits"}})
worker = Worker(WorkerSettings(spec, "cpu", 0, 1, 1))
params = dict(next(iter(worker.objective.baselines().values())))
print(worker.start(Task(0, params, 1, 1)))
"""
    loaded_by('from objectives.datasets import load_dataset; load_dataset("digits", None)')  # as the coordinator does
    loaded = loaded_by(train)
    assert "torch" in loaded
    assert not {"optuna", "mlflow", "search", "sqlalchemy", "sklearn", "torchvision"} & loaded


@pytest.mark.parametrize("words", ["--help", "predict --help"])
def test_help_loads_nothing_heavy(words: str):
    code = f"""
import sys
sys.argv = ["search", *{words.split()!r}]
from search.cli import answer
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
