"""Whole commands: what they print, and what they store."""

from __future__ import annotations

import html
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw
from shell import RUNS, TOY, Finished, contents, environment, in_process, rows, runs_by_kind, search

from objectives.devices import processor
from search.common.config import Config
from search.common.system import usable_cores
from search.study.records import StudyRecord

TAG = "SELECT value FROM tags WHERE run_uuid = ? AND key = ?"


def tag(database: Path, run: str, key: str) -> str | None:
    values = rows(database, TAG, run, key)
    return values[0][0] if values else None


# A finished search --------------------------------------------------------------------------------------------------


def test_each_trial_has_one_run(finished: Finished):
    trials = rows(finished.folder / "optuna.db", "SELECT number, state FROM trials ORDER BY number")
    assert trials == [(0, "COMPLETE"), (1, "COMPLETE"), (2, "COMPLETE")]
    runs = rows(finished.folder / "mlflow.db", RUNS)
    (shown,) = json.loads(in_process("studies", "--json", "--workspace", finished.folder).stdout)
    confirmed = [len(candidate["values"]) for candidate in shown["summary"]["confirmation"]["candidates"]]
    assert len(confirmed) == 3
    assert max(confirmed) == 4  # folds; a candidate that is clearly behind gets fewer
    kinds = {kind: len(runs_of_kind) for kind, runs_of_kind in runs_by_kind(finished.folder).items()}
    assert kinds == {"study": 1, "trial": 3, "confirm": sum(confirmed), "refit": 1}
    assert [(status, stage) for _, status, stage in runs] == [("FINISHED", "active")] * sum(kinds.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "store",
    [
        pytest.param("sqlite:////nowhere/elsewhere.db", marks=pytest.mark.long),
        pytest.param("http://127.0.0.1:9", marks=pytest.mark.long),
        pytest.param("databricks", marks=pytest.mark.long),
    ],
)
def test_variables_of_mlflow_send_neither_runs_nor_models_elsewhere(folder: Path, store: str):
    variables = {"MLFLOW_TRACKING_URI": store, "MLFLOW_REGISTRY_URI": store, "MLFLOW_EXPERIMENT_ID": "9"}
    variables |= {"MLFLOW_RUN_ID": "0" * 32, "MLFLOW_ACTIVE_MODEL_ID": "m-1", "MLFLOW_ENABLE_ASYNC_LOGGING": "true"}
    small = ("--dataset", "digits", "--engine", "inline", "--epochs", 1, "--confirm", 0, "--no-refit", "--trials", 1)
    done = search(*small, cwd=folder, env=variables)
    assert done.returncode == 0, done.stderr
    assert (
        "a search does not use MLFLOW_TRACKING_URI, MLFLOW_REGISTRY_URI, MLFLOW_EXPERIMENT_ID, MLFLOW_RUN_ID and"
        in (done.stdout)
    )
    assert 'models go to mlflow.db in the workspace. To send them there, add --tracking-uri "$MLFLOW_' in done.stdout
    assert "registered: digits version 1, alias champion" in done.stdout
    assert "rejected" not in done.stdout + done.stderr
    assert rows(folder / "mlflow.db", "SELECT name, version FROM model_versions") == [("digits", 1)]
    assert len(rows(folder / "mlflow.db", RUNS)) == 2
    predicted = search("predict", "digits:0", cwd=folder, env=variables)
    assert "model: models:/digits@champion, version 1" in predicted.stdout, predicted.stderr


def test_runs_have_their_tags_and_their_parent(finished: Finished):
    database = finished.folder / "mlflow.db"
    runs = [run for run, *_ in rows(database, RUNS)]
    (parent,) = [run for run in runs if tag(database, run, "kind") == "study"]
    trials = [run for run in runs if run != parent]
    assert {tag(database, run, "mlflow.parentRunId") for run in trials} == {parent}
    assert {tag(database, run, "optuna.trial.number") for run in trials} == {"0", "1", "2"}
    assert {tag(database, run, "optuna.study.name") for run in runs} == {"digits"}
    assert {tag(database, run, "optuna.state") for run in trials} == {"COMPLETE"}
    assert all(tag(database, run, f"version.{name}") for run in runs for name in ("torch", "optuna", "mlflow"))
    (winner,) = [run for run in trials if tag(database, run, "winner") == "true"]
    assert " ★ " in str(tag(database, winner, "mlflow.runName"))
    for run in (parent, winner):
        assert "**Winner of `digits`: trial" in str(tag(database, run, "mlflow.note.content"))
    (shown,) = json.loads(in_process("studies", "--json", "--workspace", finished.folder).stdout)
    assert sorted(trial["run_id"] for trial in shown["trials"]) == runs_by_kind(finished.folder)["trial"]


