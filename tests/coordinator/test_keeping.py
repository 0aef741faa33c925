"""`--keep best:N`: the best trials have their weights, no other has, whenever the search was killed."""

from __future__ import annotations

from collections.abc import Callable, Set
from pathlib import Path
from typing import NoReturn

import optuna
import pytest
from optuna.trial import TrialState
from place import Place, after

from search.coordinator.keeping import KeepBest
from search.study import records
from search.study.records import StudyRecord
from search.study.summary import Summary
from search.tracking.store import connect_mlflow
from search.tracking.tracker import Tracking

TRIALS = 6


class KilledError(BaseException):
    """A kill, as far as a process can see it."""


def kept(place: Place) -> dict[int, bytes]:
    """By trial, the weights that its run has in MLflow."""
    client = connect_mlflow(f"sqlite:///{place.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    found = {}
    for run in client.search_runs([experiment.experiment_id], "tags.kind = 'trial'"):
        path = Path(run.info.artifact_uri.removeprefix("file://"), "weights.pt")
        if path.exists():
            assert "search.weights" not in run.data.tags
            found[int(run.data.tags["optuna.trial.number"])] = path.read_bytes()
    return found


def local(place: Place) -> set[int]:
    """The trials whose weights wait for a winner in the workspace."""
    return {int(path.stem.removeprefix("trial-")) for path in (place.folder / "weights").glob("*")}


def best(record: StudyRecord, n: int) -> Set[int]:
    completed = [trial for trial in record.trials if trial.state == TrialState.COMPLETE]
    return {t.number for t in sorted(completed, key=lambda t: t.value or 0.0, reverse=True)[:n]}


def stored(place: Place) -> optuna.Study:
    return optuna.load_study(study_name="toy", storage=f"sqlite:///{place.folder}/optuna.db")


def assert_kept(place: Place, numbers: Set[int]) -> None:
    record = StudyRecord.of(stored(place))
    assert kept(place) == {t.number: str(t.value).encode() for t in record.trials if t.number in numbers}
    assert local(place) == numbers
    assert {trial.number for trial in record.trials if not trial.weights_deleted} == numbers


@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_only_the_best_keep_their_weights(place: Place, n: int):
    record = place.search(TRIALS, keep=n)
    assert_kept(place, best(record, n))


def test_a_start_with_keep_deletes_what_others_left(place: Place):
    place.search(3)
    assert_kept(place, {0, 1, 2})
    record = place.search(3, keep=2)
    assert_kept(place, best(record, 2))
    record = place.search(TRIALS, keep=1)
    assert_kept(place, best(record, 1))


def test_pruned_trials_keep_none_and_failed_ones_have_none(place: Place):
    record = place.search(12, mode="error_right", pruner="median", keep=12)
    assert {trial.state for trial in record.trials} == {TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED}
    assert set(kept(place)) == best(record, 12)
    assert [trial.weights_deleted for trial in record.trials] == [t.state == TrialState.PRUNED for t in record.trials]


def test_the_winner_keeps_its_weights(place: Place):
    record = place.search(TRIALS)
    (worst,) = best(record, TRIALS) - best(record, TRIALS - 1)
    summary = Summary(worst, "toy", 0.0, {}, f"trial-{worst}")
    stored(place).set_user_attr(records.SUMMARY, summary.as_dict())
    record = place.search(TRIALS, keep=2)
    assert_kept(place, best(record, 2) | {worst})


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [9, 14])
def test_an_interrupted_search_keeps_the_same(place: Place, rounds: int):
    place.search(TRIALS, interrupted=after(rounds), keep=2)
    record = place.search(TRIALS, keep=2)
    assert_kept(place, best(record, 2))


def kill(*_: object, **__: object) -> NoReturn:
    raise KilledError("now")


def while_it_displaces(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(KeepBest, "add", kill)


def before_the_journal_has_the_deletion(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tracking, "remove", kill)


def before_the_study_notes_the_deletion(patch: pytest.MonkeyPatch) -> None:
    set_attr = optuna.Study.set_user_attr
    patch.setattr(
        optuna.Study,
        "set_user_attr",
        lambda study, key, value: kill() if key == records.DELETED else set_attr(study, key, value),
    )


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(while_it_displaces, marks=pytest.mark.slow),
        pytest.param(before_the_journal_has_the_deletion, marks=pytest.mark.slow),
        before_the_study_notes_the_deletion,
    ],
)
def test_a_search_killed_while_it_deletes_keeps_the_same(
    place: Place, moment: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        moment(patch)
        with pytest.raises(KilledError, match="now"):
            place.search(TRIALS, keep=2)
    record = place.search(TRIALS, keep=2)
    assert_kept(place, best(record, 2))
