"""Presents a classifier's classes as texts: what one constant answer scores, classes never predicted, their scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from objectives.metrics import Metric
from search.study.records import StudyRecord
from search.study.selection.intervals import wilson
from search.study.summary import ClassScore, Majority, Summary

MAX_NAMES = 5  # class names in a warning


@dataclass(frozen=True)
class ClassRow:
    """One class of the test split."""

    score: ClassScore
    name: str
    recall: str
    interval: str  # Wilson's 95% interval of the recall
    precision: str
    precision_interval: str  # Wilson's
    f1: str
    images: str
    correct: str
    predicted: str

    @property
    def is_never(self) -> bool:
        """Whether the class has test images, and no image is taken for it."""
        return self.score.images > 0 and not self.score.predicted


def class_rows(summary: Summary, limit: int) -> tuple[ClassRow, ...]:
    """Format at most `limit` classes, worst recall first. A class without test images has no recall and is last."""
    ranked = sorted(summary.classes, key=lambda c: (not c.images, c.correct / c.images if c.images else 0, -c.images))
    return tuple(map(_row, ranked[:limit]))


def _row(score: ClassScore) -> ClassRow:
    recall, precision = _share(score.correct, score.images), _share(score.correct, score.predicted)
    f1 = f"{2 * score.correct / (score.images + score.predicted):.2%}" if score.images + score.predicted else "–"
    counts = (f"{n:,}" for n in (score.images, score.correct, score.predicted))
    return ClassRow(score, score.name, *recall, *precision, f1, *counts)


def _share(part: int, whole: int) -> tuple[str, str]:
    """Write a share of images, and its interval."""
    if not whole:
        return "–", ""
    low, high = wilson(part, whole)
    return f"{part / whole:.2%}", f"{low:.2%} to {high:.2%}"


def constant_score(majority: Majority | None, metric: Metric) -> float | None:
    """Score of a constant answer; None if the study was stored without it."""
    if majority is None:
        return None
    return majority.share if metric == "accuracy" else majority.scores.get(metric)


def constant_answer(majority: Majority | None, metric: Metric, write: Callable[[float], str]) -> str:
    """Say what a constant answer scores: the most frequent class or, in log loss, the shares of the classes."""
    score = constant_score(majority, metric)
    if majority is None or score is None:
        return ""
    answer = "the shares of the classes" if metric == "log_loss" else repr(majority.name)
    return f"always answering {answer} gives {write(score)}"


def never_predicted(study: StudyRecord, summary: Summary) -> tuple[str, ...]:
    """Warn of classes that the winner never predicts: in the search on validation images, then on test images."""
    winner = next((trial for trial in study.trials if trial.number == summary.number), None)
    validation = winner.never_predicted if winner else ()
    test = tuple(score.name for score in summary.classes if score.images and not score.predicted)
    if validation == test:
        return _warning(test, "validation and test splits")
    return (*_warning(validation, "validation split"), *_warning(test, "test split"))


def _warning(classes: Sequence[str], split: str) -> tuple[str, ...]:
    if not classes:
        return ()
    names = ", ".join(map(repr, classes[:MAX_NAMES]))
    if len(classes) == 1:
        return (f"class {names} is never predicted on the {split}",)
    more = f" and {len(classes) - MAX_NAMES} more" if len(classes) > MAX_NAMES else ""
    return (f"{len(classes)} classes are never predicted on the {split}: {names}{more}",)
