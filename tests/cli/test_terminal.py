"""Output that cannot be shown, or that nobody reads."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shell import TOY, environment, in_process, rows, search

BEGIN = """
import sys
from search.cli.terminal import keep_going_without_output, prepare_streams
prepare_streams()
import click
from rich.console import Console
"""
TEXT = "±0.2 · ★ ▁▄█ поиск 犬 \U0001f415 é \u202e \udcff"


def run(program: str, env: dict[str, str] | None = None, **streams: object) -> subprocess.CompletedProcess[bytes]:
    options: dict[str, object] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run([sys.executable, "-c", BEGIN + program], env=environment(env), **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "ascii:strict", "TERM": "dumb"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "cp1252:strict"},
        {"PYTHONIOENCODING": "utf-8:strict"},
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
        {"LC_ALL": "C.ISO-8859-1"},
        {"LC_ALL": "C", "NO_COLOR": "1"},
    ],
    ids=str,
)
def test_any_text_can_be_shown(env: dict[str, str]):
    shown = f"click.echo({TEXT!a}); click.echo({TEXT!a}, err=True); Console().print({TEXT!a}); print({TEXT!a})"
    result = run(shown, env)
    assert result.returncode == 0, result.stderr
    encoding = env.get("PYTHONIOENCODING", "utf-8").partition(":")[0]
    for text in (result.stdout, result.stderr):
        lines = text.decode("ascii" if "PYTHONUTF8" in env else encoding).splitlines()
        assert {line.split()[0] for line in lines} <= {"±0.2", "+-0.2"}
        assert len({line.split()[3] for line in lines}) == 1  # the same from every library
    if encoding == "ascii":
        assert (
            result.stderr.decode()
            == "+-0.2 . * 148 \\u043f\\u043e\\u0438\\u0441\\u043a \\u72ac \\U0001f415 \\xe9 \\u202e \\udcff\n"
        )


KEEP = "keep_going_without_output()\nfor n in range(9): click.echo(n)\nsys.exit(3)"
END = "for n in range(9): click.echo(n)\nsys.exit(3)"
CLOSED, FULL = "the output is closed; the search continues\n", "the output cannot be written (No space left on device)"


@pytest.mark.parametrize(
    ("program", "output", "status", "said"),
    [
        (KEEP, "reader ended", 3, CLOSED),
        (KEEP, "/dev/full", 3, f"{FULL}; the search continues\n"),
        (KEEP, "closed", 3, ""),
        (END, "reader ended", 141, ""),
        (END, "/dev/full", 1, f"Error: {FULL}\n"),
        (END, "closed", 3, ""),
        ("Console().print('x')", "reader ended", 141, ""),
        ("print('x', end='', flush=True)", "/dev/full", 1, f"Error: {FULL}\n"),
    ],
)
def test_a_broken_output_is_said_once(program: str, output: str, status: int, said: str):
    if output == "closed":
        shell = [shutil.which("sh") or "sh", "-c", 'exec "$0" "$@" >&-', sys.executable, "-c", BEGIN + program]
        result = subprocess.run(shell, env=environment(), stderr=subprocess.PIPE)
    elif output == "reader ended":
        reading, writing = os.pipe()
        os.close(reading)
        result = run(program, stdout=writing)
        os.close(writing)
    else:
        with open(output, "wb") as file:
            result = run(program, stdout=file)
    assert (result.returncode, result.stderr.decode()) == (status, said)


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path):
    program = (
        f"{BEGIN}\nfile = open('file', 'w')\nassert file.fileno() > 2\nprint('lost')\nprint('lost', file=sys.stderr)"
    )
    shell = [shutil.which("sh") or "sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', sys.executable, "-c", program]
    assert subprocess.run(shell, env=environment(), cwd=tmp_path).returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


def test_a_full_pipe_that_does_not_block_loses_nothing():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + "click.echo('x' * 300_000)"], env=environment(), stdout=writing
    )
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert len(pipe.read()) == 300_001
    assert process.wait(30) == 0


def test_a_closed_terminal_breaks_no_live_table():
    program = """keep_going_without_output()
from rich.live import Live
with Live("table", redirect_stderr=True):
    print("ready", flush=True)
    sys.stdin.readline()
    print("first"), print("second")
sys.exit(3)"""
    ours, theirs = pty.openpty()
    words, pipe = [sys.executable, "-c", BEGIN + program], subprocess.PIPE
    env = environment({"TERM": "xterm"})
    with subprocess.Popen(words, stdin=pipe, stdout=theirs, stderr=pipe, env=env, start_new_session=True) as process:
        os.close(theirs)
        text = b""
        while b"ready" not in text:
            text += os.read(ours, 1000)
        os.close(ours)
        _, errors = process.communicate(b"go\n", timeout=60)
    assert (process.returncode, errors.decode()) == (3, CLOSED)


@pytest.mark.slow
@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TERM": "xterm", "CI": "1"}, {}], ids=str)
def test_a_terminal_that_cannot_redraw_gets_plain_lines(env: dict[str, str]):
    program = "from search.cli import output; print(type(output.choose_display()).__name__, file=sys.stderr)"
    ours, theirs = pty.openpty()
    plain = {name: value for name, value in environment(env).items() if name != "TERM" or name in env}
    result = subprocess.run([sys.executable, "-c", BEGIN + program], env=plain, stdout=theirs, stderr=subprocess.PIPE)
    for end in (ours, theirs):
        os.close(end)
    assert result.stderr == b"PlainDisplay\n"


def test_colours_that_are_forced_make_no_terminal_of_a_pipe():
    program = "from search.cli import output; print(type(output.choose_display()).__name__)"
    assert run(program, {"FORCE_COLOR": "1", "TERM": "xterm"}).stdout == b"PlainDisplay\n"


@pytest.mark.slow
@pytest.mark.parametrize("log", ["text", "json"])
def test_a_search_whose_reader_ends_comes_to_its_end(folder: Path, log: str):
    words = [sys.executable, "-m", "search", *map(str, TOY), "--trials", "3", "--log-format", log]
    search_, pipe = {"cwd": folder, "env": environment()}, subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, **search_) as process:  # type: ignore[call-overload]
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == CLOSED
    assert process.returncode == 0
    assert rows(folder / "optuna.db", "SELECT count(*) FROM trials WHERE state != 'RUNNING'") == [(3,)]
    assert in_process("studies", "--workspace", folder).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "env",
    [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}],
    ids=str,
)
def test_names_of_any_script_survive_a_locale_without_them(folder: Path, env: dict[str, str]):
    result = search(*TOY, "--trials", 2, "--study", "поиск", cwd=folder, env=env)
    assert (result.returncode, result.stderr) == (0, "")
    assert "study \\u043f\\u043e\\u0438\\u0441\\u043a: 2 trials" in result.stdout
    assert rows(folder / "optuna.db", "SELECT study_name FROM studies") == [("поиск",)]
    assert "поиск" in (folder / "mlruns" / "reports" / "поиск.html").read_text(encoding="utf-8")
