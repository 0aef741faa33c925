"""Searches with `--ensemble`: what is chosen, trained, registered and stored, and that a kill changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import pytest
import torch
from rich.console import Console
from shell import rows
from torch import nn

import search
from objectives.base import Params, Suggest, Task, TestScore, Training
from objectives.images.objective import ImageClassification
from search.cli.output import print_summary
from search.cli.progress import PlainDisplay
from search.commands.run import run
from search.commands.session import ensembles
from search.commands.setup import SearchPlan
from search.common.config import Config
from search.common.errors import UsageError
from search.study import records
from search.study.records import StudyRecord
from search.study.study import StoredStudy
from search.study.summary import Ensemble
from search.tracking.registry.version import versions
from search.tracking.store import connect_mlflow


class Killed(BaseException):
    """Stands for SIGKILL."""


class Some(nn.Module):
    """Leaves a third of the pixels."""

    def __init__(self, part: int) -> None:
        super().__init__()
        kept = np.random.default_rng(part).random(64) < 1 / 3
        self.register_buffer("kept", torch.from_numpy(kept.astype(np.float32)))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels * self.kept


class Quick(ImageClassification):
    """Digits, of which each network sees some pixels only, so that an ensemble pays. Counts reads of the test split.

    Refits are short, and some have no memory.
    """

    reads: ClassVar[list[TestScore]] = []
    full: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        super().__init__("digits")

    def suggest_network(self, trial: Suggest) -> Params:
        return {"part": trial.suggest_int("part", 0, 99)}

    def build_network(self, params: Params) -> nn.Module:
        return nn.Sequential(nn.Flatten(), Some(params["part"]), nn.Linear(64, 10))

    def refit_epochs(self, epochs: int) -> int:
        return epochs

    def start(self, task: Task, device: str) -> Training:
        if task.refit and task.number in self.full:
            raise MemoryError("no room")
        return super().start(task, device)

    def score_test(self, model: Any, device: str) -> TestScore:
        Quick.reads.append(super().score_test(model, device))
        return Quick.reads[-1]


@pytest.fixture(autouse=True)
def fresh() -> None:
    Quick.reads.clear()
    Quick.full.clear()


def searched(folder: Path, **settings: Any) -> StudyRecord:
    """One start of a small search."""
    settings = {"trials": 5, "epochs": 2, "confirm": 1, "confirm_seeds": 1, "pruner": "none", **settings}
    config = Config(objective="test_ensembles:Quick", engine="inline", workspace=folder, **settings)
    return run(SearchPlan.of(config), PlainDisplay(Console(quiet=True))).study


def chosen(study: StudyRecord) -> Ensemble:
    assert study.summary is not None
    assert study.summary.ensemble is not None, study.summary.note
    return study.summary.ensemble


def test_what_cannot_be_averaged_is_refused_before_anything_starts(tmp_path: Path):
    config = Config(objective="toy:Toy", workspace=tmp_path, ensemble=3)
    with pytest.raises(UsageError, match="--ensemble 3: only networks that classify images are averaged; leave the"):
        SearchPlan.of(config)
    config = Config(objective="test_finish:Minimised", workspace=tmp_path, ensemble=3)
    with pytest.raises(UsageError, match="--ensemble 3: an ensemble's val_error is unknown, as it is none of accuracy"):
        SearchPlan.of(config)


@pytest.mark.slow
def test_killed_around_the_choice_it_registers_one_program_and_ends_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    plain = StoredStudy.set_attr
    stored: list[Any] = []
    for is_stored in (False, True):

        def killed(study: StoredStudy, key: str, value: Any, after: bool = is_stored) -> None:
            if key != records.ENSEMBLE or after:
                plain(study, key, value)
            if key == records.ENSEMBLE:
                stored.append(json.loads(json.dumps(value)))
                raise Killed(key)

        monkeypatch.setattr(StoredStudy, "set_attr", killed)
        with pytest.raises(Killed, match=f"^{records.ENSEMBLE}$"):
            searched(folder, ensemble=3, keep="best:1")
    monkeypatch.setattr(StoredStudy, "set_attr", plain)
    study = searched(folder, ensemble=3, keep="best:1")
    assert stored[0] == stored[1] == study.attrs[records.ENSEMBLE]
    ensemble = chosen(study)
    assert ensemble.gain > ensemble.error > 0
    assert 2 <= len(ensemble.members) <= 3
    assert [member.run for member in ensemble.members] == [f"refit-{member.number}" for member in ensemble.members]
    assert sum(not trial.weights_deleted for trial in study.trials) >= 3

    (read,), summary = Quick.reads, study.summary
    assert summary is not None
    assert [entry["run"] for entry in study.attrs[records.TEST_READS]] == [summary.run] == [ensemble.run]
    assert summary.calibration is not None
    assert (summary.calibration.runs, summary.calibration.missing) == ((ensemble.run,), None)
    predictor = search.load(workspace=folder)
    images = read.images[:40]
    assert np.allclose(predictor.predict(images).probabilities, read.probabilities[:40], atol=1e-5)
    assert np.allclose(by_hand(folder, study, ensemble, images), read.probabilities[:40], atol=1e-4)

    print_summary(study)
    shown = capsys.readouterr().out
    total = sum(member.picks for member in ensemble.members)
    named = ", ".join(f"trial {member.number} ({member.picks}/{total})" for member in ensemble.members)
    gain = f"{ensemble.gain:+.4f} ± {ensemble.error:.4f} (one standard error) over the winner alone"
    line = f"ensemble: {named}, chosen from 3 trials; {ensemble.parameters:,.0f} weights in all; {gain}"
    assert line in shown
    (version,) = versions(connect_mlflow(f"sqlite:///{folder}/mlflow.db"), "digits-Quick")
    assert version.tags["ensemble"] == predictor.metadata["ensemble"] == named
    assert version.tags["validation"] == repr(summary.score + ensemble.gain)
    report = (folder / "mlruns/reports/digits-Quick.html").read_text(encoding="utf-8")
    for page in (version.description, report):
        assert f"{named}, chosen from 3 trials" in page  # the others were not kept
    assert searched(folder, ensemble=3, keep="best:1").summary == summary
    assert len(Quick.reads) == 1


def by_hand(folder: Path, study: StudyRecord, ensemble: Ensemble, images: Any) -> Any:
    """The calibrated mean of the members' probabilities, from the weights in MLflow."""
    from objectives.images.training.loop import predict_logits
    from search.study.selection.calibration import probabilities_at

    kinds = rows(
        folder / "mlflow.db",
        "SELECT n.value, k.run_uuid FROM tags k JOIN tags n USING (run_uuid)"
        " WHERE k.key = 'kind' AND k.value = 'refit' AND n.key = 'optuna.trial.number'",
    )
    runs, objective = {int(number): run for number, run in kinds}, Quick()
    mean = 0
    for member, share in zip(ensemble.members, ensemble.shares, strict=True):
        (path,) = folder.glob(f"mlruns/artifacts/*/{runs[member.number]}/artifacts")
        params = json.loads((path / "params.json").read_text())
        network = objective.load_weights(params, (path / "weights.pt").read_bytes())
        mean = mean + share * probabilities_at(1, predict_logits(network, images, "cpu"))
    assert study.summary is not None
    return probabilities_at(study.summary.temperature, np.log(mean))


