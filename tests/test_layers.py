"""Who may import whom, from one table; and that what must be quick or lean is."""

from __future__ import annotations

import ast
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from shell import environment

ROOT = Path(__file__).parent.parent

# Layers from the bottom up. A module imports, when it is imported, only from layers below its own or from its own.
# Imports inside functions are for what is heavy; they too may not reach further up than the row says.
LAYERS = [
    ("search.masking",),
    ("search.errors", "search.config", "search.asking"),
    ("search.workspace", "search.provenance", "search.records", "search.summary", "search.interruption"),
    ("search.options", "search.failures"),
    ("search.pages", "search.predictions", "search.canvas"),
    ("search.postgres", "search.ownership", "search.storage"),
    ("search.sampling", "search.figures", "search.intervals", "search.ui"),
    ("search.space", "search.settings", "search.limits", "search.patience"),
    ("search.trouble",),
    ("search.promotion", "search.markdown", "search.work"),
    ("search.known", "search.winner", "search.specimen", "search.contract"),
    ("search.proposals",),
    ("search.journal", "search.study", "search.executors", "search.display", "search.report_base"),
    ("search.report_view", "search.report_plotly"),
    (
        "search.tracking_store",
        "search.delivery",
        "search.tracking",
        "search.report_charts",
        "search.report_tables",
        "search.report_optuna",
    ),
    ("search.registry", "search.report", "search.report_confirmation", "search.version"),
    ("search.coordinator", "search.predict", "search.browse"),
    ("search.trials", "search.confirmation", "search.scope", "search.loading", "search"),
    ("search.conclusion", "search.opening"),
    ("search.run",),
    ("search.repair",),
    ("search.terminal",),
    ("search.cli",),
    ("search.__main__",),
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
OF_OBJECTIVES = {  # what `search` may know of the objectives at import: contracts and plain helpers, never a training
    "objectives.base", "objectives.trainer", "objectives.actor", "objectives.datasets", "objectives.pictures",
    "objectives.models", "objectives.download",
}  # fmt: skip
LEAN = ["objectives.trainer", "objectives.images", "objectives.training"]
HEAVY = ["torch", "mlflow", "optuna"]


def modules(package: str) -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> set[str]:
    """Every module of this project that a file imports, wherever in it, but for type checkers alone."""
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
    known = {**modules("search"), **modules("objectives")}
    named = {name if name in known else name.rpartition(".")[0] for name in found}
    return {name for name in named if name.split(".")[0] in ("search", "objectives")}


def level(name: str) -> int:
    while name not in LEVEL:
        assert "." in name, f"{name} has no layer: give it one in LAYERS"
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
from objectives.trainer import Settings, Trainer
spec = ObjectiveSpec("objectives.images:ImageClassification", {{"dataset": "digits"}})
trainer = Trainer(Settings(spec, "cpu", 0, 1, 1))
params = dict(next(iter(trainer.objective.baselines().values())))
print(trainer.start(Task(0, params, 1, 1)))
"""
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
