"""What is said of unequal classes, and of classes that a network never predicts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from optuna.trial import TrialState

from search.study.records import StudyRecord, TrialRecord
from search.study.summary import ClassScore, Majority, Summary
from search.study.texts.classes import class_rows, never_predicted
from search.study.texts.presenter import Decimals, present

SUMMARY = Summary(
    number=0,
    label="mlp",
    value=0.95,
    params={},
    run="trial-0",
    test={"accuracy": 0.95, "low": 0.93, "high": 0.97, "loss": 0.2, "n": 400},
)
TRIAL = TrialRecord(0, TrialState.COMPLETE, 0.95, {}, "mlp", None, None, None, {}, 0, None, None, None, {})


def study(*missing: str) -> StudyRecord:
    """A study whose winner never predicts these classes of validation images."""
    return StudyRecord("s", "val_accuracy", True, (replace(TRIAL, never_predicted=missing),), SUMMARY, {}, (), {})


def scored(**predicted: int) -> Summary:
    """A network that predicts each class so often; each class has 20 test images."""
    return replace(SUMMARY, classes=tuple(ClassScore(name, 20, 0, n) for name, n in predicted.items()))


@pytest.mark.parametrize(
    ("validation", "predicted", "warnings"),
    [
        ((), {"cat": 30, "dog": 10}, ()),
        (("dog",), {"cat": 40, "dog": 0}, ("class 'dog' is never predicted on the validation and test splits",)),
        (
            ("dog",),
            {"cat": 39, "dog": 1},
            ("class 'dog' is never predicted on the validation split by the network of the search",),
        ),
        ((), {"cat": 0, "dog": 40}, ("class 'cat' is never predicted on the test split",)),
        (
            ("a",),
            {"a": 0, "b": 0, "c": 60},
            (
                "class 'a' is never predicted on the validation split by the network of the search",
                "2 classes are never predicted on the test split: 'a', 'b'",
            ),
        ),
        (
            (),
            dict.fromkeys("abcdefg", 0) | {"z": 160},
            ("7 classes are never predicted on the test split: 'a', 'b', 'c', 'd', 'e' and 2 more",),
        ),
        ((), {"\x1b[31mred": 0, "b": 40}, (r"class '\x1b[31mred' is never predicted on the test split",)),
    ],
)
def test_classes_never_predicted_are_named(
    validation: tuple[str, ...], predicted: dict[str, int], warnings: tuple[str, ...]
):
    assert never_predicted(study(*validation), scored(**predicted)) == warnings


def test_a_class_without_test_images_is_not_missed():
    summary = replace(SUMMARY, classes=(ClassScore("cat", 20, 20, 20), ClassScore("rare", 0, 0, 0)))
    assert never_predicted(study(), summary) == ()


@pytest.mark.parametrize(
    ("counts", "majority"),
    [
        ((950, 50), Majority("a", 0.95, is_notable=True)),
        ((10, 30, 20), Majority("b", 0.5, is_notable=True)),
        ((15, 10), Majority("a", 0.6, is_notable=False)),
        ((16, 10), Majority("a", 16 / 26, is_notable=True)),
        ((5, 5, 5), Majority("a", 1 / 3, is_notable=False)),
        ((0, 4), Majority("b", 1.0, is_notable=True)),
    ],
)
def test_the_share_of_the_most_frequent_class(counts: tuple[int, ...], majority: Majority):
    assert replace(Majority.of("abc", counts), scores={}) == majority


@pytest.mark.parametrize("is_notable", [True, False])
def test_a_constant_answer_stands_beside_each_accuracy_where_classes_are_unequal(is_notable: bool):
    majority = Majority("cat", 0.9375, is_notable)
    summary = replace(SUMMARY, majorities={"test": replace(majority, share=0.95), "validation": majority})
    outcome = present(study(), summary, Decimals())
    assert outcome.test is not None
    assert outcome.test.constant == "always answering 'cat' gives 95.00%"
    assert outcome.test.beside == ("; always answering 'cat' gives 95.00%" if is_notable else "")
    assert outcome.constant == ("always answering 'cat' gives 0.9375" if is_notable else "")


def test_recalls_come_worst_first_with_wilsons_interval():
    scores = (
        ClassScore("good", 20, 20, 21),
        ClassScore("absent", 0, 0, 3),
        ClassScore("bad", 10, 0, 0),
        ClassScore("fair", 8, 4, 6),
    )
    rows = class_rows(replace(SUMMARY, classes=scores), limit=3)
    assert [(row.name, row.recall, row.interval) for row in rows] == [
        ("bad", "0.00%", "0.00% to 27.75%"),
        ("fair", "50.00%", "21.52% to 78.48%"),
        ("good", "100.00%", "83.89% to 100.00%"),
    ]
    assert class_rows(replace(SUMMARY, classes=scores), limit=9)[-1].recall == "–"


def test_the_stored_summary_keeps_the_classes():
    majorities = {"test": Majority("cat", 0.95, is_notable=True)}
    summary = replace(SUMMARY, classes=(ClassScore("cat", 1, 1, 1),), majorities=majorities)
    assert Summary.from_dict(summary.as_dict()) == summary
    stored = {key: value for key, value in SUMMARY.as_dict().items() if key not in ("classes", "majorities")}
    assert Summary.from_dict(stored) == SUMMARY  # as an earlier version stored it
