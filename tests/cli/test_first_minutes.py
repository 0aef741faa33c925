"""The commands of the README and of docs/search-space.md, run in an empty folder on digits, one epoch per training."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from shell import environment
from test_readme import README, docs

FIRST = "python -m search --trials 50"
SETTINGS = {"SEARCH_DATASET": "digits", "SEARCH_REGISTER": "mnist", "SEARCH_EPOCHS": "1", "SEARCH_CONFIRM": "1"}
ENDLESS_COMMANDS = ("ui", "watch")
"""Commands that run until Ctrl-C."""

pytestmark = pytest.mark.long


def run(command: str, folder: Path, study: str = "mnist") -> subprocess.CompletedProcess[str]:
    """Run a documented command in a folder."""
    words = [sys.executable, *shlex.split(command.replace("mnist:0", "digits:0"), comments=True)[1:]]
    env = environment({**SETTINGS, "SEARCH_STUDY": study})
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)
    if words[3] in ENDLESS_COMMANDS:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=25)
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def block(text: str, language: str, number: int = 0) -> str:
    """A block of code in a text."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)[number]


AFTER_A_SEARCH = README[README.index("\n## After a search\n") :]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three registered versions and a drawn digit."""
    folder = tmp_path_factory.mktemp("first_minutes")
    for study in ("mnist", "A", "B"):
        done = run(f"{FIRST} --trials 3", folder, study)  # of a repeated flag, the last value counts
        assert done.returncode == 0, done.stderr
    picture = Image.new("L", (90, 120), "white")
    ImageDraw.Draw(picture).line([(25, 25), (65, 25), (40, 95)], fill="black", width=9)
    for name in ("digit.png", "other.jpg"):
        picture.save(folder / name)
    return folder


def test_the_readme_begins_with_the_first_command():
    assert FIRST in block(README, "sh")


@pytest.mark.parametrize("command", block(AFTER_A_SEARCH, "sh").splitlines(), ids=lambda line: line[17:40].strip())
def test_each_command_after_a_search(searched: Path, command: str):
    done = run(command, searched)
    assert done.returncode in ((0, 130) if command.split()[3] in ENDLESS_COMMANDS else (0,)), done.stdout + done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr


def test_two_studies_are_compared(searched: Path):
    assert run("python -m search report --study A --study B", searched).returncode == 0


def run_program(program: str, folder: Path) -> None:
    """Run a documented program in a folder. `images` stands for the user's own ones; the model takes 8x8 pixels."""
    images = "import numpy as np\nimages = np.zeros((3, 8, 8), dtype=np.uint8)\n"
    words = [sys.executable, "-c", images + program.replace("28, 28", "8, 8").replace(", 17)", ", 2)")]
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_program_with_this_package(searched: Path):
    run_program(block(AFTER_A_SEARCH, "python"), searched)


def test_the_program_with_mlflow_alone_runs_elsewhere(searched: Path, tmp_path: Path):
    program = block(AFTER_A_SEARCH, "python", 1)
    assert "sqlite:////path/to/the/search/mlflow.db" in program
    run_program(program.replace("/path/to/the/search", str(searched)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_program_with_mlflow_alone_runs_in_the_folder(searched: Path):
    program = block(AFTER_A_SEARCH, "python", 1)
    run_program("\n".join(line for line in program.splitlines() if "set_tracking_uri" not in line), searched)


def test_a_smaller_space(searched: Path):
    done = run(f"{block(docs('search-space'), 'sh').strip()} --trials 4", searched, "smaller")
    assert done.returncode == 0, done.stderr
    assert "batch_size" in done.stdout
