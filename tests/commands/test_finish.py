"""The ending of a search, in this process: what is read and kept, in which order, whatever cuts it short."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from shell import rows

from objectives.base import EpochResult, Task, TestScore, Training
from objectives.images.objective import ImageClassification
from search.cli.progress import PlainDisplay
from search.commands.finish import Finish
from search.commands.run import run
from search.commands.setup import SearchPlan
from search.common.config import Config
from search.common.errors import UsageError
from search.study.presenter import reads_of_test_split
from search.study.records import StudyRecord
from search.study.study import StoredStudy
from search.study.summary import Summary, counted
from search.tracking.journal import Journal
from search.tracking.registry import promotion, registration
from search.tracking.registry.promotion import CHAMPION, aliases_of
from search.tracking.registry.version import versions
from search.tracking.store import connect_mlflow


class Killed(BaseException):
    """Instead of a signal that nothing can catch."""


class Counted(ImageClassification):
    """Digits; counts how often the test split is read, and can be killed right after."""

    reads = 0
    killed = False

    def __init__(self) -> None:
        super().__init__("digits")

    def refit_epochs(self, epochs: int) -> int:
        return epochs

    def score_test(self, model: Any, device: str) -> TestScore:
        Counted.reads += 1
        score = super().score_test(model, device)
        if Counted.killed:
            raise Killed("right after the reading")
        return score


class Wrong(Counted):
    """Counts mistakes, of which fewer are better."""

    metric, direction = "val_error", "minimize"

    def start(self, task: Task, device: str) -> Training:
        return Mistakes(super().start(task, device))


class Mistakes:
    def __init__(self, training: Training) -> None:
        self.checkpoint, self.outcome, self._training = training.checkpoint, training.outcome, training

    def __next__(self) -> EpochResult:
        result = next(self._training)
        return replace(result, value=None if result.value is None else 1 - result.value)


class Weak(Counted):
    """Has no memory for the refit, as long as it is `full`."""

    full = True

    def start(self, task: Task, device: str) -> Training:
        if task.refit and Weak.full:
            raise MemoryError("no room for 12 GiB")
        return super().start(task, device)


@pytest.fixture(autouse=True)
def unread() -> Iterator[None]:
    yield
    Counted.reads, Counted.killed = 0, False


def searched(folder: Path, objective: str = "Counted", **settings: Any) -> StudyRecord:
    """One start of a small search."""
    settings = {"trials": 1, "epochs": 1, "confirm": 0, "no_refit": True, "no_register": True} | settings
    target = objective if ":" in objective else f"test_conclusion:{objective}"
    config = Config(objective=target, engine="inline", workspace=folder, **settings)
    return run(SearchPlan.of(config), PlainDisplay(Console(quiet=True))).study


def read_by(folder: Path) -> list[str]:
    """The runs for which the study says that the test split was read."""
    ((stored,),) = rows(folder / "optuna.db", "SELECT value_json FROM study_user_attributes WHERE key = 'test_reads'")
    return [read["run"] for read in json.loads(stored)]


@pytest.mark.slow
def test_flags_that_make_another_network_the_winner_read_it_again_and_that_is_said(folder: Path):
    study = searched(folder)
    assert (Counted.reads, read_by(folder), reads_of_test_split(study)) == (1, ["trial-0"], "measured once")
    assert searched(folder).summary == study.summary
    assert Counted.reads == 1
    study = searched(folder, no_refit=False)
    assert (Counted.reads, read_by(folder)) == (2, ["trial-0", "refit-0"])
    assert reads_of_test_split(study) == "the test split was read 2 times in this study"
    notes = rows(folder / "mlflow.db", "SELECT value FROM tags WHERE key = 'mlflow.note.content'")
    told = [note for (note,) in notes if "Test accuracy" in note]
    assert told
    assert all(f"n = 359), {reads_of_test_split(study)}." in note for note in told)
    assert reads_of_test_split(study) in (folder / "mlruns/reports/digits.html").read_text()


def test_a_kill_between_reading_and_keeping_is_not_hidden(folder: Path):
    Counted.killed = True
    with pytest.raises(Killed, match="right after the reading"):
        searched(folder)
    assert read_by(folder) == ["trial-0"]
    Counted.killed = False
    study = searched(folder)
    assert (Counted.reads, read_by(folder)) == (2, ["trial-0"] * 2)
    assert reads_of_test_split(study) == "the test split was read 2 times in this study"


@pytest.mark.slow
def test_a_refit_that_failed_for_want_of_memory_is_tried_again_by_the_same_command(folder: Path):
    study = searched(folder, "Weak", no_refit=False)
    assert study.summary is not None
    assert "(no room for 12 GiB); trial-0 is kept" in str(study.summary.note)
    Weak.full = False
    study = searched(folder, "Weak", no_refit=False)
    assert study.summary is not None
    assert (study.summary.run, study.summary.note) == ("refit-0", None)
    assert read_by(folder) == ["trial-0", "refit-0"]


@pytest.fixture
def unexported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions without a model behind them, which takes seconds to export."""
    monkeypatch.setattr(registration, "_log", lambda *_: ("file:///nowhere", None))


