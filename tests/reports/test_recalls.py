"""The classes of the tested network in a report: recalls and the confusion matrix."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_studies import NASTY, a_study, classified, finished, mixed, section, text_of, written

from search.study.storage.storage import quiet_optuna


@pytest.fixture(autouse=True)
def quiet() -> None:
    quiet_optuna()


def test_the_report_shows_recalls_and_the_confusion_matrix(tmp_path: Path):
    scores = [("cat", 950, 950, 999), (NASTY, 50, 0, 0), ("0", 4, 3, 3)]
    page = written(classified([[950, 0, 0], [49, 0, 1], [0, 0, 4]], scores), tmp_path)
    words = section(page, "classes")
    assert "0.00% 0.00% to 7.13% 50 0 0" in words
    assert "cat 100.00% 99.60% to 100.00% 950 950 999" in words
    assert "true cat, predicted cat: 950 of 950" in text_of(page)
    assert "predicted 0: 1 of 50" in text_of(page)
    assert "Classes in red are never predicted." in words
    assert "<script>alert" not in page
    assert page.count('class="right') == 3
    assert page.count('class="wrong') == 6
    assert 'style="--shade:14%"' in page  # the root of 1 in 50


@pytest.mark.parametrize("k", [31, 200])
def test_of_many_classes_only_the_worst_recalls_are_shown(tmp_path: Path, k: int):
    page = written(classified(None, [(f"class {i}", 100, i % 100, 100) for i in range(k)]), tmp_path)
    words = section(page, "classes")
    assert f"The table shows the 30 classes with the worst recall of {k}." in words
    assert f"The confusion matrix of {k} classes is left out here." in words
    assert "class 0 0.00%" in words
    assert "in red" not in words
    assert words.count(" to ") == 2 * 30  # of recall and precision


def test_a_study_of_an_earlier_version_has_no_classes(tmp_path: Path):
    page = written(finished(a_study(mixed(12))), tmp_path)
    assert 'id="classes"' not in page
    assert 'href="#classes"' not in page
