"""A search of unequal classes whose winner always gives one answer: every page says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from shell import Finished, rows

from search.cli.output import print_summary
from search.cli.progress import PlainDisplay
from search.commands.run import run
from search.commands.setup import SearchPlan
from search.common.config import Config
from search.study.summary import Summary


def alike(folder: Path, counts: dict[str, int]) -> None:
    """Pictures that no network can tell apart, so that it always answers the most frequent class."""
    for name, n in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(n):
            Image.fromarray(np.full((8, 8), 90, np.uint8)).save(folder / name / f"{index}.png")


def test_a_search_stores_how_often_each_class_is_recognised(finished: Finished):
    ((stored,),) = rows(
        finished.folder / "optuna.db", "SELECT value_json FROM study_user_attributes WHERE key = 'summary'"
    )
    summary = Summary.from_dict(json.loads(stored))
    assert summary.test is not None
    assert [score.name for score in summary.classes] == list("0123456789")
    assert sum(score.images for score in summary.classes) == summary.test["n"]
    assert sum(score.predicted for score in summary.classes) == summary.test["n"]
    correct = sum(score.correct for score in summary.classes)
    assert correct / summary.test["n"] == pytest.approx(summary.test["accuracy"])
    assert {split: majority.is_notable for split, majority in summary.majorities.items()} == {
        "test": False,
        "validation": False,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("counts", "share", "missing"),
    [
        ({"cat": 95, "dog": 10}, "90.48%", "class 'dog' is never predicted on the validation and test splits"),
        (
            {"ok": 100, "crack": 10, "dent": 10},
            "83.33%",
            "2 classes are never predicted on the validation and test splits: 'crack', 'dent'",
        ),
        ({"0": 20, "1": 100}, "83.33%", "class '0' is never predicted on the validation and test splits"),
    ],
    ids=["two", "three", "digits"],
)
def test_the_terminal_mlflow_and_the_report_tell_a_constant_answer(
    folder: Path, capsys: pytest.CaptureFixture[str], counts: dict[str, int], share: str, missing: str
):
    alike(folder / "pictures", counts)
    settings = {"trials": 1, "epochs": 2, "confirm": 0, "no_refit": True, "seed": 0}
    config = Config(dataset=f"folder:{folder / 'pictures'}", engine="inline", workspace=folder, **settings)
    study = run(SearchPlan.of(config), PlainDisplay(Console(quiet=True))).study
    capsys.readouterr()
    print_summary(study)
    told, most = capsys.readouterr().out, max(counts, key=lambda name: counts[name])
    assert f"test accuracy: {share} (" in told
    assert f"measured once; always answering '{most}' gives {share})" in told
    assert f"\nwarning: {missing}\n" in told
    assert f"  always answering '{most}' gives 0." in told
    notes = [note for (note,) in rows(folder / "mlflow.db", "SELECT value FROM tags WHERE key = 'mlflow.note.content'")]
    assert any(
        f"always answering '{most}' gives {share}.\n" in note and f"**Warning:** {missing}." in note for note in notes
    )
    ((card,),) = rows(folder / "mlflow.db", "SELECT description FROM model_versions")
    assert f"always answering '{most}' gives {share} |" in card
    assert f"For comparison: always answering '{most}' gives 0." in card
    assert f"- Warning: {missing}." in card
    (report,) = (folder / "mlruns" / "reports").glob("*.html")
    page = report.read_text(encoding="utf-8").replace("&#39;", "'")
    assert f"; always answering '{most}' gives {share}</p>" in page
    assert f'<p class="warning">{missing[0].upper()}{missing[1:]}.</p>' in page
    assert page.count('<tr class="never"><td>') == len(counts) - 1