@pytest.mark.slow
@pytest.mark.usefixtures("unexported")
def test_more_fresh_seeds_bring_the_version_up_to_date(folder: Path):
    """The same network, so the same version, and no second export; what it says of itself is what is known now."""
    for seeds in (1, 2):
        study = searched(folder, confirm=1, confirm_seeds=seeds, no_refit=False, no_register=False)
        (version,) = versions(connect_mlflow(f"sqlite:///{folder}/mlflow.db"), "digits")
        assert study.summary is not None
        assert version.tags["validation"] == repr(study.summary.score)
        assert version.tags["confirmed_val_accuracy"] == f"{study.summary.score:.4f}"
        assert version.tags["protocol.fresh_seeds"] == str(seeds)
        assert version.tags["network"] == "refit"
        assert (
            f"mean of {counted(seeds, 'training')} of this configuration on fresh seeds, not of" in version.description
        )
    assert Counted.reads == 1


@pytest.mark.usefixtures("unexported")
@pytest.mark.parametrize(("objective", "metric"), [("Wrong", "val_error"), ("regression:Curve", "mse")])
def test_the_champion_of_what_is_minimised_is_the_lower_one(folder: Path, objective: str, metric: str):
    """A classifier, and what is none: two studies, whose winners meet in the registry."""
    scores = []
    for seed in (1, 2):
        wanted = {"study": f"seed-{seed}", "seed": seed, "trials": 2, "confirm": 1, "confirm_seeds": 1}
        summary = searched(folder, objective, no_register=False, register="low", **wanted).summary
        assert summary is not None
        scores.append(summary.score)
    client = connect_mlflow(f"sqlite:///{folder}/mlflow.db")
    found = versions(client, "low")
    assert [version.tags["validation"] for version in found] == [repr(score) for score in scores]
    assert [version.tags[f"confirmed_{metric}"] for version in found] == [f"{score:.4f}" for score in scores]
    assert not any("accuracy" in name for version in found for name in version.tags if name != "test_accuracy")
    assert found[0].tags["protocol.direction"] == "minimize"
    assert aliases_of(client.get_registered_model("low"))[CHAMPION] == 1 + scores.index(min(scores))
    assert all(f"| {metric} |" in version.description for version in found)
    assert all(("on the test split" in version.description) == (objective == "Wrong") for version in found)


def test_an_objective_that_is_a_classifier_but_for_one_method_is_told_so(folder: Path):
    plan = SearchPlan.of(Config(objective="test_checks:Unfitted", engine="inline", workspace=folder))
    lacking = "lacks refit_epochs, so it is not taken for an ImageClassifier"
    with pytest.raises(Killed, match=lacking):
        run(plan, Hearing(Console(quiet=True)))


class Hearing(PlainDisplay):
    """Ends the search with the first notice."""

    def notice(self, text: str) -> None:
        raise Killed(text)


def test_a_name_for_what_cannot_be_registered_is_refused_at_once(folder: Path):
    with pytest.raises(UsageError, match="--register x: the winner of objective 'toy' cannot be registered; give it"):
        searched(folder, "toy:Toy", no_register=False, register="x")


@pytest.mark.slow
@pytest.mark.usefixtures("unexported")
def test_killed_after_every_step_it_ends_as_if_it_had_not_been(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Each start is killed one step later than the one before: scored, kept, registered, promoted, marked, reported."""
    steps: list[str] = []
    limit = 0

    def stepping(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **named: Any) -> Any:
            found = function(*given, **named)
            if steps:
                steps.append(name)
                if len(steps) == limit + 1:
                    raise Killed
            return found

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
    assert aliases_of(client.get_registered_model("digits"))[CHAMPION] == 1
    assert len(read_by(folder)) == Counted.reads + 1 > 1  # the first was killed when it had noted that it would read
    assert f"read {len(read_by(folder))} times in this study" in version.description
    summary = study.summary
    steps.clear()
    assert searched(folder, **wanted).summary == summary
    assert not steps  # there was no ending left to do
