"""The settings of `search.run` are the flags of the command: same names, defaults, checks and messages."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import click
import numpy as np
import pytest
from shell import in_process

import search
from search.common.config import Config
from search.python.settings import HELP, NAMES, Settings, parse

PARAMETERS = inspect.signature(search.run).parameters


def read(**settings: Any) -> dict[str, Any]:
    return parse(settings, None).params


def test_there_are_the_same_settings_as_flags():
    flags = {field.name for field in fields(Config)} - {"objective"}
    assert set(get_type_hints(Settings)) == flags | {"config"} == set(NAMES)


@pytest.mark.parametrize("field", [field for field in fields(Config) if field.name != "objective"], ids=NAMES[:-1])
def test_an_editor_sees_each_with_its_type_and_default(field: Any):
    shown = PARAMETERS[field.name]
    assert shown.default == field.default
    assert shown.kind is inspect.Parameter.KEYWORD_ONLY
    stored, types = get_type_hints(Config)[field.name], set(get_args(shown.annotation))
    if isinstance(field.metadata["type"], click.Choice):
        (choices,) = (get_args(type_) for type_ in types if type_ is not type(None))
        assert choices == tuple(field.metadata["type"].choices)
    elif field.name != "fix":
        assert (set(get_args(stored)) if isinstance(stored, UnionType) else {stored}) <= types


def test_help_describes_each():
    text = inspect.getdoc(search.run) or ""
    for field in fields(Config):
        words = HELP.get(field.name, field.metadata["help"])
        assert field.name == "objective" or f"\n{field.name}: {words}" in text
    assert "\ntrials: Total number of finished trials. (default: 50)\n" in text


def test_values_are_those_of_python(tmp_path: Path):
    values = read(workspace=tmp_path, trials=np.int64(7), timeout=1.5, no_refit=True, dataset=Path("folder:x"))
    assert (values["workspace"], values["trials"], values["timeout"]) == (tmp_path, 7, 1.5)
    assert (values["no_refit"], values["no_register"], values["dataset"]) == (True, False, "folder:x")


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"batch_size": 128, "optimizer": "adam"}, ("batch_size=128", "optimizer=adam")),
        ({"lr": (1e-3, 1e-2), "flag": True}, ("lr=[0.001, 0.01]", "flag=true")),
        ({"width": np.int64(3), "rate": np.float64(0.5)}, ("width=3", "rate=0.5")),
        ({"lr": [np.float32(0.5), 1], "both": np.array([1, 2])}, ("lr=[0.5, 1]", "both=[1, 2]")),
        (["a=1", "b=-2"], ("a=1", "b=-2")),
        ("a=1", ("a=1",)),
    ],
)
def test_fix_takes_a_dict_a_list_or_a_text(given: Any, stored: tuple[str, ...]):
    assert read(fix=given)["fix"] == stored


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": {1}}, r"fix: 'x' is \{1\}; give a number, a text, True or False, or a list of them"),
        ({"x": None}, "fix: 'x' is None; give a number"),
        ({"x": [1, None]}, r"fix: 'x' is \[1, None\]; give a number"),
        ({"x": np.zeros((2, 2))}, r"fix: 'x' is array\(.*; give a number"),
        (3, r"fix=3; give a dict such as fix=\{'batch_size': 128\}"),
        ({"x"}, r"fix=\{'x'\}; give a dict"),
        ([3], "--fix '3' is not NAME=VALUE"),
        ({"adam_lr": np.array([1e-3, 2e-3, 3e-3])}, "--fix or .space.: adam_lr "),
    ],
)
def test_what_fixes_no_parameter_is_told(given: Any, message: str, folder: Path):
    with pytest.raises(search.SearchError, match=message):
        search.run(dataset="digits", fix=given, workspace=folder, engine="inline", trials=1)


def test_variables_and_a_file_count_unless_a_value_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "settings.toml"
    file.write_text('epochs = 3\nsampler = "random"\n[space]\nbatch_size = 64\n')
    monkeypatch.setenv("SEARCH_TRIALS", "9")
    monkeypatch.setenv("SEARCH_NO_REFIT", "1")
    values = read(config=file, sampler="gp", trials=None, fix={"batch_size": 128})
    assert [values[name] for name in ("trials", "epochs", "sampler")] == [9, 3, "gp"]
    assert values["fix"] == ("batch_size=64", "batch_size=128")
    assert values["no_refit"] is True
    assert read(no_refit=False)["no_refit"] is False


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trails": 5}, r"search.run has no setting 'trails'; did you mean trials\?"),
        ({"tracking-uri": "x"}, r"no setting 'tracking-uri'; did you mean tracking_uri\?"),
        ({"qqq": 5}, r"no setting 'qqq'; there are: trials, dataset, "),
    ],
)
def test_a_name_that_is_none_is_told(given: dict[str, Any], message: str):
    with pytest.raises(search.SearchError, match=message):
        search.run(**given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trials", 0),
        ("trials", "many"),
        ("trials", 2.5),
        ("trials", True),
        ("sampler", "tpee"),
        ("device", "gpu"),
        ("timeout", -1.0),
        ("config", "nowhere.toml"),
    ],
)
def test_a_wrong_value_gets_the_message_of_the_command(name: str, value: Any):
    flag = f"--{name.replace('_', '-')}"
    try:
        said = in_process("run", f"{flag}={value}").output
    except search.SearchError as error:
        said = str(error)
    with pytest.raises(search.SearchError, match=flag) as caught:
        search.run(**{name: value})
    assert str(caught.value) in said


@pytest.mark.parametrize("given", [{"register": "a/b"}, {"tracking_uri": "nowhere"}, {"timeout": float("inf")}])
def test_what_would_fail_at_the_end_is_refused(given: dict[str, Any]):
    with pytest.raises(search.SearchError, match="--(register|tracking-uri|timeout) "):
        search.run(**given)


def test_a_mistake_shows_one_frame_of_this_project():
    with pytest.raises(search.SearchError, match="did you mean") as caught:
        search.run(trails=5)  # type: ignore[call-arg]
    names = [entry.name for entry in caught.traceback]
    assert names[-1] == "run"
    assert len(names) == 2
    assert caught.value.__suppress_context__
