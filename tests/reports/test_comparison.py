"""Studies side by side in a report: what is compared, and what is told apart."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial
from report_studies import a_study, mixed, section, text_of, written

from search.study.storage.storage import quiet_optuna


@pytest.fixture(autouse=True)
def quiet() -> None:
    quiet_optuna()


def test_studies_are_compared_side_by_side(tmp_path):
    page = text_of(written(a_study(mixed(20)), tmp_path, others=[a_study(mixed(10), name="other one")]))
    assert "Side by side" in page
    assert "other one" in page
    assert all(f'id="chart-{key}"' in page for key in ("compared-trials", "compared-time", "edf-compared"))


def measured(metric: str, direction: str, name: str) -> optuna.Study:
    """A study of another metric or direction, with three trials."""
    study = optuna.create_study(direction=direction, study_name=name)
    for value in (0.3, 0.2, 0.4):
        study.add_trial(create_trial(value=value, params={"x": value}, distributions={"x": FloatDistribution(0, 1)}))
    study.set_user_attr("metric", metric)
    return study


@pytest.mark.parametrize(
    ("metric", "direction", "shown"),
    [
        pytest.param("val_loss", "minimize", "0.2 validation loss, lower is better", id="another metric"),
        pytest.param("val_accuracy", "minimize", "20.00% validation accuracy, lower is better", id="direction"),
        pytest.param("val_f1", "maximize", "40.00% validation f1, higher is better", id="another share"),
    ],
)
def test_studies_of_another_metric_or_direction_are_told_apart(tmp_path: Path, metric: str, direction: str, shown: str):
    others = [measured(metric, direction, "theirs"), a_study(mixed(9), name="alike")]
    page = written(a_study(mixed(12)), tmp_path, others=others)
    words = section(page, "compared")
    measure = shown.partition(" ")[2]
    assert "The charts show validation accuracy, higher is better." in words
    assert f"They leave out studies of another metric: theirs ({measure})." in words
    assert shown in words
    figure = re.search(r'id="figure-compared-trials">(.*?)</script>', page)
    assert figure
    assert '"alike"' in figure[1]
    assert '"theirs"' not in figure[1]


def test_studies_of_one_metric_are_compared_without_a_remark(tmp_path: Path):
    words = section(written(a_study(mixed(12)), tmp_path, others=[a_study(mixed(9), name="alike")]), "compared")
    assert "Study Trials Winner Validation accuracy Test accuracy" in words
    assert "leave out" not in words
    assert "higher is better" not in words