@pytest.mark.slow
def test_later_starts_without_it_with_another_size_and_without_refit(folder: Path):
    """Each is another network, whose test score is read once more. A member that cannot be refitted is kept."""
    alone = searched(folder, no_register=True)
    assert alone.summary is not None
    assert (alone.summary.ensemble, alone.summary.run) == (None, f"refit-{alone.summary.number}")
    trained = searched(folder, no_register=True, ensemble=3, no_refit=True)
    ensemble, summary = chosen(trained), trained.summary
    assert summary is not None
    assert ensemble.members[0].number == alone.summary.number
    assert {member.run for member in ensemble.members} == {f"trial-{member.number}" for member in ensemble.members}
    assert summary.refit is None
    Quick.full.add(other := ensemble.members[1].number)
    mixed = searched(folder, no_register=True, ensemble=3)
    assert mixed.summary is not None
    failed = f"training trial {other} on all but the test split failed"
    assert mixed.summary.note == f"{failed} (no room); trial-{other} is kept"
    assert [member.run.partition("-")[0] for member in chosen(mixed).members[:2]] == ["refit", "trial"]
    Quick.full.clear()  # the next start has the memory
    assert chosen(searched(folder, no_register=True, ensemble=3)).members[1].run == f"refit-{other}"
    assert searched(folder, no_register=True).summary == alone.summary
    assert len(Quick.reads) == 5


@pytest.mark.slow
def test_all_members_together_are_within_the_limits(folder: Path):
    """Each network has 650 weights."""
    study = searched(folder, max_parameters=1300, ensemble=4, no_refit=True, no_register=True)
    assert chosen(study).parameters == 1300


@pytest.mark.slow
def test_without_another_network_the_winner_stays_alone_and_says_so(folder: Path):
    study = searched(folder, trials=1, ensemble=3, no_register=True)
    assert study.summary is not None
    assert (study.summary.ensemble, study.summary.run) == (None, "refit-0")
    assert study.summary.note == "--ensemble 3: no other trial has weights, so the winner stays alone"
    assert searched(folder, trials=1, ensemble=3, no_register=True).summary == study.summary
    assert len(Quick.reads) == 1


@pytest.mark.slow
def test_a_trial_without_weights_leaves_its_place_to_the_next(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ensembles, "MAX_CANDIDATES", 2)
    study = searched(folder, trials=3, no_register=True)
    assert study.summary is not None
    winner = study.summary.number
    second, third = [trial.number for trial in study.ranked() if trial.number != winner]
    stored = optuna.load_study(study_name=study.name, storage=f"sqlite:///{folder / 'optuna.db'}")
    stored.set_user_attr(records.DELETED, [second])
    choice = searched(folder, trials=3, no_register=True, ensemble=2).attrs[records.ENSEMBLE]
    assert choice["asked"]["trials"] == [winner, third]
    stored.set_user_attr(records.DELETED, [second, third])  # after the choice, which stays
    again = searched(folder, trials=3, no_register=True, no_refit=True, ensemble=2)
    assert again.attrs[records.ENSEMBLE] == choice
