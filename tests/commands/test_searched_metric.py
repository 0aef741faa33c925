"""Searches by another metric than the accuracy, from the images to the pages and the registry."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from shell import rows
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss

from objectives.data.datasets import load_test_split
from search.cli.output import print_studies, print_summary
from search.cli.progress import PlainDisplay
from search.commands.load import load
from search.commands.run import run
from search.commands.setup import SearchPlan
from search.common.config import Config
from search.study.records import StudyRecord
from search.study.texts.tested import METRIC_NAMES


def noisy_squares(folder: Path, counts: dict[str, int]) -> None:
    """Pictures of two classes that differ in brightness, so that many could be either."""
    random = np.random.default_rng(0)
    for index, (name, n) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for number in range(n):
            pixels = random.normal(random.normal(90 + 30 * index, 10), 30, (8, 8))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")


def searched(folder: Path, **settings: Any) -> StudyRecord:
    config = Config(engine="inline", workspace=folder, data_dir=folder / "data", **{"seed": 0, **settings})
    return run(SearchPlan.of(config), PlainDisplay(Console(quiet=True))).study


def printed(capsys: pytest.CaptureFixture[str], study: StudyRecord) -> str:
    capsys.readouterr()
    print_summary(study)
    return capsys.readouterr().out


@pytest.mark.long
def test_of_950_cats_and_50_dogs_the_winner_by_balanced_accuracy_finds_dogs(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    noisy_squares(folder / "pets", {"cat": 950, "dog": 50})
    dataset = f"folder:{folder / 'pets'}"
    study = searched(
        folder, dataset=dataset, metric="balanced_accuracy", trials=6, epochs=3, confirm=1, confirm_seeds=2
    )
    summary = study.summary
    assert summary is not None
    recalls = {score.name: score.correct / score.images for score in summary.classes}
    assert recalls["dog"] > 0.5
    assert study.metric == "val_balanced_accuracy"
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert all(trial.image_error is not None and 0.01 < trial.image_error < 0.2 for trial in complete)
    assert summary.confirmation is not None
    assert all(candidate.image_error for candidate in summary.confirmation.candidates)
    assert summary.interval is not None
    assert 0 <= summary.interval[0] < summary.score < summary.interval[1] <= 1

    images, labels = load_test_split(dataset, folder / "data", None)
    assert summary.model is not None
    model = load(summary.model["uri"], workspace=folder)
    probabilities = model.predict(images).probabilities.astype(np.float64)
    probabilities /= probabilities.sum(1, keepdims=True)  # they are 1 in single precision
    predicted = probabilities.argmax(1)
    expected = {
        "accuracy": accuracy_score(labels, predicted),
        "balanced_accuracy": balanced_accuracy_score(labels, predicted),
        "macro_f1": f1_score(labels, predicted, average="macro"),
        "log_loss": log_loss(labels, probabilities),
    }
    found = {score.name: score.value for score in summary.scores}
    assert found.pop("log_loss") == pytest.approx(expected["log_loss"], abs=1e-5)  # exported for another device
    assert found == {name: pytest.approx(expected[name], abs=1e-9) for name in found}

    told = printed(capsys, study)
    percent = {name: f"{value:.2%}" for name, value in expected.items()}
    assert f"\ntest balanced accuracy: {percent['balanced_accuracy']} (95% interval " in told
    assert "measured once; always answering 'cat' gives 50.00%)\n" in told
    assert f"  also on the test split: accuracy {percent['accuracy']} (" in told
    assert f", macro F1 {percent['macro_f1']} (" in told
    assert f", log loss {expected['log_loss']:.4f} (" in told
    assert "always answering 'cat' gives 0.5000 in val_balanced_accuracy" in told
    assert "corrected for picking the best of" in told
    assert "from the seeds alone" not in told
    check_pages(folder, percent["balanced_accuracy"])


def check_pages(folder: Path, value: str) -> None:
    """The note, the model card, the tags and the report show the balanced accuracy first."""
    notes = [note for (note,) in rows(folder / "mlflow.db", "SELECT value FROM tags WHERE key = 'mlflow.note.content'")]
    assert any(f"Test balanced accuracy **{value}** (95% interval " in note for note in notes)
    ((card,),) = rows(folder / "mlflow.db", "SELECT description FROM model_versions")
    assert f"| test balanced accuracy | {value} | " in card
    assert "| test log loss | 0." in card
    assert re.search(r"^\| dog \| [\d.]+% \| [\d.]+% to [\d.]+% \| [\d.]+% \|", card, re.M)
    for name in METRIC_NAMES:
        assert rows(folder / "mlflow.db", f"SELECT value FROM model_version_tags WHERE key = 'test_{name}'")
        assert rows(folder / "mlflow.db", f"SELECT value FROM metrics WHERE key = 'test_{name}'")
        assert rows(folder / "mlflow.db", f"SELECT value FROM tags WHERE key = 'test_{name}'")
    (report,) = (folder / "mlruns" / "reports").glob("*.html")
    page = report.read_text(encoding="utf-8")
    assert f'<p class="big">{value}</p>' in page
    assert "<b>test balanced accuracy</b>" in page
    assert "validation balanced accuracy" in page
    assert "Only the figures of the test split are unbiased." in page


@pytest.mark.long
def test_the_winner_by_log_loss_has_the_smallest_and_no_other_metric_is_compared_with_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    wanted = {"dataset": "digits", "epochs": 2, "confirm": 2, "confirm_seeds": 2, "register": "numbers"}
    study = searched(folder, metric="log_loss", trials=5, study="by-loss", **wanted)
    summary = study.summary
    assert summary is not None
    assert not study.maximize
    values = [trial.value for trial in study.ranked() if trial.state.name == "COMPLETE" and trial.value is not None]
    assert values == sorted(values)
    assert summary.confirmation is not None
    means = [candidate.mean for candidate in summary.confirmation.candidates if candidate.mean is not None]
    assert summary.score <= min(means) + 0.2
    assert summary.interval is not None
    assert summary.interval[0] >= 0
    assert all(gain.gain > 0 for gain in summary.gains if gain.value > summary.score)
    told = printed(capsys, study)
    assert re.search(
        r"^test log loss: 0\.\d{4} \(95% interval 0\.\d{4} to [\d.]+, n = 359, measured once\)$", told, re.M
    )
    assert re.search(r"also on the test split: accuracy [\d.]+% \(.*\), balanced accuracy .*, macro F1 ", told)
    assert summary.model is not None
    assert summary.model["alias"] == "champion"

    other = searched(folder, trials=2, study="by-accuracy", **wanted)
    assert other.summary is not None
    standing = str(other.summary.standing)
    assert "version 1 of numbers stays champion: the two cannot be compared" in standing
    assert "metric (val_log_loss there, val_accuracy here)" in standing
    assert "To move the alias anyway, type: python -m search promote numbers/2" in standing
    capsys.readouterr()
    print_studies([study, other])
    table = capsys.readouterr().out
    assert "test split" in table
    assert re.search(r"0\.\d{4} log loss", table)
    assert re.search(r"\d\d\.\d\d% accuracy", table)


@pytest.mark.slow
def test_patience_by_log_loss_waits_for_more_than_its_standard_error(folder: Path):
    study = searched(
        folder, dataset="digits", metric="log_loss", trials=40, epochs=2, patience=3, confirm=0, no_refit=True
    )
    ((stored,),) = rows(folder / "optuna.db", "SELECT value_json FROM study_user_attributes WHERE key = 'over'")
    assert "by more than one standard error (" in json.loads(stored)
    assert study.finished < 40
