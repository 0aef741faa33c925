"""The plan of a search, made from its settings before anything is written."""

from __future__ import annotations

import functools
import io
import re
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from regression import Curve
from rich.console import Console
from toy import Toy

from objectives.base import ObjectiveError
from objectives.images.objective import ImageClassification
from search.cli.progress import PlainDisplay
from search.commands.setup import SearchPlan, plan_search, stored_objective
from search.common.config import Config, why_no_model_name
from search.common.errors import StorageError, StudyMismatchError, UsageError
from search.study import records
from search.study.storage.storage import open_storage
from search.study.study import open_study


def test_a_classifier_is_refitted_and_registered_under_its_dataset_unless_flags_say_otherwise(tmp_path: Path):
    plan = SearchPlan.of(Config(dataset="digits", workspace=tmp_path))
    assert (plan.name, plan.register_as, plan.refits) == ("digits", "digits", True)
    assert plan.goal == {"confirm": [3, 4], "refit": True}
    assert plan.spec.options["dataset"] == "digits"
    other = SearchPlan.of(
        Config(dataset="digits", workspace=tmp_path, study="mine", no_register=True, no_refit=True, confirm=0)
    )
    assert (other.name, other.register_as, other.refits) == ("mine", None, False)
    assert other.goal == {"confirm": [0, 0], "refit": False}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("a/b", "a-b-[0-9a-f]{6}"),
        (".", "study-[0-9a-f]{6}"),
        ("lead: curve (v2)", "lead-curve-v2-[0-9a-f]{6}"),
        ("плата", "плата"),
    ],
)
def test_an_objectives_name_that_mlflow_refuses_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, model: str
):
    monkeypatch.setattr(Curve, "name", name)
    plan = SearchPlan.of(Config(objective="regression:Curve", workspace=tmp_path))
    assert plan.name == name
    assert plan.register_as is not None
    assert re.fullmatch(model, plan.register_as)
    assert why_no_model_name(plan.register_as) is None


def test_other_objectives_are_neither_refitted_nor_registered(tmp_path: Path):
    plan = SearchPlan.of(Config(objective="toy:Toy", workspace=tmp_path))
    assert (plan.name, plan.register_as, plan.refits, plan.dataset) == ("toy", None, False, None)


def test_a_plan_does_not_change(tmp_path: Path):
    plan = SearchPlan.of(Config(objective="toy:Toy", workspace=tmp_path))
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'name'"):
        plan.name = "another"  # type: ignore[misc]


def test_contradictory_flags_are_an_error_before_the_objective_is_made(tmp_path: Path):
    config = Config(objective="no.such:Objective", workspace=tmp_path, address="auto")
    with pytest.raises(UsageError, match="--address is for Ray: add --engine ray, or leave it out"):
        SearchPlan.of(config)


class Network(ImageClassification):
    """A classifier of one's own, which takes a dataset and a folder as ours does."""


class Anything(Toy):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options


class Folder(Toy):
    """An objective with a folder of its own, and no dataset."""

    def __init__(self, data_dir: str = "mine") -> None:
        super().__init__()
        self.data_dir = data_dir


class Named(Toy):
    """An objective that must be told its dataset, and does not say so in its fingerprint."""

    def __init__(self, dataset: str) -> None:
        super().__init__()
        self.dataset = dataset


def made_of_digits(*, dataset: str = "digits", data_dir: str | None = None) -> Network:
    return Network(dataset, data_dir)


READY = Toy()
PARTIAL = functools.partial(Named, dataset="mnist")


@pytest.mark.parametrize(
    ("target", "given", "options"),
    [
        ("Network", {"dataset": "digits"}, {"dataset": "digits"}),
        ("made_of_digits", {}, {}),
        ("made_of_digits", {"data_dir": Path("data")}, {"data_dir": str(Path("data").absolute())}),
        ("Anything", {"dataset": "cows"}, {"dataset": "cows"}),
        ("Folder", {"data_dir": Path("/cows")}, {"data_dir": "/cows"}),
        ("Named", {"dataset": "cows"}, {"dataset": "cows"}),
        ("PARTIAL", {"dataset": "cows"}, {"dataset": "cows"}),
        ("READY", {}, {}),
    ],
)
def test_an_own_objective_gets_the_dataset_and_the_folder_that_are_given(
    target: str, given: dict[str, Any], options: dict[str, str], tmp_path: Path
):
    plan = SearchPlan.of(Config(objective=f"test_plan:{target}", workspace=tmp_path, **given))
    assert plan.spec.options == options
    for name, value in options.items():
        held = getattr(plan.objective, "options", {}) | vars(plan.objective)
        assert str(held.get(f"{name}_name", held.get(name))) == value
    stored = {records.OBJECTIVE: {"target": plan.spec.target, "options": options}}
    assert stored_objective(stored) == plan.spec


