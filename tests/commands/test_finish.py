"""The finish of a search, in this process: what is read and stored, in which order, and after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from shell import rows
from torch import nn

from objectives.base import EpochResult, ObjectiveError, Params, Suggest, Task, TestScore, Training
from objectives.images.objective import ImageClassification
from search.cli.progress import PlainDisplay
from search.commands.finish import Finish
from search.commands.run import run
from search.commands.setup import SearchPlan
from search.common.config import Config
from search.common.errors import UsageError
from search.study.records import StudyRecord
from search.study.selection.calibration import calibration_error
from search.study.study import StoredStudy
from search.study.summary import Summary, counted
from search.study.texts.calibrated import calibration_text
from search.study.texts.tested import reads_of_test_split
from search.tracking.journal import Journal
from search.tracking.registry import promotion, registration
from search.tracking.registry.promotion import CHAMPION, aliases_of
from search.tracking.registry.version import versions
from search.tracking.store import connect_mlflow


class Killed(BaseException):
    """Stands for SIGKILL."""


class Counted(ImageClassification):
    """Digits; counts the reads of the test split, and can be killed right after one."""

    reads = 0
    killed = False
    longer = 1

    def __init__(self) -> None:
        super().__init__("digits")

    def refit_epochs(self, epochs: int) -> int:
        return epochs * Counted.longer

    def score_test(self, model: Any, device: str) -> TestScore:
        Counted.reads += 1
        score = super().score_test(model, device)
        if Counted.killed:
            raise Killed("right after the reading")
        return score


class Minimised(Counted):
    """The metric is the error, which is minimised."""

    metric, direction = "val_error", "minimize"

    def start(self, task: Task, device: str) -> Training:
        return Mistakes(super().start(task, device))


class Smoothed(Counted):
    """A network of one's own whose logits are too small. Keeps the score that it has without a temperature."""

    plain: TestScore

    def score_test(self, model: Any, device: str) -> TestScore:
        Smoothed.plain = super().score_test(model.network, device)
        return super().score_test(model, device)

    def suggest_network(self, trial: Suggest) -> Params:
        return {}

    def build_network(self, params: Params) -> nn.Module:
        layers = nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        return nn.Sequential(*layers, Shrinking())


class Shrinking(nn.Module):
    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return 1.5 * logits.tanh()


class Mistakes:
    def __init__(self, training: Training) -> None:
        self.checkpoint, self.outcome, self._training = training.checkpoint, training.outcome, training

    def __next__(self) -> EpochResult:
        result = next(self._training)
        return replace(result, value=None if result.value is None else 1 - result.value)


class OutOfMemory(Counted):
    """The refit runs out of memory while `full` is set."""

    full = True

    def start(self, task: Task, device: str) -> Training:
        if task.refit and OutOfMemory.full:
            raise MemoryError("no room for 12 GiB")
        return super().start(task, device)


@pytest.fixture(autouse=True)
def unread() -> Iterator[None]:
    yield
    Counted.reads, Counted.killed, Counted.longer = 0, False, 1


def searched(folder: Path, objective: str = "Counted", **settings: Any) -> StudyRecord:
    """One start of a small search."""
    settings = {"trials": 1, "epochs": 1, "confirm": 0, "no_refit": True, "no_register": True} | settings
    target = objective if ":" in objective else f"test_finish:{objective}"
    config = Config(objective=target, engine="inline", workspace=folder, **settings)
    return run(SearchPlan.of(config), PlainDisplay(Console(quiet=True))).study


def read_by(folder: Path) -> list[str]:
    """The runs of the reads of the test split that the study stores."""
    ((stored,),) = rows(folder / "optuna.db", "SELECT value_json FROM study_user_attributes WHERE key = 'test_reads'")
    return [read["run"] for read in json.loads(stored)]


@pytest.mark.slow
def test_another_winning_network_reads_the_test_split_again_and_the_count_is_shown(folder: Path):
    Counted.reads = 0
    study = searched(folder)
    assert (Counted.reads, read_by(folder), reads_of_test_split(study)) == (1, ["trial-0"], "measured once")
    assert searched(folder).summary == study.summary
    assert Counted.reads == 1
    study = searched(folder, no_refit=False)
    assert (Counted.reads, read_by(folder)) == (2, ["trial-0", "refit-0"])
    assert reads_of_test_split(study) == "the test split was read 2 times in this study"
    notes = rows(folder / "mlflow.db", "SELECT value FROM tags WHERE key = 'mlflow.note.content'")
    texts = [note for (note,) in notes if "Test accuracy" in note]
    assert texts
    assert all(f"n = 359), {reads_of_test_split(study)}." in note for note in texts)
    assert reads_of_test_split(study) in (folder / "mlruns/reports/digits.html").read_text()


