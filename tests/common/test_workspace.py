"""What lies in the folder of a search: names of studies, their files, and what others left there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shell import TOY, search

from search.common.errors import UsageError
from search.common.workspace import MAX_STUDY_NAME, Workspace, check_study_name, slug

UID = "0123abcd"
USABLE = [
    "digits",
    "поиск",
    "犬" * MAX_STUDY_NAME,
    "🐕" * MAX_STUDY_NAME,
    "👩\u200d🔬 e\u0301",
    "مرحبا",
    "a/b\\c",
    "..",
    ".",
    "-x",
]
USABLE += ["CON", "x" * MAX_STUDY_NAME, "a%20b?c#d", "$HOME", "it's", " x ", "~", "*", "models:/x"]


@pytest.mark.parametrize("name", USABLE)
def test_a_name_of_any_script_has_its_files(tmp_path: Path, name: str):
    check_study_name(name, "--study")
    workspace = Workspace(tmp_path)
    files = [workspace.report(name), workspace.pictures(name, UID), workspace.artifacts(name)]
    files += [workspace.journal(name, UID).with_suffix(".db-journal"), workspace.training_files(name, UID).weights]
    files.append(tmp_path / f"{slug(name)}.lock")
    for path in files:
        assert path.is_relative_to(tmp_path)
        assert ".." not in path.parts
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("x" * 500, r"--study 'x{20}'\.\.\. is too long for the name of a study: 500 characters, at most 240; give"),
        ("", r"--study '' is an empty name of a study; give another name with --study NAME"),
        (" \t", r"--study ' \\t' is an empty name"),
        ("two\nlines", r"--study 'two\\nlines' has characters that cannot be shown \('\\n'\)"),
        ("a\x00b", r"cannot be shown \('\\x00'\)"),
        ("\x1b[31mred", r"cannot be shown \('\\x1b'\)"),
        ("\udcff", r"cannot be shown \('\\udcff'\)"),
    ],
)
def test_a_name_that_cannot_be_shown_or_stored_is_refused(name: str, problem: str):
    with pytest.raises(UsageError, match=problem):
        check_study_name(name, "--study")


@given(st.text(st.characters(), min_size=1, max_size=400))
def test_no_name_makes_a_file_name_that_is_too_long(name: str):
    assert 0 < len(slug(name).encode()) <= 200
    assert slug(name).strip(".")
    assert "/" not in slug(name)


def test_names_that_differ_have_files_that_differ():
    names = [*USABLE, "犬" * 239, "🐕" * 239, "x" * 239, "a-b-c", "a b c"]
    assert len({slug(name) for name in names}) == len(names)


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


@pytest.mark.parametrize(
    ("name", "is_earlier"),
    [
        ("0/meta.yaml", True),
        ("493821570091223/meta.yaml", True),
        ("0/0cf3/meta.yaml", False),
        ("artifacts/meta.yaml", False),
        ("models/m-1/meta.yaml", False),
    ],
)
def test_runs_of_an_earlier_mlflow_are_found(tmp_path: Path, name: str, is_earlier: bool):
    file = tmp_path / "mlruns" / name
    file.parent.mkdir(parents=True)
    file.write_text("name: Default\n")
    assert Workspace(tmp_path).earlier_runs == (file if is_earlier else None)


def test_a_new_folder_has_none(tmp_path: Path):
    assert Workspace(tmp_path).earlier_runs is None


@pytest.mark.slow
def test_a_search_beside_them_says_what_a_bare_mlflow_reads(folder: Path):
    (folder / "mlruns" / "0").mkdir(parents=True)
    (folder / "mlruns" / "0" / "meta.yaml").write_text("name: Default\n")
    done = search(*TOY, "--trials", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "mlruns/0/meta.yaml belongs to runs of an earlier MLflow." in done.stdout + done.stderr
