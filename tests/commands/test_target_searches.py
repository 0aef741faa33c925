"""Searches with `--target`: when they end, what they train, and that a kill at any moment changes neither."""

from __future__ import annotations

import io
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import optuna
import pytest
from rich.console import Console
from toy import Toy, ToyTraining

from objectives.base import EpochResult, Task, Training
from search.cli.output import print_result, print_summary
from search.cli.progress import PlainDisplay
from search.commands.run import run
from search.commands.setup import SearchPlan
from search.common.config import Config
from search.study import records
from search.study.records import StudyRecord
from search.study.sampling.samplers import derive_seed
from search.study.study import StoredStudy


class Killed(BaseException):
    """Stands for SIGKILL."""


class Planned(Toy):
    """Trials whose values are known beforehand, in the search and on fresh seeds."""

    name = "planned"
    searched: ClassVar[tuple[float, ...]] = (0.5, 0.91, 0.6, 0.93, 0.95, 0.7)
    fresh: ClassVar[dict[int, float]] = {1: 0.88, 3: 0.94, 4: 0.94}  # of other trials: as in the search
    full: ClassVar[set[int]] = set()  # trials whose configurations have no memory on fresh seeds
    begun: ClassVar[Counter[str]] = Counter()

    def epochs(self, device: str) -> int:
        return 1

    def start(self, task: Task, device: str) -> Training:
        number, is_trial = task.number, task.seed == derive_seed(0, "train", task.number)
        repeat = 1 if task.seed == derive_seed(0, "confirm", number, 1) else -1
        value = self.searched[number] if is_trial else self.fresh.get(number, self.searched[number]) + 0.001 * repeat
        Planned.begun[f"{'trial' if is_trial else 'confirm'} {number}"] += 1
        if number in self.full and not is_trial:
            raise MemoryError("no room")
        if math.isnan(value):
            raise RuntimeError("no value")
        return Once(task, value)


class Once(ToyTraining):
    def __init__(self, task: Task, value: float) -> None:
        super().__init__(task, 1, "fine")
        self.value = value

    def __next__(self) -> EpochResult:
        if self.step:
            raise StopIteration
        self.step = 1
        return EpochResult(1, 1.0, self.value, {}, 0.001)


@pytest.fixture(autouse=True)
def fresh_counts() -> None:
    Planned.begun.clear()


def searched(folder: Path, **settings: Any) -> tuple[StudyRecord, str]:
    """The study, and what the search printed."""
    settings = {"trials": 6, "sampler": "random", **settings}
    config = Config(objective="test_target_searches:Planned", engine="inline", workspace=folder, **settings)
    lines = io.StringIO()
    return run(SearchPlan.of(config), PlainDisplay(Console(file=lines))).study, lines.getvalue()