@pytest.mark.slow
def test_a_refit_is_shown_with_the_epochs_that_it_had(folder: Path):
    Counted.killed = True
    with pytest.raises(ObjectiveError, match="score_test failed: Killed"):
        searched(folder, no_refit=False)
    Counted.killed, Counted.longer = False, 2  # as in another version
    summary = searched(folder, no_refit=False).summary
    assert summary is not None
    assert summary.refit is not None
    assert (summary.run, summary.refit["epochs"]) == ("refit-0", 1)


@pytest.mark.slow
def test_probabilities_are_calibrated_by_what_is_left_of_the_trainings(folder: Path):
    """Without a confirmation by the trial's own predictions, else by those of folds; without any, not at all."""
    alone = searched(folder).summary
    assert alone is not None
    assert alone.calibration is not None
    assert (alone.calibration.runs, alone.calibration.missing) == (("trial-0",), None)
    confirmed = searched(folder, confirm=1, confirm_seeds=2).summary
    assert confirmed is not None
    assert confirmed.calibration is not None
    assert (confirmed.run, confirmed.calibration.runs) == ("confirm-0-fold-1", ("confirm-0-fold-1", "confirm-0-fold-2"))
    weights = sorted(folder.glob("mlruns/artifacts/digits/*/artifacts/weights.pt"))
    assert len(weights) == 3
    for path in (*weights, *folder.glob("mlruns/weights/*/*.pt")):
        path.unlink()
    refitted = searched(folder, confirm=1, confirm_seeds=2, no_refit=False).summary
    assert refitted is not None
    assert refitted.calibration is not None
    assert (refitted.run, refitted.temperature, refitted.calibration.runs) == ("refit-0", 1.0, ())
    text = calibration_text(refitted)
    assert text.startswith("not calibrated, because the weights of confirm-0-fold-1 are neither in the workspace nor ")
    assert text.endswith(
        "confirm-0-fold-2 are neither in the workspace nor in MLflow. For calibrated probabilities, add "
        "--study NAME to the command: another study trains again"
    )
    assert refitted.calibration.test is not None
    assert refitted.calibration.test.before == pytest.approx(refitted.calibration.test.after, abs=1e-6)


@pytest.mark.slow
def test_a_temperature_changes_the_loss_and_no_answer_on_the_test_split(folder: Path):
    summary = searched(folder, "Smoothed", epochs=3, confirm=1, confirm_seeds=1).summary
    plain = Smoothed.plain
    assert summary is not None
    assert summary.test is not None
    assert summary.test["accuracy"] == plain.accuracy
    assert summary.temperature < 1
    assert summary.test["loss"] < plain.loss
    assert summary.calibration is not None
    assert summary.calibration.test is not None
    assert summary.calibration.test.before == pytest.approx(calibration_error(plain.labels, plain.probabilities))
    assert summary.calibration.test.after < summary.calibration.test.before


@pytest.mark.slow
def test_a_read_is_counted_even_if_its_result_was_lost(folder: Path):
    Counted.killed = True
    with pytest.raises(ObjectiveError, match="score_test failed: Killed: right after the reading"):
        searched(folder)
    assert read_by(folder) == ["trial-0"]
    Counted.killed = False
    study = searched(folder)
    assert (Counted.reads, read_by(folder)) == (2, ["trial-0"] * 2)
    assert reads_of_test_split(study) == "the test split was read 2 times in this study"


@pytest.mark.slow
def test_the_same_command_repeats_a_refit_that_ran_out_of_memory(folder: Path):
    study = searched(folder, "OutOfMemory", no_refit=False)
    assert study.summary is not None
    assert "(no room for 12 GiB); trial-0 is kept" in str(study.summary.note)
    OutOfMemory.full = False
    study = searched(folder, "OutOfMemory", no_refit=False)
    assert study.summary is not None
    assert (study.summary.run, study.summary.note) == ("refit-0", None)
    assert read_by(folder) == ["trial-0", "refit-0"]


