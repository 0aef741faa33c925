"""A folder with splits of its own, from the search to the registered model's predictions of its test images."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from shell import in_process, search
from test_test_split import image_folder

from search.commands.predict import STORED_SPLIT


@pytest.mark.slow
def test_it_is_searched_registered_and_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pets = tmp_path / "pets"
    for seed, (split, n) in enumerate((("Train", 20), ("valid", 6), ("test", 5))):
        image_folder(pets / split, n, seed=seed)
    shutil.copy(pets / "Train" / "dark" / "dark-3.png", pets / "test" / "dark" / "again.png")
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "COLUMNS": "300"}
    words = ("--dataset", "folder:pets", "--trials", 2, "--epochs", 2, "--confirm", 0, "--fix", "family=mlp")
    result = search(*words, cwd=tmp_path, env=env)
    assert result.returncode == 0, result.stderr
    assert "training    40 images, Train/" in result.stdout
    assert "validation  12 images, valid/" in result.stdout
    assert "test        11 images, test/, read once" in result.stdout
    assert "1 test image is also used for training" in result.stdout
    assert "Train/dark/dark-3.png = test/dark/again.png" in result.stdout
    assert "test accuracy: 100.00%" in result.stdout
    assert "n = 11, measured once" in result.stdout
    assert "registered: folder-pets version 1, alias champion" in result.stdout

    monkeypatch.chdir(tmp_path)
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    shown = in_process("predict", "folder:pets:0-3", "folder:pets:10", "folder:pets:11").output
    assert "5 of 5 are correct" in shown
    assert "folder:pets has test images 0 to 10" in shown
    assert STORED_SPLIT not in shown

    (pets / "test" / "dark" / "again.png").unlink()  # only the test split changes
    shown = in_process("predict", "folder:pets:0-10").output
    assert "11 of 11 are correct" in shown
    assert STORED_SPLIT in shown
    result = search(*words, cwd=tmp_path, env=env)
    assert "its images or splits have changed" in result.stderr

    words = ("--dataset", "folder:pets/test/dark/dark-1.png", "--trials", 1)
    result = search(*words, cwd=tmp_path, env=env)
    assert "is a file, not a folder" in result.stderr
    assert "Traceback" not in result.stderr
