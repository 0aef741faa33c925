"""What the folder and the environment of a person do to the program: modules that hide others, warnings."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shell import TESTS, TOY, environment, search

from objectives.base import ObjectiveError
from objectives.spec import ObjectiveSpec

THEIRS = "raise RuntimeError('a module of the person')"
NAMES = ("objectives", "random", "torch", "dataset", "click", "optuna", "json", "code")


def test_no_module_of_the_folder_hides_another(tmp_path: Path):
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(THEIRS)
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text(THEIRS)
    result = search("studies", cwd=tmp_path)
    assert "there is no study database at" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_the_installed_command_finds_objectives_of_the_folder(tmp_path: Path):
    shutil.copy(TESTS / "support" / "toy.py", tmp_path / "mine.py")
    (tmp_path / "search.py").write_text(THEIRS)
    (tmp_path / "objectives.py").write_text(THEIRS)
    program = "import sys; sys.path.pop(0); from search.cli.main import main; main()"  # as the installed script
    words = [sys.executable, "-c", program, "check-objective", "mine:Nothing"]
    result = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert "mine has no 'Nothing'" in result.stderr


@pytest.mark.parametrize("name", ["types.py", "objectives.py", "json/__init__.py"])
def test_a_file_that_is_hidden_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("class Mine: pass")
    module = name.partition(".")[0].partition("/")[0]
    shown = name.removesuffix("/__init__.py")
    with pytest.raises(ObjectiveError, match=rf" {shown} in this folder was not imported, because another module has"):
        ObjectiveSpec(f"{module}:Mine").load()


def test_an_objective_may_be_in_test_py(tmp_path: Path):
    shutil.copy(TESTS / "support" / "toy.py", tmp_path / "test.py")
    program = "from objectives.spec import ObjectiveSpec; print(ObjectiveSpec('test:Toy').load().name)"
    words = [sys.executable, "-P", "-c", f"import sys; sys.path.append('.'); {program}"]
    result = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    assert result.stdout == "toy\n"


def test_a_folder_that_was_removed_is_said(tmp_path: Path):
    gone = tmp_path / "gone"
    gone.mkdir()
    program = (
        "import os, sys; from search.cli.main import main; os.rmdir(os.getcwd()); sys.argv[1:] = ['studies']; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=gone, env=environment(), capture_output=True, text=True
    )
    assert result.returncode == 1
    assert (
        result.stderr == "Error: the current folder was removed. Go to another one, and type the same command again\n"
    )


WARNS = """
import warnings
from search.cli.start import tame_warnings
tame_warnings()
warnings.warn("first", DeprecationWarning)
warnings.warn("second", UserWarning)
import os, sys
print(sys.warnoptions, os.environ.get("PYTHONWARNINGS"))
"""


@pytest.mark.parametrize(
    ("flags", "variable", "shown", "left"),
    [
        ([], None, False, "[] None"),
        ([], "error", False, "[] "),
        (["-W", "error"], None, False, "[] None"),
        ([], "err::DeprecationWarning", False, "[] "),
        (["-W", "error", "-W", "default"], None, True, "['default'] None"),
        (["-X", "dev"], "error", True, "['default'] "),
        ([], "always", True, "['always'] always"),
    ],
)
def test_no_warning_becomes_an_error(flags: list[str], variable: str | None, shown: bool, left: str):
    env = environment({"PYTHONWARNINGS": variable} if variable else {})
    result = subprocess.run([sys.executable, *flags, "-c", WARNS], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert ("UserWarning: second" in result.stderr) == shown
    assert result.stdout.strip() == left.strip()


@pytest.mark.slow
@pytest.mark.parametrize("env", [{"PYTHONWARNINGS": "error"}, {"PYTHONDEVMODE": "1"}], ids=str)
def test_a_whole_search_in_a_folder_and_environment_that_hinder(folder: Path, env: dict[str, str]):
    for name in NAMES:
        (folder / f"{name}.py").write_text(THEIRS)
    result = search(*TOY, "--trials", 2, cwd=folder, env=env)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert "2 trials (2 complete)" in result.stdout


@pytest.mark.parametrize("flags", [["-X", "utf8=0"], []])
def test_a_locale_without_utf8_is_left_once(flags: list[str]):
    program = "import sys; from search.cli.start import use_utf8; use_utf8(); print(sys.flags.utf8_mode)"
    env = environment({"LC_ALL": "C", "PYTHONUTF8": "0"})
    words = [sys.executable, *flags, "-c", program]
    result = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "1\n"