@pytest.mark.slow
def test_names_of_runs_mark_the_winner_and_failures(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOY_MODE", "error_right")
    database, marked, winners = folder / "mlflow.db", {}, []
    for n in (2, 6):  # the longer search has a better winner
        words = (*TOY, "--engine", "inline", "--pruner", "none", "--trials", n, "--workspace", folder)
        assert in_process(*words).exit_code == 0
        (shown,) = json.loads(in_process("studies", "--json", "--workspace", folder).stdout)
        winners.append(shown["summary"]["number"])
        names = [str(tag(database, run, "mlflow.runName")) for run, *_ in rows(database, RUNS)]
        marked = {mark: sorted(int(name[1:4]) for name in names if f" {mark} " in name) for mark in "★✕"}
        assert marked["★"] == winners[-1:]
    assert winners[0] != winners[1]
    failed = [trial["number"] for trial in shown["trials"] if trial["state"] == "FAIL"]
    assert marked["✕"] == failed != []


def test_trials_have_curves_parameters_and_a_dataset(finished: Finished):
    database = finished.folder / "mlflow.db"
    trials = [run for run, *_ in rows(database, RUNS) if tag(database, run, "kind") == "trial"]
    for run in trials:
        points = rows(
            database, "SELECT key, count(*), min(step), max(step) FROM metrics WHERE run_uuid=? GROUP BY key", run
        )
        curves = {key: (n, first, last) for key, n, first, last in points}
        for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "images_per_s", "train_seconds"):
            assert curves[name][1:] == (1, 6) or name == "train_seconds", f"{name}: {curves[name]}"
        assert curves["val/accuracy"] == (6, 1, 6)
        params = dict(rows(database, "SELECT key, value FROM params WHERE run_uuid=?", run))
        assert {"family", "optimizer", "batch_size", "seed", "epochs"} <= params.keys()
        assert params["epochs"] == "6"
    digests = rows(database, "SELECT DISTINCT name, length(digest) FROM datasets")
    assert digests == [("digits", 32)]


def test_runs_have_their_artifacts(finished: Finished):
    database = finished.folder / "mlflow.db"
    for run, *_ in rows(database, RUNS):
        ((uri,),) = rows(database, "SELECT artifact_uri FROM runs WHERE run_uuid=?", run)
        names = {path.name for path in (finished.folder / uri).iterdir()}
        if tag(database, run, "kind") == "study":
            assert {"report.html", "leaderboard.csv", "summary.json"} <= names
        else:
            assert {"params.json", "weights.pt"} <= names
            if tag(database, run, "kind") != "refit":  # of which nothing was held back to draw
                assert {"confusion_matrix.png", "sample_predictions.png"} <= names


def test_a_search_leaves_no_temporary_files(finished: Finished):
    names = {path.name for path in finished.folder.iterdir() if not path.name.endswith((".locks", "-wal", "-shm"))}
    assert names == {"mlflow.db", "mlruns", "optuna.db"}
    assert not list(finished.folder.glob("mlruns/checkpoints/**/*.pt"))
    assert not list(finished.folder.glob("mlruns/weights/**/*.pt"))
    (journal,) = finished.folder.glob("mlruns/journal/*.db")
    assert rows(journal, "SELECT count(*) FROM writes") == [(0,)]


