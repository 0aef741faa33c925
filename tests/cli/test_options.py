"""Where a value came from, and what a mistyped one would make."""

from __future__ import annotations

from pathlib import Path

import pytest
from shell import in_process

from search.cli.options import new_places, write_output
from search.common.config import Config
from search.common.errors import UsageError


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("SEARCH_TRIALS", "abc", "'abc' is not a valid integer"),
        ("SEARCH_SAMPLER", "tpee", "'tpee' is not one of"),
        ("SEARCH_DEVICE", "gpu", "'gpu' is not one of auto, cpu"),
        ("SEARCH_CONFIG", "/", "is a directory"),
    ],
)
def test_an_error_names_the_variable_that_the_value_came_from(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, problem: str
):
    monkeypatch.setenv(variable, value)
    result = in_process()
    assert result.exit_code == 2
    assert f"Invalid value for {variable} in the environment: " in result.stderr
    assert problem in result.stderr
    flag = f"--{variable.removeprefix('SEARCH_').lower()}"
    if flag != "--config":
        assert f"Invalid value for '{flag}'" in in_process(flag, value).stderr  # a flag overrides the variable


def test_what_a_search_will_make_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "optuna.db").touch()
    assert list(new_places(Config())) == []
    assert list(new_places(Config(workspace=Path("old"), storage="sqlite:///old/optuna.db"))) == []
    assert list(new_places(Config(workspace=Path("odl"), data_dir=Path("d")))) == [
        "--workspace odl is a new folder",
        "--data-dir d is a new folder",
    ]
    typos = Config(storage="sqlite:///old/optuan.db", tracking_uri="sqlite:///odl/mlflow.db")
    assert list(new_places(typos)) == [
        f"--storage: {tmp_path}/old/optuan.db is a new database",
        f"--tracking-uri: {tmp_path}/odl/mlflow.db is a new database in a new folder",
    ]
    assert list(new_places(Config(storage="postgresql://x/y", tracking_uri="http://x"))) == []


def test_a_file_of_the_longest_name_is_written_and_a_longer_one_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_output("--output", tmp_path / "new" / f"{'犬' * 80}.csv", b"content")
    assert capsys.readouterr().err == f"--output: {tmp_path}/new is a new folder\n"
    write_output("--output", tmp_path / "new" / f"{'x' * 251}.csv", b"content")
    assert capsys.readouterr().err == ""
    with pytest.raises(UsageError, match=r"--output .* cannot be written: File name too long"):
        write_output("--output", tmp_path / f"{'x' * 256}.csv", b"content")
