"""The figures of the test split, in words: the searched metric, then the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search.study.records import StudyRecord
from search.study.summary import Majority, Score, Summary
from search.study.texts.presenter import Decimals, present
from search.study.texts.tested import TestFigures, common_name, figures_on_test

SCORES = (
    Score("accuracy", 0.95, 0.91, 0.97),
    Score("balanced_accuracy", 0.5, 0.42, 0.58),
    Score("macro_f1", 0.4872, 0.4, 0.6),
    Score("log_loss", 0.21237, 0.15, 0.29),
)
SUMMARY = Summary(
    number=0,
    label="mlp",
    value=0.5,
    params={},
    run="trial-0",
    test={"accuracy": 0.95, "low": 0.91, "high": 0.97, "loss": 0.2, "n": 200},
    scores=SCORES,
    majorities={split: Majority.of(("cat", "dog"), (190, 10)) for split in ("test", "validation")},
)


def study(metric: str, *, maximize: bool = True) -> StudyRecord:
    return StudyRecord("s", metric, maximize, (), SUMMARY, {}, (), {"test_reads": [{}]})


def figures(metric: str, summary: Summary = SUMMARY) -> TestFigures:
    found = figures_on_test(study(metric), summary)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("metric", "main", "constant", "also"),
    [
        (
            "val_accuracy",
            ("accuracy", "95.00%", "91.00% to 97.00%"),
            "always answering 'cat' gives 95.00%",
            "balanced accuracy 50.00% (42.00% to 58.00%), macro F1 48.72% (40.00% to 60.00%), "
            "log loss 0.2124 (0.1500 to 0.2900)",
        ),
        (
            "val_balanced_accuracy",
            ("balanced accuracy", "50.00%", "42.00% to 58.00%"),
            "always answering 'cat' gives 50.00%",
            "accuracy 95.00% (91.00% to 97.00%), macro F1 48.72% (40.00% to 60.00%), "
            "log loss 0.2124 (0.1500 to 0.2900)",
        ),
        (
            "val_macro_f1",
            ("macro F1", "48.72%", "40.00% to 60.00%"),
            "always answering 'cat' gives 48.72%",
            "accuracy 95.00% (91.00% to 97.00%), balanced accuracy 50.00% (42.00% to 58.00%), "
            "log loss 0.2124 (0.1500 to 0.2900)",
        ),
        (
            "val_log_loss",
            ("log loss", "0.2124", "0.1500 to 0.2900"),
            "always answering the shares of the classes gives 0.1985",
            "accuracy 95.00% (91.00% to 97.00%), balanced accuracy 50.00% (42.00% to 58.00%), "
            "macro F1 48.72% (40.00% to 60.00%)",
        ),
    ],
)
def test_the_searched_metric_comes_first(metric: str, main: tuple[str, str, str], constant: str, also: str):
    shown = figures(metric)
    assert (shown.main.name, shown.main.value, shown.main.interval) == main
    assert shown.constant == constant
    assert shown.beside == f"; {constant}"
    assert shown.also == also
    state = "may be" if metric == "val_macro_f1" else "is"  # the constant's value is not rounded
    assert shown.warning.startswith(f"the test {main[0]} {state} no better than that of always answering ")


def test_a_network_that_is_perhaps_better_than_a_constant_answer_has_a_weaker_warning():
    perhaps = replace(SUMMARY, scores=(Score("balanced_accuracy", 0.55, 0.45, 0.64),))
    warning = "the test balanced accuracy may be no better than that of always answering one class, 50.00%"
    assert figures("val_balanced_accuracy", perhaps).warning == warning


def test_a_network_that_is_clearly_better_than_a_constant_answer_has_no_warning():
    better = replace(SUMMARY, scores=(Score("balanced_accuracy", 0.9, 0.7, 0.96), Score("log_loss", 0.1, 0.05, 0.15)))
    assert figures("val_balanced_accuracy", better).warning == ""
    assert figures("val_log_loss", better).warning == ""


@pytest.mark.parametrize("metric", ["val_balanced_accuracy", "val_error"])
def test_an_earlier_study_or_another_metric_shows_the_accuracy(metric: str):
    earlier = replace(SUMMARY, scores=(), majorities={"test": Majority("cat", 0.95, is_notable=True)})
    shown = figures(metric, earlier)
    assert (shown.main.name, shown.main.value, shown.also) == ("accuracy", "95.00%", "")
    assert shown.constant == "always answering 'cat' gives 95.00%"
    assert Summary.from_dict({**earlier.as_dict(), "scores": ()}) == earlier
    stored = {name: value for name, value in earlier.as_dict().items() if name != "scores"}
    assert Summary.from_dict(stored) == earlier


def test_a_constant_answer_on_the_validation_split_is_in_the_studys_metric():
    def constant(metric: str, *, maximize: bool = True) -> str:
        return present(study(metric, maximize=maximize), SUMMARY, Decimals()).constant

    assert constant("val_accuracy") == "always answering 'cat' gives 0.9500"
    assert constant("val_balanced_accuracy") == "always answering 'cat' gives 0.5000"
    assert constant("val_log_loss", maximize=False) == "always answering the shares of the classes gives 0.1985"
    assert constant("val_error", maximize=False) == ""


def test_a_column_of_several_metrics_names_each():
    accuracy, loss = figures("val_accuracy"), figures("val_log_loss")
    assert common_name([accuracy, None]) == ("test accuracy", False)
    assert common_name([loss]) == ("test log loss", False)
    assert common_name([loss, accuracy]) == ("test split", True)
    assert common_name([]) == ("test accuracy", False)