def test_a_search_says_first_what_data_and_device_it_uses(finished: Finished):
    first, data, training, validation, test, source, device = finished.result.stdout.splitlines()[:7]
    assert first == "the search starts: it imports its libraries and reads its data"
    assert re.match(r"data: digits, 10 classes of 139 to 146 images \(without test images\), 8x8 pixels, grey$", data)
    assert re.match(r"  training +1,150 images", training)
    assert re.match(r"  validation +288 images", validation)
    assert re.match(r"  test +359 images, .*read once", test)
    assert re.match(r"  source +scikit-learn", source)
    workers = usable_cores()
    assert device == f"device: {workers} worker{'s' * (workers > 1)} on {processor()}"
    (shown,) = json.loads(in_process("studies", "--json", "--workspace", finished.folder).stdout)
    assert shown["provenance"]["hardware"]["workers"] == device.removeprefix("device: ")
    page = (finished.folder / "mlruns" / "reports" / "digits.html").read_text(encoding="utf-8")
    found = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html.unescape(page)))
    assert [f"data: {found['data']}", f"device: {found['device']}"] == [data, device]
    assert all(found[line.split()[0]] in line for line in (training, validation, test, source))


def test_the_summary_shows_the_winner_and_the_next_steps(finished: Finished):
    out = finished.result.stdout
    lines = [line for line in out.splitlines() if re.match(r"\[\d/3\]  trial \d  ", line)]
    assert len(lines) == 3
    seen = r"val_accuracy 0\.9\d+ confirmed, 0\.9\d+ in the search"
    assert re.search(rf"^winner: trial \d, .* {seen}$", out, re.M)
    assert len(re.findall(r"^  #\d +0\.\d{4}  0\.\d{4} to [01]\.\d{4}  0\.\d{4}", out, re.M)) == 3
    assert re.search(r"^refit on training and validation images: 1,438 images, 24 epochs$", out, re.M)
    assert re.search(r"^test accuracy: 9\d\.\d\d% \(95% interval .* n = 3\d\d, measured once\)$", out, re.M)
    assert re.search(r"^registered: digits version 1, alias champion \(models:/digits/1\)$", out, re.M)
    assert len(re.findall(r"^  python -m search (ui|report|predict)", out, re.M)) == 3
    confirmed = (
        r"^confirmed on (up to )?4 folds of all 1,438 images but the test split; 95% intervals, corrected for picking "
        r"the best of 3 trials:$"
    )
    assert re.search(confirmed, out, re.M)
    gain = r"^  [+-]0\.\d{4} ± 0\.\d{4} over tutorial .* \(0\.\d{4}, mean of [1-4] folds?\)(: may be chance)?$"
    gains = re.findall(gain, out, re.M)
    assert len(gains) == 2  # the winner is the third of the tutorials' networks
    assert finished.result.stderr == ""


@pytest.mark.slow
def test_a_finished_search_changes_nothing_when_repeated(finished: Finished, tmp_path: Path):
    before = contents(finished.folder)
    result = search("--dataset", "digits", "--trials", 3, "--epochs", 6, cwd=finished.folder)
    assert result.returncode == 0, result.stderr
    assert contents(finished.folder) == before
    assert "nothing was left to do; to continue, type --trials 6 or another number above 3" in result.stdout


@pytest.mark.slow
def test_images_are_classified_and_drawn(finished: Finished, tmp_path: Path):
    seven = Image.new("RGB", (120, 160), "white")
    ImageDraw.Draw(seven).line([(25, 30), (95, 30), (50, 140)], fill="black", width=16)
    seven.save(tmp_path / "seven.png")
    (tmp_path / "no.png").write_bytes(b"this is no picture")
    before = contents(finished.folder)
    out = tmp_path / "out.png"
    result = search(
        "predict",
        tmp_path / "seven.png",
        tmp_path / "no.png",
        "digits:0-9",
        "--show",
        out,
        "--workspace",
        finished.folder,
        cwd=tmp_path,
    )
    assert result.returncode == 1
    assert contents(finished.folder) == before
    out_text = result.stdout
    assert "model: models:/digits@champion" in out_text
    assert re.search(r"seven\.png\s+\d\s+[01]\.\d{4}\s+.*inverted", out_text)
    assert len(re.findall(r"^digits:\d\s+\d\s+[01]\.\d{4}\s+\d", out_text, re.M)) == 10
    agree = re.search(r"^(\d+) of 10 are correct$", out_text, re.M)
    assert agree
    assert int(agree[1]) >= 8
    assert len(re.findall(r"^Error: .*no\.png", out_text + result.stderr, re.M)) == 1
    with Image.open(out) as drawn:
        assert np.asarray(drawn.convert("L")).std() > 10
        assert min(drawn.size) > 100