def summary_of(study: StudyRecord, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    print_summary(study)
    return capsys.readouterr().out


def test_it_goes_on_after_a_lucky_trial_and_ends_with_a_confirmed_one(folder: Path, capsys: pytest.CaptureFixture[str]):
    study, said = searched(folder, target=0.9)
    assert [trial.value for trial in study.trials] == [0.5, 0.91, 0.6, 0.93]
    assert Planned.begun == {**{f"trial {n}": 1 for n in range(4)}, "confirm 1": 2, "confirm 3": 2}
    assert said.count("confirming --target 0.9 on fresh seeds") == 2
    assert "--target 0.9 was not confirmed: 1 trial reached it, but the best mean on fresh seeds is 0.88\n" in said
    shown = summary_of(study, capsys)
    reason = "--target 0.9 is confirmed: trial 3 has a mean of 0.94 on 2 fresh seeds"
    assert "\nstudy planned: 4 trials (4 complete)" in shown
    assert f"\nended early: {reason}\nwinner: trial 3, " in shown
    assert "\n  #1     0.8800" in shown  # it was compared, so its row stays
    assert study.as_dict()["stop_reason"] == reason
    assert f"Ended early: {reason}" in (folder / "mlruns/reports/planned.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_same_command_and_others_later(folder: Path, capsys: pytest.CaptureFixture[str]):
    searched(folder, target=0.9)
    Planned.begun.clear()
    study, said = searched(folder, target=0.9, trials=60)
    assert (study.finished, said.count("trial 3"), Planned.begun) == (4, 0, {})
    study, _ = searched(folder, target=0.945, trials=5)
    assert Planned.begun == {"trial 4": 1, "confirm 4": 2}
    assert "\nnote: --target 0.945 was not confirmed: 1 trial reached it, but the best mean on fresh seeds is 0.94" in (
        summary_of(study, capsys)
    )
    study, _ = searched(folder, trials=6)
    assert study.finished == 6
    assert "--target" not in summary_of(study, capsys)
    Planned.begun.clear()
    study, _ = searched(folder, target=0.93, trials=6)
    assert not Planned.begun  # everything that it needs has been trained
    assert study.summary is not None
    assert " has a mean of 0.94 on 2 fresh seeds" in str(study.summary.note)


@pytest.mark.long
@pytest.mark.slow
def test_without_confirmation_a_trial_is_enough(folder: Path, capsys: pytest.CaptureFixture[str]):
    study, _ = searched(folder, target=0.9, confirm=0)
    assert Planned.begun == {"trial 0": 1, "trial 1": 1}
    reason = "--target 0.9 is reached, but not confirmed: trial 1 has 0.91"
    assert f"ended early: {reason}\n" in summary_of(study, capsys)
    assert searched(folder, target=0.9, confirm=0)[0].finished == 2


@pytest.mark.long
@pytest.mark.slow
def test_a_target_that_is_never_reached_changes_nothing_but_a_note(folder: Path):
    with_target, _ = searched(folder, target=0.99)
    without, _ = searched(folder, study="other")
    one, other = with_target.summary, without.summary
    assert one is not None
    assert one.note == "--target 0.99 was not reached: the best trial has 0.95"
    assert replace(one, note=None) == other
    assert with_target.attrs.get("over") is None


@pytest.mark.slow
def test_the_winner_is_one_that_confirms_it_whatever_is_smaller(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Trial 1 is level with trial 3 here, and comes first, but it misses the target."""
    monkeypatch.setattr(Planned, "fresh", {1: 0.8995, 3: 0.9005})
    study, _ = searched(folder, target=0.9)
    assert study.summary is not None
    assert (study.summary.number, study.finished) == (3, 4)


def unconfirmed(folder: Path, monkeypatch: pytest.MonkeyPatch, trials: int) -> None:
    """Search without a target. Of the three trials that will reach it, only the first has fresh seeds that do."""
    monkeypatch.setattr(Planned, "fresh", {1: 0.94, 3: 0.88, 4: 0.88})
    searched(folder, trials=trials, confirm=0)
    Planned.begun.clear()


@pytest.mark.long
@pytest.mark.slow
def test_trials_that_reached_it_before_are_confirmed_in_turn(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """With --confirm 1, the best of the three comes first. No trial begins in between."""
    unconfirmed(folder, monkeypatch, trials=5)
    study, _ = searched(folder, target=0.9, confirm=1, trials=6)
    assert list(Planned.begun) == ["confirm 4", "confirm 3", "confirm 1"]
    assert study.finished == 5
    assert study.summary is not None
    assert study.summary.number == 1


@pytest.mark.slow
def test_what_fresh_seeds_refuted_counts_only_for_as_many(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Planned, "fresh", {1: 0.88, 3: 0.88, 4: 0.88})
    searched(folder, target=0.9)
    study, _ = searched(folder, target=0.9, trials=60, confirm=0)
    assert study.finished == 6
    Planned.begun.clear()
    monkeypatch.setattr(Planned, "fresh", {1: 0.96, 3: 0.88, 4: 0.88})
    study, _ = searched(folder, target=0.9, trials=7, confirm=1, confirm_seeds=3)
    assert Planned.begun == {"confirm 4": 1, "confirm 3": 1, "confirm 1": 1}
    assert study.finished == 6


@pytest.mark.long
@pytest.mark.slow
def test_fresh_seeds_that_had_no_memory_are_tried_once_by_each_start(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Planned, "full", {1})
    study, _ = searched(folder, target=0.9, trials=3)
    assert Planned.begun["confirm 1"] <= 4  # in its own round, and in the last one
    assert "refuted" not in study.attrs
    monkeypatch.setattr(Planned, "full", set())
    monkeypatch.setattr(Planned, "fresh", {1: 0.94})
    study, _ = searched(folder, target=0.9, trials=6)
    assert study.finished == 3
    assert study.summary is not None
    assert study.summary.number == 1


@pytest.mark.long
@pytest.mark.slow
def test_when_no_trial_may_begin_only_the_best_are_confirmed(folder: Path, monkeypatch: pytest.MonkeyPatch):
    unconfirmed(folder, monkeypatch, trials=6)
    study, _ = searched(folder, target=0.9, confirm=1)
    assert Planned.begun == {"confirm 4": 2}
    assert study.summary is not None
    assert "--target 0.9 was not confirmed" in str(study.summary.note)


@pytest.mark.slow
def test_a_confirmed_network_stays_a_candidate(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Trial 1 wins for the target. Three later ones are better in the search alone."""
    monkeypatch.setattr(Planned, "searched", (0.5, 0.91, 0.93, 0.95, 0.94))
    monkeypatch.setattr(Planned, "fresh", {1: 0.94, 2: 0.6, 3: 0.6, 4: 0.6})
    study, _ = searched(folder, target=0.9, trials=5)
    assert study.finished == 2
    study, _ = searched(folder, trials=5)
    assert study.summary is not None
    assert (study.finished, study.summary.number) == (5, 1)


@pytest.mark.slow
def test_the_reason_is_shown_where_nothing_is_left_and_hidden_while_it_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(Planned, "searched", (0.5, 0.91, 0.6, 0.93))
    searched(folder, trials=3, confirm=0)
    config = Config(
        objective="test_target_searches:Planned",
        engine="inline",
        workspace=folder,
        trials=6,
        sampler="random",
        confirm=0,
        patience=1,
    )
    print_result(run(SearchPlan.of(config), PlainDisplay(Console(file=io.StringIO()))), config)
    assert (
        "nothing was left to do; --patience 1: the last 1 trial did not improve on trial 1" in capsys.readouterr().out
    )
    study, _ = searched(folder, target=0.9, trials=6, confirm=0)
    assert study.stop_reason == study.as_dict()["stop_reason"] is not None
    store = StoredStudy.set_attr

    def killed(study: StoredStudy, key: str, value: Any) -> None:
        store(study, key, value)
        if key == records.PHASE:
            raise Killed(key)

    monkeypatch.setattr(StoredStudy, "set_attr", killed)
    with pytest.raises(Killed, match=f"^{records.PHASE}$"):
        searched(folder, trials=6, confirm=0)
    stopped = StudyRecord.of(optuna.load_study(study_name="planned", storage=f"sqlite:///{folder / 'optuna.db'}"))
    assert (stopped.attrs[records.STOP_REASON], stopped.stop_reason) == (study.stop_reason, None)


@pytest.mark.long
@pytest.mark.slow
def test_ten_failures_after_a_good_trial_do_not_end_it(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Planned, "searched", (0.91, *[math.nan] * 10, 0.95))
    monkeypatch.setattr(Planned, "fresh", {0: 0.88})
    study, said = searched(folder, target=0.9, trials=13)
    assert "--target 0.9 was not confirmed" in said
    assert study.summary is not None
    assert (study.summary.number, study.finished) == (11, 12)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Kills right before and right after the study stores something, in the order in which it does."""
    whole, _ = searched(folder, target=0.9, study="whole")
    trained, store = dict(Planned.begun), StoredStudy.set_attr
    Planned.begun.clear()
    training = records.EXTRA_TRAININGS
    for kill_at in (records.PHASE, training, training, records.REFUTED, training, records.STOP_REASON, records.SUMMARY):
        for is_stored in (False, True):

            def killed(study: StoredStudy, key: str, value: Any, at: str = kill_at, after: bool = is_stored) -> None:
                if key != at or after:
                    store(study, key, value)
                if key == at:
                    raise Killed(key)

            with monkeypatch.context() as patched:
                patched.setattr(StoredStudy, "set_attr", killed)
                with pytest.raises(Killed, match=kill_at):
                    searched(folder, target=0.9, study="parts")
    study, _ = searched(folder, target=0.9, study="parts")
    assert dict(Planned.begun) == trained
    assert [trial.value for trial in study.trials] == [trial.value for trial in whole.trials]
    assert study.summary is not None
    assert whole.summary is not None
    assert replace(study.summary, model=None) == replace(whole.summary, model=None)
    assert [study.attrs[key] for key in ("refuted", "over")] == [whole.attrs[key] for key in ("refuted", "over")]
