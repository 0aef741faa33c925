"""The temperature of a winner's network: from which trainings it comes, and that a network keeps its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from rich.console import Console

from search.cli.progress import PlainDisplay
from search.commands.run import run
from search.commands.setup import SearchPlan
from search.common.config import Config
from search.common.errors import TrackingError
from search.study import records
from search.study.summary import Calibration, Summary

REFIT = {"confirm": 1, "confirm_seeds": 2, "no_refit": False}
ALONE = {"confirm": 0, "no_refit": True}


def searched(folder: Path, **settings: Any) -> tuple[Summary, Calibration]:
    """One start of a search with one trial."""
    settings = {"trials": 1, "epochs": 1, "no_register": True, **settings}
    config = Config(dataset="digits", engine="inline", workspace=folder, **settings)
    summary = run(SearchPlan.of(config), PlainDisplay(Console(quiet=True))).study.summary
    assert summary is not None
    assert summary.calibration is not None
    return summary, summary.calibration


def weights(folder: Path) -> list[Path]:
    """The weights of all trainings, in the order in which they ended."""
    found = folder.glob("mlruns/artifacts/digits/*/artifacts/weights.pt")
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.slow
def test_what_is_absent_or_not_finite_is_left_out_and_named(folder: Path):
    searched(folder, confirm=1, confirm_seeds=3, no_refit=True)
    _, _, absent, broken = weights(folder)
    absent.unlink()
    state = torch.load(broken, weights_only=True)
    torch.save({name: tensor * torch.nan for name, tensor in state.items()}, broken)
    summary, calibration = searched(folder, confirm=1, confirm_seeds=3, no_refit=False)
    assert (summary.run, calibration.runs, calibration.missing) == ("refit-0", ("confirm-0-fold-1",), None)
    assert calibration.left_out == (
        "the weights of confirm-0-fold-2 are neither in the workspace nor in MLflow; "
        "the network of confirm-0-fold-3 gives logits that are not finite"
    )


@pytest.mark.slow
def test_weights_that_cannot_be_read_now_are_read_by_the_next_start(folder: Path):
    searched(folder, confirm=1, confirm_seeds=2, no_refit=True)
    path = weights(folder)[-1]
    stored = path.read_bytes()
    path.unlink()
    path.mkdir()
    with pytest.raises(TrackingError, match=r"weights\.pt of run .* cannot be read"):
        searched(folder, **REFIT)
    path.rmdir()
    path.write_bytes(stored)
    for journal in folder.glob("mlruns/journal*/**/*"):  # MLflow is asked which runs they were
        if journal.is_file():
            journal.unlink()
    _, calibration = searched(folder, **REFIT)
    assert (calibration.runs, calibration.left_out) == (("confirm-0-fold-1", "confirm-0-fold-2"), None)


@pytest.mark.slow
def test_a_network_that_wins_again_keeps_its_temperature(folder: Path):
    """Its registered version has it. More fresh seeds would give another one."""
    first, calibration = searched(folder, **{**REFIT, "confirm_seeds": 1})
    assert searched(folder, **ALONE)[0].run == "trial-0"
    again, kept = searched(folder, **REFIT)
    assert (first.run, again.run) == ("refit-0", "refit-0")
    assert kept == calibration
    searched(folder, **ALONE)
    study = optuna.load_study(study_name="digits", storage=f"sqlite:///{folder / 'optuna.db'}")
    study.set_user_attr(records.CALIBRATIONS, {})  # as if a version without calibration had tested the network
    again, kept = searched(folder, **REFIT)
    assert (again.run, again.temperature) == ("refit-0", 1.0)
    assert kept.missing == "an earlier version of this program tested this network without a temperature"
