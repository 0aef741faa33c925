"""The plan of a search, made from its settings before anything is written."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from regression import Curve

from search.commands.setup import SearchPlan
from search.common.config import Config, why_no_model_name
from search.common.errors import UsageError


def test_a_classifier_is_refitted_and_registered_under_its_dataset_unless_flags_say_otherwise(tmp_path: Path):
    plan = SearchPlan.of(Config(dataset="digits", workspace=tmp_path))
    assert (plan.name, plan.register_as, plan.refits) == ("digits", "digits", True)
    assert plan.goal == {"confirm": [3, 2], "refit": True}
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
        ("x" * 300, "x{80}-[0-9a-f]{6}"),
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
