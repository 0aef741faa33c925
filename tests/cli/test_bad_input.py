"""Wrong input ends in one clear message and an exit status, and changes nothing."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from shell import TOY, Finished, contents, one_file, search

from objectives.data.torchvision_sets import MNIST_MD5


def damage_mnist(folder: Path) -> None:
    raw = folder / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in MNIST_MD5:
        (raw / name).write_bytes(b"\0\0\x08\x03 and no more")


def one_class(folder: Path) -> None:
    (folder / "pets" / "cats").mkdir(parents=True)
    Image.new("L", (28, 28)).save(folder / "pets" / "cats" / "1.png")


def newer(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with closing(sqlite3.connect(folder / name)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = 'f00dfeed9999'")

    return change


def diary(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text("dear diary") and None


DIGITS = ["--dataset", "digits", "--trials", "2"]
BAD_INPUT: list[tuple[str, list[str], Callable[[Path], object] | None, int, str]] = [
    ("unknown flag", ["--trails", "3"], None, 2, r"No such option:? '?--trails"),
    ("unknown verb", ["predikt"], None, 2, r"No such command 'predikt'"),
    ("no trials", ["--trials", "0"], None, 2, r"'--trials'.*0 is not in the range x>=1"),
    ("trials in words", ["--trials", "ten"], None, 2, r"'--trials'.*'ten' is not a valid integer"),
    ("unknown sampler", ["--sampler", "tpee"], None, 2, r"'tpee' is not one of 'tpe', 'random', 'gp', 'cmaes', 'qmc'"),
    ("unknown pruner", ["--pruner", "axe"], None, 2, r"'axe' is not one of 'hyperband', 'median', 'halving', 'none'"),
    ("unknown engine", ["--engine", "rya"], None, 2, r"'rya' is not one of 'local', 'inline', 'ray'"),
    ("unknown device", ["--device", "gpu"], None, 2, r"'gpu' is not one of auto, cpu, cuda, cuda:0"),
    ("no timeout", ["--timeout", "0"], None, 2, r"0.0 is not in the range x>0"),
    ("no file", ["--config", "none.toml"], None, 2, r"--config none.toml cannot be read: No such file"),
    (
        "unknown dataset",
        ["--dataset", "mnits"],
        None,
        1,
        r"there is no dataset 'mnits'; allowed: .*Did you mean mnist\? Type --dataset mnist$",
    ),
    ("no folder", ["--dataset", "folder:nowhere"], None, 1, r"nowhere"),
    ("one class", ["--dataset", "folder:pets"], one_class, 1, r"class"),
    ("damaged data", ["--dataset", "mnist", "--data-dir", "data"], damage_mnist, 1, r"train-images-idx3-ubyte"),
    ("unwritable", [*DIGITS, "--workspace", "/proc/here"], None, 2, r"--workspace /proc/here cannot be written"),
    (
        "a file",
        [*DIGITS, "--workspace", "file/sub"],
        diary("file"),
        2,
        r"--workspace file/sub is not possible: file is a",
    ),
    (
        "no optuna",
        DIGITS,
        diary("optuna.db"),
        1,
        r"optuna.db is not a SQLite database, or is damaged; it was left as it",
    ),
    (
        "no mlflow",
        DIGITS,
        diary("mlflow.db"),
        1,
        r"mlflow.db is not a SQLite database, or is damaged; it was left as it",
    ),
    ("newer optuna", DIGITS, newer("optuna.db"), 1, r"optuna.db was made by another version of Optuna"),
    (
        "newer mlflow",
        DIGITS,
        newer("mlflow.db"),
        1,
        r"mlflow.db was made by another version of MLflow; type: mlflow db up",
    ),
    (
        "no URL",
        [*DIGITS, "--storage", "studies"],
        None,
        2,
        r"--storage 'studies' is not a database URL; allowed: sqlite:///",
    ),
    (
        "no objective",
        ["--objective", "toy:Nothing"],
        None,
        1,
        r"--objective 'toy:Nothing': toy has no 'Nothing'; it has .*Toy",
    ),
    (
        "not a URL",
        [*TOY, "--storage", "sqlite.db"],
        None,
        2,
        r"--storage 'sqlite.db' is not a database URL; allowed: sqlite:///FILE",
    ),
    ("no module", ["--objective", "toy"], None, 1, r"--objective 'toy' is neither FILE.py:NAME nor MODULE:NAME"),
    ("no GPU", [*DIGITS, "--device", "cuda:99"], None, 1, r"--device cuda:99: this machine offers \d+ CUDA devices"),
    ("unknown parameter", [*TOY, "--fix", "dept=3"], None, 2, r"unknown parameter 'dept'; did you mean depth\?"),
    ("impossible fix", [*TOY, "--fix", "depth=9"], None, 2, r"depth cannot be 9; allowed: 1 to 5\. .*--fix depth=1"),
    ("upside down", [*TOY, "--fix", "x=[1,0]"], None, 2, r"x = \[1, 0\] is upside down; type --fix x=\[0,1\]"),
    (
        "unknown study to start from",
        [*TOY, "--warm-start", "nowhere"],
        None,
        2,
        r"there is no study 'nowhere'|has no studies yet; run a search first",
    ),
    ("its own study", [*TOY, "--warm-start", "toy"], None, 2, r"--warm-start toy: a study cannot start from itself"),
    ("unlimited", [*TOY, "--max-parameters", "9"], None, 2, r"give Toy a method n_parameters\(params\)"),
    (
        "too small",
        [*DIGITS, "--max-parameters", "9"],
        None,
        2,
        r"none of 1,000 random configurations is that small; .*Type",
    ),
    ("no contract", ["check-objective", "toy"], None, 1, r"--objective 'toy' is neither FILE.py:NAME nor MODULE:NAME"),
    ("no image", ["predict"], None, 2, r"Missing argument 'IMAGE...'"),
    ("no model name", [*DIGITS, "--register", "."], None, 2, r"--register '\.' cannot name a model in MLflow"),
    ("no model to predict", ["predict", "digits:0", "--model", "a:b"], None, 1, r"'a:b' cannot name a model in MLflow"),
    ("no name to predict", ["predict", "digits:0", "--model", ""], None, 1, r"'' cannot name a model in MLflow; use"),
    ("no model to restore", ["promote", "--rollback", ".."], None, 2, r"'..' cannot name .*--rollback my-model"),
    ("no version", ["promote", "a'b/1"], None, 2, r"promote a'b/1: \"a'b\" cannot name a model"),
    ("no study", ["report", "--study", "mnist"], None, 2, r"there is no study 'mnist'|has no studies yet"),
    ("no study to show", ["show", "mnist"], None, 2, r"there is no study 'mnist'|has no studies yet"),
]


def check_error(place: Path, words: list[str], status: int, message: str) -> None:
    """Check that a command ends with one clear message and changes nothing."""
    before = contents(place)
    result = search(*words, cwd=place)
    errors = result.stderr
    assert result.returncode == status, result
    assert len(re.findall("^Error: ", errors, re.M)) == 1, result
    assert re.search(message, errors, re.S | re.M), result
    assert "Traceback" not in errors + result.stdout
    assert contents(place) == before


SLOW = ("newer mlflow", "no GPU", "too small")  # they load MLflow and torch


@pytest.mark.parametrize(
    ("words", "prepare", "status", "message"),
    [pytest.param(*case[1:], id=case[0], marks=[pytest.mark.slow] * (case[0] in SLOW)) for case in BAD_INPUT],
)
def test_bad_input(folder: Path, words: list[str], prepare: Callable[[Path], object] | None, status: int, message: str):
    if prepare is not None:
        prepare(folder)
    check_error(folder, words, status, message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "x.png"], r"there is no mlflow.db in .* Run a search first"),
        (["report"], r"there is no study database at .*optuna.db; run a search first"),
        (["studies"], r"there is no study database at .*optuna.db; run a search first"),
    ],
    ids=["predict", "report", "studies"],
)
def test_an_empty_folder_stays_empty(tmp_path: Path, words: list[str], message: str):
    check_error(tmp_path, words, 1, message)


@pytest.mark.slow
def test_no_champion_yet(folder: Path):
    check_error(folder, ["predict", "digits:0"], 1, r"no champion is registered here yet. Run a search first")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--objective", "toy:Toy"], r"objective was objectives.images:ImageClassification, now toy:Toy"),
        (["--dataset", "folder:pets"], r"its images or splits have changed \(digest \w{8}, now \w{8}\)"),
    ],
    ids=["objective", "dataset"],
)
def test_another_study_of_the_same_name(finished: Finished, folder: Path, words: list[str], message: str):
    for name in ("cats", "dogs"):
        (folder / "pets" / name).mkdir(parents=True)
        for number in range(8):
            Image.effect_noise((28, 28), 50).save(folder / "pets" / name / f"{number}.png")
    if words[1] == "folder:pets":  # its images are decoded before anything is compared
        words = [*words, "--data-dir", str(folder.parent / "data")]
    one_file(finished.folder / "optuna.db", folder / "optuna.db")
    before = contents(folder)
    result = search("--study", "digits", *words, cwd=folder)
    assert result.returncode == 1, result
    assert re.search(
        rf"(?s)^Error: study 'digits' was made with other settings: .*{message}.*--study digits-2", result.stderr
    )
    assert "Traceback" not in result.stderr
    assert contents(folder) == before
