"""The command on a CUDA device: a whole search, limits on latency, and kernels that fail.

`pytest -m gpu` runs it, where MLflow and Optuna are installed.
"""

from __future__ import annotations

import json
from pathlib import Path

from cuda_device import DEVICE, NEEDS_DEVICE, NEEDS_STORES
from device_faults import search_with_faults
from shell import in_process, rows, search

from objectives.images.objective import ImageClassification

pytestmark = [*NEEDS_DEVICE, NEEDS_STORES]

KIND = DEVICE.partition(":")[0]
DIGITS = ("--dataset", "digits", "--device", KIND, "--jobs", 1, "--epochs", 2)


def test_a_whole_search_within_a_limit_of_latency(folder: Path):
    """The limit lies between the MLP and the large CNN of the baselines."""
    objective = ImageClassification("digits")
    objective.prepare()
    known = objective.baselines()
    mlp, cnn = (objective.latency_ms(known[name], DEVICE) for name in ("tutorial MLP, Adam", "strong CNN, one cycle"))
    limit_ms = (mlp * cnn) ** 0.5
    result = search(*DIGITS, "--trials", 6, "--max-latency-ms", f"{limit_ms:.4f}", cwd=folder)
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    shown = json.loads(in_process("show", "digits", "--json", "--workspace", folder).stdout)
    trials, summary = {trial["baseline"] or trial["number"]: trial for trial in shown["trials"]}, shown["summary"]
    assert len(trials) == 6
    assert trials["tutorial MLP, Adam"]["state"] == "COMPLETE", said
    assert trials["strong CNN, one cycle"]["constraints"]["latency_ms"] > 0, said
    assert "ms a prediction: above the limit)" in said
    winner = shown["trials"][summary["number"]]
    assert winner["constraints"]["latency_ms"] <= 0
    confirmed = {candidate["number"]: candidate["values"] for candidate in summary["confirmation"]["candidates"]}
    assert len(confirmed[winner["number"]]) == 4  # folds
    assert (summary["run"], summary["refit"] is not None) == (f"refit-{winner['number']}", True)
    assert summary["test"]["accuracy"] > 0.8
    assert summary["model"]["version"] == "1"
    assert "test accuracy: " in said
    kinds = dict(rows(folder / "mlflow.db", "SELECT value, count(*) FROM tags WHERE key = 'kind' GROUP BY 1"))
    assert (kinds["study"], kinds["trial"], kinds["refit"]) == (1, 6, 1)
    devices = rows(folder / "mlflow.db", "SELECT value, count(*) FROM tags WHERE key = 'device' GROUP BY 1")
    assert devices == [(DEVICE, sum(kinds.values()))]


def test_a_limit_of_latency_that_no_configuration_keeps_is_said(folder: Path):
    result = search(*DIGITS, "--trials", 2, "--max-latency-ms", 0.0001, cwd=folder)
    assert result.returncode == 1, result.stdout
    assert "no trial of study 'digits' is within its limits, so no winner can be chosen; the nearest" in result.stderr
    assert "type a higher one, and add --study NAME" in result.stderr


def test_a_failed_assertion_on_the_device_ends_no_search(folder: Path):
    search_with_faults(folder, KIND)
