"""A search reads the test split once, in one process, after it stored the winner. The tests see every open file.

The images of a test folder are decoded once, before that. Each Python process of the search, workers included, reports
what it opens (`sys.addaudithook` in a `sitecustomize`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shell import CHECKOUT, IMPORTABLE, environment, search

from objectives.data.torchvision_sets import SETS

TEST_FILES = SETS["mnist"].files["test"]
WATCH = """
import json, os, sqlite3, sys

NAMES, LOG, DATABASE = os.environ["WATCHED"].split(), os.environ["WATCH_LOG"], os.environ["WATCH_DATABASE"]

def winner():  # noted before the reading
    if not os.path.exists(DATABASE):
        return None
    connection = sqlite3.connect(f"file:{DATABASE}?mode=ro", uri=True)
    row = connection.execute("SELECT value_json FROM study_user_attributes WHERE key = 'test_reads'").fetchone()
    connection.close()
    return json.loads(row[0])[-1] if row else None

def watch(event, arguments):
    if event != "open" or not isinstance(arguments[0], str) or os.path.basename(arguments[0]) not in NAMES:
        return
    if "w" in (arguments[1] or "") or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        return  # a folder's test split is set aside before the search begins
    line = json.dumps({"file": os.path.basename(arguments[0]), "process": os.getpid(), "winner": winner()})
    descriptor = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode() + b"\\n")
    os.close(descriptor)

sys.addaudithook(watch)
with open(LOG + ".watching", "a") as watching:
    watching.write(f"{os.getpid()}\\n")
"""

ONE_READING = "import sys; from objectives.data.datasets import load_test_split; load_test_split(sys.argv[1], None)"


def image_folder(folder: Path, n: int = 30, name: str = "{}.png", seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for label, level in (("dark", 40), ("light", 200)):
        (folder / label).mkdir(parents=True)
        for number in range(n):
            noise = rng.integers(-30, 30, (8, 8))
            Image.fromarray((level + noise).astype(np.uint8)).save(folder / label / name.format(f"{label}-{number}"))
    return folder


def opened(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.parametrize(
    "dataset",
    [
        pytest.param("folder", marks=pytest.mark.slow),
        pytest.param("splits", marks=pytest.mark.slow),
        pytest.param("mnist", marks=pytest.mark.long),
    ],
)
def test_it_is_read_once_after_the_winner_was_stored(folder: Path, tmp_path: Path, dataset: str):
    data = Path(os.environ.get("SEARCH_DATA_DIR", f"{CHECKOUT}/../shared/data"))
    if dataset == "mnist" and not (data / "MNIST/raw" / TEST_FILES[0]).exists():
        pytest.skip("the real MNIST files are not here; name their folder with SEARCH_DATA_DIR")
    watched = ("test-images.npy", "test-labels.npy", *(TEST_FILES if dataset == "mnist" else ()))
    name = dataset if dataset == "mnist" else f"folder:{tmp_path / 'pictures'}"
    files = set[str]()
    if dataset == "folder":
        image_folder(tmp_path / "pictures")
    if dataset == "splits":
        image_folder(tmp_path / "pictures" / "train")
        held_out = image_folder(tmp_path / "pictures" / "test", 10, "held-out-{}.png", seed=1)
        files = {path.name for path in held_out.rglob("*.png")}
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    log, yardstick = tmp_path / "opened", tmp_path / "yardstick"
    env = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": f"{tmp_path}/watch:{IMPORTABLE}",
        "WATCHED": " ".join((*watched, *files)),
        "WATCH_LOG": str(log),
        "WATCH_DATABASE": str(folder / "optuna.db"),
        "SEARCH_DATA_DIR": str(data if dataset == "mnist" else tmp_path / "data"),
    }
    words = ("--dataset", name, "--trials", 2, "--epochs", 1, "--confirm", 1, "--jobs", 1, "--no-register")
    words += ("--fix", "family=mlp") if dataset == "mnist" else ()
    result = search(*words, cwd=folder, env=env)
    assert result.returncode == 0, result.stderr
    all_reads = opened(log)
    reads = [read for read in all_reads if read["file"] in watched]
    decoded = [read for read in all_reads if read["file"] in files]

    alone = {**env, "WATCH_LOG": str(yardstick)}
    if dataset == "mnist":  # the first reading makes arrays of the files
        alone["XDG_CACHE_HOME"] = str(tmp_path / "other cache")
    subprocess.run(
        [sys.executable, "-c", ONE_READING, name],
        check=True,
        cwd=folder,
        timeout=60,
        env=environment(alone),
    )
    assert [read["file"] for read in reads] == [read["file"] for read in opened(yardstick)]
    assert {read["file"] for read in reads} == set(watched)
    assert len({read["process"] for read in reads}) == 1
    stored = [read["winner"] for read in reads]
    assert stored[0] is not None
    assert stored[0]["run"] == f"refit-{stored[0]['number']}"
    assert stored == [stored[0]] * len(stored)
    processes = set(log.with_name("opened.watching").read_text().split())
    assert len(processes) > 1  # workers were watched as well
    assert str(reads[0]["process"]) in processes
    # The files of a test folder are decoded once, before the search, by the process that later reads the arrays.
    assert sorted(read["file"] for read in decoded) == sorted(files)
    assert {(read["process"], read["winner"]) for read in decoded} <= {(reads[0]["process"], None)}

    again = search(*words, cwd=folder, env=env)
    assert "nothing was left to do" in again.stdout
    assert search("report", cwd=folder, env=env).returncode == 0
    assert opened(log) == all_reads
