"""Names of studies, and the files that carry them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    files = [workspace.report(name), workspace.pictures(name), workspace.artifacts(name)]
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