@pytest.fixture
def unexported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers versions without a model, whose export takes seconds."""
    monkeypatch.setattr(registration, "_log", lambda *_: ("file:///nowhere", None))


@pytest.mark.slow
@pytest.mark.usefixtures("unexported")
def test_more_fresh_seeds_update_the_version(folder: Path):
    """The same network stays the same version and is not exported again; its tags and description follow."""
    for seeds in (1, 2):
        study = searched(folder, confirm=1, confirm_seeds=seeds, no_refit=False, no_register=False)
        (version,) = versions(connect_mlflow(f"sqlite:///{folder}/mlflow.db"), "digits")
        assert study.summary is not None
        assert version.tags["validation"] == repr(study.summary.score)
        assert version.tags["confirmed_val_accuracy"] == f"{study.summary.score:.4f}"
        assert version.tags["protocol.fresh_seeds"] == f"{seeds} on 4 folds"
        assert version.tags["network"] == "refit"
        mean = f"mean of {counted(seeds, 'training')} of this configuration on folds of all 1,438 images but the test "
        assert f"{mean}split, not of" in version.description
    assert Counted.reads == 1


@pytest.mark.slow
@pytest.mark.usefixtures("unexported")
@pytest.mark.parametrize(("objective", "metric"), [("Minimised", "val_error"), ("regression:Curve", "mse")])
def test_the_lower_value_is_champion_if_the_metric_is_minimised(folder: Path, objective: str, metric: str):
    """For a classifier and for a regression: two studies register the same model."""
    scores = []
    for seed in (1, 2):
        wanted = {"study": f"seed-{seed}", "seed": seed, "trials": 2, "confirm": 1, "confirm_seeds": 1}
        summary = searched(folder, objective, no_register=False, register="low", **wanted).summary
        assert summary is not None
        scores.append(summary.score)
    client = connect_mlflow(f"sqlite:///{folder}/mlflow.db")
    registered = versions(client, "low")
    assert [version.tags["validation"] for version in registered] == [repr(score) for score in scores]
    assert [version.tags[f"confirmed_{metric}"] for version in registered] == [f"{score:.4f}" for score in scores]
    names = {name for version in registered for name in version.tags if not name.startswith("test_")}
    assert not any("accuracy" in name for name in names)
    assert registered[0].tags["protocol.direction"] == "minimize"
    assert aliases_of(client.get_registered_model("low"))[CHAMPION] == 1 + scores.index(min(scores))
    assert all(f"| {metric} |" in version.description for version in registered)
    assert all(("on the test split" in version.description) == (objective == "Minimised") for version in registered)


def test_an_objective_that_lacks_one_method_of_a_classifier_gives_a_notice(folder: Path):
    plan = SearchPlan.of(Config(objective="test_checks:Unfitted", engine="inline", workspace=folder))
    lacking = "lacks refit_epochs, so it does not count as objectives.base.ImageClassifier"
    with pytest.raises(Killed, match=lacking):
        run(plan, Hearing(Console(quiet=True)))


class Hearing(PlainDisplay):
    """Ends the search with the first notice."""

    def notice(self, text: str) -> None:
        raise Killed(text)


def test_register_is_an_error_if_the_objective_cannot_be_registered(folder: Path):
    with pytest.raises(UsageError, match="--register x: the winner of objective 'toy' cannot be registered; give it"):
        searched(folder, "toy:Toy", no_register=False, register="x")


@pytest.mark.slow
@pytest.mark.usefixtures("unexported")
def test_a_finish_that_is_killed_after_every_step_ends_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Each start is killed one step later than the one before."""
    steps: list[str] = []
    limit = 0

    def stepping(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if steps:
                steps.append(name)
                if len(steps) == limit + 1:
                    raise Killed
            return result

        return step

    def finishing(finish: Finish, winner: Summary) -> Summary:
        steps.append("begun")
        return whole(finish, winner)

    whole = Finish.run
    monkeypatch.setattr(Finish, "run", finishing)
    places = (StoredStudy, "set_attr"), (Journal, "append")
    for owner, name in (*places, (registration, "_create_version"), (promotion, "_move_alias")):
        monkeypatch.setattr(owner, name, stepping(name, getattr(owner, name)))
    wanted = {"confirm": 1, "confirm_seeds": 1, "no_refit": False, "no_register": False}
    study = None
    while study is None:
        limit += 1
        steps.clear()
        with suppress(Killed):
            study = searched(folder, **wanted)
    assert limit > 10
    assert study.summary is not None
    client = connect_mlflow(f"sqlite:///{folder}/mlflow.db")
    (version,) = versions(client, "digits")
    assert study.summary.model == {"name": "digits", "version": "1", "uri": "models:/digits/1", "alias": "champion"}
    assert (study.summary.run, study.summary.standing) == ("refit-0", None)
    assert version.tags["validation"] == repr(study.summary.score)
    assert version.tags["temperature"] == f"{study.summary.temperature:.4f}"
    assert study.summary.calibration is not None
    assert study.summary.calibration.runs == ("confirm-0-fold-1",)
    assert aliases_of(client.get_registered_model("digits"))[CHAMPION] == 1
    assert len(read_by(folder)) == Counted.reads > 1  # the first start was killed before it noted that it would read
    assert f"read {len(read_by(folder))} times in this study" in version.description
    summary = study.summary
    steps.clear()
    assert searched(folder, **wanted).summary == summary
    assert not steps  # nothing was left to finish
