"""Mistakes of an objective are reported in one sentence, before training starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from toy import Toy

from objectives.base import ObjectiveError
from search.study.space.objective_calls import check_answers, described, explain_errors

SCALED = {"space_scales": ("s", "l"), "space_scale": "l", "choose_space_scale": lambda device, free: "s"}


def changed(**parts: Any) -> Toy:
    """A toy with some parts replaced."""
    objective = Toy()
    for name, part in parts.items():
        setattr(objective, name, part)
    return objective


def refuse(*_: object) -> None:
    raise KeyError("width")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"metric": 3}, r"metric is 3; give a text"),
        ({"epochs": lambda device: "five"}, r"epochs gave 'five'; give a whole number above 0"),
        ({"epochs": lambda device: 5.5}, r"epochs gave 5.5; give a whole number"),
        ({"epochs": lambda device: 0}, r"epochs gave 0; give a whole number above 0"),
        ({"epochs": refuse}, r"epochs failed: KeyError: 'width'"),
        ({"steps_per_epoch": lambda: None}, r"steps_per_epoch gave None; give a whole number"),
        ({"fingerprint": lambda: None}, r"fingerprint gave None; give a dict"),
        (
            {"fingerprint": lambda: {"data": object()}},
            r"fingerprint gave .* which is not plain data",
        ),
        ({"fingerprint": refuse}, r"fingerprint failed: KeyError"),
        ({"baselines": lambda: None}, r"baselines gave None; give a dict of configurations by name"),
        ({"baselines": lambda: {"first": 3}}, r"baselines gave \{'first': 3\}; give a dict of configurations"),
        ({"baselines": refuse}, r"baselines failed: KeyError"),
        ({"portfolio": lambda: {"x": 1.0}}, r"portfolio gave \{'x': 1.0\}; give a list of configurations"),
        ({**SCALED, "space_scales": 3}, r"space_scales is 3; give names"),
        (
            {**SCALED, "choose_space_scale": lambda device, free: "huge"},
            r"choose_space_scale gave 'huge'; give one of 's', 'l'",
        ),
        ({**SCALED, "choose_space_scale": refuse}, r"choose_space_scale failed: KeyError"),
    ],
)
def test_an_unusable_answer_is_named(parts: dict[str, Callable[..., Any]], message: str):
    check_answers(changed(**SCALED))
    check_answers(Toy())
    hint = r"\. To see more, type: python -m search check-objective toy:Toy$"
    with pytest.raises(ObjectiveError, match=rf"^the objective's {message}.*{hint}"), explain_errors("toy:Toy"):
        check_answers(changed(**parts))


@pytest.mark.parametrize("text", ["it broke.", "it broke", "why?"])
def test_a_message_ends_once_and_names_the_users_objective(text: str):
    def refuse(*_: object) -> None:
        raise ValueError(text)

    end = text if text.endswith("?") else "it broke."
    failed = pytest.raises(ObjectiveError, match="^the objective's baselines failed")
    with failed as caught, explain_errors("mine:My Objective"):
        check_answers(changed(baselines=refuse))
    hint = "To see more, type: python -m search check-objective 'mine:My Objective'"
    assert str(caught.value) == f"the objective's baselines failed: ValueError: {end} {hint}"


def test_an_objective_of_a_notebook_cannot_be_named_in_a_command():
    failed = pytest.raises(ObjectiveError, match="To see more, call it in your program; optuna.create_study")
    with failed, explain_errors("__main__:Mine"):
        check_answers(changed(baselines=lambda: None))


def test_a_description_fits_on_one_line():
    assert described(changed(describe=lambda params: "two\n lines \x1b[2J"), {}) == "two lines \\x1b[2J"
    assert len(described(changed(describe=lambda params: "x" * 10_000), {})) == 150


def test_a_configuration_is_described_in_words():
    assert described(Toy(), {"kind": "a", "x": 0.1}) == "a 0.10"
    with pytest.raises(ObjectiveError, match=r"describe gave None; give a few words on one line"):
        described(changed(describe=lambda params: None), {})
    with pytest.raises(ObjectiveError, match=r"describe failed: KeyError: 'width'"):
        described(changed(describe=refuse), {})
