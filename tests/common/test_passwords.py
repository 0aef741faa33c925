"""Passwords in URLs are masked in texts, errors, links and tracebacks."""

from __future__ import annotations

import re
import string
import subprocess
import sys

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from shell import environment
from sqlalchemy.engine import URL, make_url

from search.cli import dashboards, exits
from search.common.errors import SearchError, StorageError
from search.common.passwords import bare, first_line, mask
from search.study.storage.storage import parse_url

PASSWORDS = st.text(string.ascii_letters + string.digits + "@:/?#%&=+ !$*(),;[]~-._'\"", min_size=4, max_size=30)


@given(PASSWORDS, st.sampled_from(["postgresql+psycopg", "http", "https", "mysql"]))
def test_any_password_is_masked(password: str, scheme: str):
    assume(not re.match(r"\d{1,5} ", password))  # that is how a port in a sentence looks
    url = URL.create(scheme, "user", password, "host", 5432, "name").render_as_string(hide_password=False)
    hidden = f"{scheme}://user:***@host:5432/name"
    for text in ("{}", "cannot reach '{}': no", "--storage {} --trials 3", '{{"url": "{}"}}'):
        assert mask(text.format(url)) == text.format(hidden)
    assert bare(url) == f"{scheme}://host:5432/name"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://u:p@ss@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:a/b@h/d", "postgresql://u:***@h/d"),
        (
            "postgresql+psycopg://u@h/d?password=secret&sslmode=require",
            "postgresql+psycopg://u@h/d?password=***&sslmode=require",
        ),
        ("postgresql://h/d?sslmode=require&sslpassword=secret'", "postgresql://h/d?sslmode=require&sslpassword=***'"),
        ("mysql://h/d?passwd=secret", "mysql://h/d?passwd=***"),
        ("http://:secret@h", "http://:***@h"),
        ("http://h:5000/x and sqlite:////tmp/a@b.db", "http://h:5000/x and sqlite:////tmp/a@b.db"),
        ("models:/mnist@champion at http://h:5000", "models:/mnist@champion at http://h:5000"),
        ("postgresql://u:@h/d", "postgresql://u:@h/d"),
        ("postgresql://u:two words@h/d is at a@b", "postgresql://u:***@h/d is at a@b"),
        ("postgres//u:secret@h", "postgres//u:***@h"),
        ("http://h:5000, or ask a@b", "http://h:5000, or ask a@b"),
    ],
)
def test_only_passwords_are_masked(text: str, masked: str):
    assert mask(text) == masked
    assert mask(mask(text)) == masked


def test_a_bare_address_has_no_user():
    assert bare("http://admin:secret@mlflow:5000/prefix") == "http://mlflow:5000/prefix"
    assert bare("https://mlflow.example/") == "https://mlflow.example/"
    assert bare("sqlite:///mlflow.db") == "sqlite:///mlflow.db"
    assert bare("") == ""


def test_errors_and_links_hold_no_password():
    url = "postgresql+psycopg://u:secret@h/d"
    assert str(SearchError(f"no {url}")) == "no postgresql+psycopg://u:***@h/d"
    assert first_line(ValueError(f"cannot reach {url}\nmore")) == "cannot reach postgresql+psycopg://u:***@h/d"
    for wrong in ("oracle://u:secret@h/d", "sqlite://u:secret@/", "postgres//u:secret@h"):
        with pytest.raises(SearchError, match="--storage") as error:
            parse_url(wrong)
        assert "secret" not in str(error.value)
    assert dashboards.mlflow_deep_link("http://admin:secret@h:5000/", None) == "http://h:5000/"
    assert dashboards.mlflow_deep_link("http://admin:secret@h:5000", "7").startswith("http://h:5000/#/experiments/7/")
    assert make_url(url).render_as_string() in mask(url)
    assert isinstance(StorageError("x"), SearchError)


def test_exits_and_tracebacks_hold_no_password(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        exits.fail("no http://admin:secret@h", 2)
    assert capsys.readouterr().err == "Error: no http://admin:***@h\n"
    program = """
from search.cli import main
def answer():
    raise KeyError("http://admin:secret@h")
main.answer = answer
main.main()
"""
    crashed = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert crashed.returncode == 1
    assert crashed.stderr.endswith("KeyError: 'http://admin:***@h'\n")
    assert "secret" not in crashed.stderr
