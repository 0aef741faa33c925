"""Files of a study are found by its uid, whatever its name is by now."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.common.workspace import Workspace


@pytest.mark.parametrize("new", ["numbers", "Ziffern 2/3", "digits-2", "..", "x" * 300])
def test_files_of_a_renamed_study_are_found(tmp_path: Path, new: str):
    workspace = Workspace(tmp_path)
    journal, files = workspace.journal("digits", "0a1b"), workspace.training_files("digits", "0a1b")
    pictures = workspace.pictures("digits", "0a1b")
    for path in (journal, pictures, files.weights / "x", files.checkpoints / "x"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert (workspace.journal(new, "0a1b"), workspace.training_files(new, "0a1b")) == (journal, files)
    assert workspace.pictures(new, "0a1b") == pictures
    assert workspace.report(new) != workspace.report("digits")


@pytest.mark.parametrize("uid", ["1b", "0a1c", "*", "0a1b-9f", ""])
def test_files_of_another_study_are_not_taken(tmp_path: Path, uid: str):
    workspace = Workspace(tmp_path)
    made = workspace.journal("digits", "0a1b")
    made.parent.mkdir(parents=True)
    made.touch()
    assert workspace.journal("digits", uid) != made
    assert workspace.journal("numbers", uid) != made


def test_the_picture_of_an_early_release_is_found(tmp_path: Path):
    early = tmp_path / "mlruns" / "reports" / "digits.png"
    early.parent.mkdir(parents=True)
    early.touch()
    assert Workspace(tmp_path).pictures("digits", "0a1b") == early
