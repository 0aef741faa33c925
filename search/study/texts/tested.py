"""Presents the metrics of the tested network as texts: the searched one with its interval, then the others."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

from objectives.metrics import Metric, direction_of
from search.common.direction import Direction
from search.study.records import TEST_READS, StudyRecord
from search.study.selection.intervals import metric_of
from search.study.summary import Score, Summary
from search.study.texts.classes import constant_answer, constant_score

METRIC_NAMES: Mapping[str, str] = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "log_loss": "log loss",
}


@dataclass(frozen=True)
class TestedMetric:
    """A metric on the test split: a share in percent, or a log loss."""

    __test__ = False  # tells pytest that this is not a test class

    source: Score
    name: str  # such as `balanced accuracy`
    value: str
    interval: str

    @classmethod
    def of(cls, score: Score) -> Self:
        write = partial(_write, score.name)
        return cls(score, METRIC_NAMES[score.name], write(score.value), f"{write(score.low)} to {write(score.high)}")


@dataclass(frozen=True)
class TestFigures:
    """The figures of the test split: above all the searched metric, or the accuracy if that is none of these."""

    __test__ = False

    main: TestedMetric
    others: tuple[TestedMetric, ...]  # empty in studies stored without them
    images: str  # number of test images
    reads: str  # how often this study has read the test split
    constant: str  # what a constant answer scores in the main metric; "" if unknown
    is_notable: bool  # the classes are so unequal that `constant` must stand next to the value
    warning: str  # "" if the network is clearly better than a constant answer

    @property
    def beside(self) -> str:
        """`constant` as a continuation, if it must stand next to the value."""
        return f"; {self.constant}" if self.is_notable and self.constant else ""

    @property
    def also(self) -> str:
        """The other metrics with their intervals, in one line."""
        return ", ".join(f"{other.name} {other.value} ({other.interval})" for other in self.others)


def figures_on_test(study: StudyRecord, summary: Summary | None) -> TestFigures | None:
    """Format the figures of the test split; None if there are none."""
    if summary is None or not (test := summary.test):
        return None
    scores = {score.name: score for score in summary.scores}
    scores["accuracy"] = Score("accuracy", test["accuracy"], test["low"], test["high"])
    searched, majority = metric_of(study.metric), summary.majorities.get("test")
    metric: Metric = searched if searched in scores else "accuracy"
    main = TestedMetric.of(scores.pop(metric))
    return TestFigures(
        main=main,
        others=tuple(TestedMetric.of(score) for score in scores.values()),
        images=f"{int(test['n']):,}",
        reads=reads_of_test_split(study),
        constant=constant_answer(majority, metric, partial(_write, metric)),
        is_notable=majority is not None and majority.is_notable,
        warning=_no_better(main, constant_score(majority, metric), metric),
    )


def _no_better(tested: TestedMetric, constant: float | None, metric: Metric) -> str:
    """Warn if a constant answer may be as good."""
    direction = Direction(direction_of(metric))
    worst = tested.source.high if direction is Direction.MINIMIZE else tested.source.low
    if constant is None or direction.better(worst, constant):
        return ""
    answer = "the shares of the classes" if metric == "log_loss" else "one class"
    return f"the test {tested.name} may be no better than that of always answering {answer}, {_write(metric, constant)}"


def _write(metric: str, value: float) -> str:
    """Write a value of a classifier's metric: a share in percent, a loss with four decimals."""
    return f"{value:.4f}" if metric == "log_loss" else f"{value:.2%}"


def common_name(tests: Iterable[TestFigures | None]) -> tuple[str, bool]:
    """Name a column of several studies' main figures, and say whether each needs its own name."""
    names = {test.main.name for test in tests if test}
    return ("test split", True) if len(names) > 1 else (f"test {min(names, default='accuracy')}", False)


def reads_of_test_split(study: StudyRecord) -> str:
    """Say how often the study has read the test split."""
    n = len(study.attrs.get(TEST_READS, ()))
    return "measured once" if n == 1 else f"the test split was read {n} times in this study"