@pytest.mark.parametrize(
    ("target", "given", "flag"),
    [
        ("toy:Toy", {"dataset": "digits"}, "--dataset digits"),
        ("toy:Toy", {"data_dir": Path("/cows")}, "--data-dir /cows"),
        ("test_plan:Folder", {"dataset": "mnist"}, "--dataset mnist"),
        ("test_plan:Named", {"dataset": "mnist", "data_dir": Path("/cows")}, "--data-dir /cows"),
        ("test_plan:READY", {"dataset": "digits"}, "--dataset digits"),
    ],
)
def test_a_flag_that_an_own_objective_does_not_take_is_refused(
    target: str, given: dict[str, Any], flag: str, tmp_path: Path
):
    name = "data_dir" if "dir" in flag else "dataset"
    advice = f"leave {flag.split()[0]} out, or give its class or factory an argument {name}"
    message = f"^{flag}: the objective {target} takes no {name}; {advice}"
    with pytest.raises(UsageError, match=message):
        SearchPlan.of(Config(objective=target, workspace=tmp_path, **given))


def test_variables_of_the_environment_are_for_any_objective(tmp_path: Path):
    given: dict[str, Any] = {"workspace": tmp_path, "dataset": "digits", "data_dir": Path("/cows")}
    ambient = {"dataset", "data_dir"}
    assert SearchPlan.of(Config(objective="toy:Toy", **given), ambient).spec.options == {}
    assert SearchPlan.of(Config(objective="test_plan:Folder", **given), ambient).spec.options == {"data_dir": "/cows"}
    lines = io.StringIO()
    plan_search(Config(objective="toy:Toy", **given), PlainDisplay(Console(file=lines, width=200)), ambient=ambient)
    assert lines.getvalue() == "SEARCH_DATASET=digits is ignored: the objective toy:Toy takes no dataset\n"


def test_an_objective_that_lacks_its_dataset_says_so(tmp_path: Path):
    with pytest.raises(
        ObjectiveError, match=r"missing 1 required positional argument: 'dataset'\. .* may take dataset"
    ):
        SearchPlan.of(Config(objective="test_plan:Named", workspace=tmp_path))


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("pathlib:Path.touch", {"self": "x"}),
        ("subprocess:run", {"args": "touch x", "shell": True}),
        ("test_plan:Anything", {"command": "x"}),
        ("test_plan:Anything", {"dataset": ["x"]}),
        ("test_plan:Folder", {"dataset": "x"}),
        ("objectives.images:ImageClassification", {"dataset": "digits", "data": "x"}),
    ],
)
def test_a_stored_study_cannot_choose_other_arguments(target: str, options: dict[str, Any]):
    with pytest.raises(StorageError, match=f"the study's objective, {target}, does not take its arguments: "):
        stored_objective({records.OBJECTIVE: {"target": target, "options": options}})


def test_another_dataset_is_another_study(tmp_path: Path):
    storage = open_storage(f"sqlite:///{tmp_path}/optuna.db")
    open_study(storage, "named", Named("cows"), "test_plan:Named", 4, dataset="cows")
    with pytest.raises(StudyMismatchError, match="--dataset was cows, now mice"):
        open_study(storage, "named", Named("mice"), "test_plan:Named", 4, dataset="mice")
    open_study(storage, "named", Named("cows"), "test_plan:Named", 4, dataset="cows")


@pytest.mark.parametrize("how", ["sys.exit(0)", "raise KeyError", "def ("])
def test_a_module_that_cannot_be_imported_is_an_error_with_a_message(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "broken_objective.py").write_text(f"import sys\n{how}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ObjectiveError, match=r"'broken_objective:Mine' cannot be made: (SystemExit: sys|KeyErr|Syntax)"
    ):
        SearchPlan.of(Config(objective="broken_objective:Mine", workspace=tmp_path))