@pytest.mark.slow
def test_a_study_is_listed_shown_and_reported(finished: Finished, tmp_path: Path):
    before = contents(finished.folder)
    listed = search("studies", "--workspace", finished.folder, cwd=tmp_path)
    assert re.search(r"digits\s+finished\s+3\s+0\.9\d+\s+9\d\.\d\d%\s+models:/digits/1", listed.stdout), listed
    shown = search("show", "digits", "--workspace", finished.folder, cwd=tmp_path)
    assert len(re.findall(r"^#00\d\s+complete\s+0\.\d{4}", shown.stdout, re.M)) == 3, shown
    page = tmp_path / "page.html"
    reported = search("report", "--output", page, "--workspace", finished.folder, cwd=tmp_path)
    assert (reported.returncode, reported.stdout.strip()) == (0, f"report: {page}"), reported
    assert "digits" in page.read_text()
    assert contents(finished.folder) == before


def test_json_output_has_the_whole_study(finished: Finished):
    place = ("--workspace", finished.folder)
    shown = json.loads(in_process("show", "digits", "--json", *place).stdout)
    assert [trial["number"] for trial in shown["trials"]] == [0, 1, 2]
    assert shown["summary"]["test"]["n"] == 359
    assert shown["trials"][0]["state"] == "COMPLETE"
    assert json.loads(in_process("studies", "--json", *place).stdout) == [shown]


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_a_study_is_exported_as_a_table(finished: Finished, tmp_path: Path, form: str):
    words = ("export", "digits", "--format", form, "--workspace", finished.folder)
    printed = in_process(*words).stdout_bytes
    assert in_process(*words, "--output", tmp_path / "table").output == ""
    assert (tmp_path / "table").read_bytes() == printed
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[form]
    table = read(io.BytesIO(printed))
    assert list(table["number"]) == [0, 1, 2]
    assert {"state", "value", "seconds", "params.optimizer", "params.batch_size", "metrics.parameters"} <= set(table)
    assert table["params.family"].tolist() == ["mlp", "mlp", "cnn"]
    (stored,) = rows(
        finished.folder / "optuna.db", "SELECT value FROM trial_values JOIN trials USING (trial_id) WHERE number = 2"
    )[0]
    assert table["value"][2] == pytest.approx(stored, rel=1e-14)


def test_watching_a_finished_study_ends_immediately(finished: Finished):
    shown = in_process("watch", "--workspace", finished.folder).stdout
    assert shown.startswith("study digits: 3 of 3 trials done\n")
    assert "test accuracy: " in shown


def test_ctrl_c_ends_any_command_with_status_130(monkeypatch: pytest.MonkeyPatch):
    def interrupted(config: Config) -> list[StudyRecord]:
        raise KeyboardInterrupt

    monkeypatch.setattr("search.commands.studies.all_studies", interrupted)
    assert in_process("studies").exit_code == 130


def test_nothing_is_delivered_or_promoted_to_another_store(finished: Finished):
    result = search("promote", "digits", "--tracking-uri", "http://127.0.0.1:9", cwd=finished.folder)
    message = "Error: study 'digits': it is tracked here; leave out --tracking-uri\n"
    assert (result.returncode, result.stderr) == (2, message)


# The installed command ----------------------------------------------------------------------------------------------

COMMAND = "import sys; from search.cli.main import main; main()"
"""What pip writes into the file `search` of an environment."""


@pytest.mark.parametrize(
    ("env", "message"),
    [
        pytest.param({}, "--objective 'mine:thing' gives 3, which cannot be searched", id="found"),
        pytest.param({"PYTHONSAFEPATH": "1"}, "No module named 'mine'", id="forbidden"),
    ],
)
def test_the_installed_command_finds_objectives_in_this_folder(tmp_path: Path, env: dict[str, str], message: str):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "search").write_text(COMMAND)
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "mine.py").write_text("thing = 3\n")
    command = [sys.executable, "../bin/search", "--objective", "mine:thing"]
    done = subprocess.run(command, cwd=tmp_path / "place", env=environment(env), capture_output=True, text=True)
    assert (done.returncode, message in done.stderr) == (1, True), done.stderr
