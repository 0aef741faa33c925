"""Confirmation: which candidates train on which seeds, and that neither an interruption nor more trials repeat any."""

from __future__ import annotations

import pytest
from place import STEPS, Place, after
from toy import Toy

from search.study.sampling.samplers import derive_seed


def seeds_of(place: Place, kind: str) -> list[str]:
    return [seed for _, _, seed in place.runs(kind)]


def test_every_candidate_gets_its_fresh_seeds_in_runs_of_their_own(place: Place):
    place.search(5)
    confirmation, winner = place.confirm(3, 2)
    best = sorted(place.search(5).trials, key=lambda trial: -(trial.value or 0))[:3]
    assert [c.number for c in confirmation.candidates] == [trial.number for trial in best]
    assert [c.searched for c in confirmation.candidates] == [trial.value for trial in best]
    n_seeds = {c.number: len(c.values) for c in confirmation.candidates}
    runs = place.runs("confirm")
    assert {status for _, status, _ in runs} == {"FINISHED"}
    assert len(runs) == sum(n_seeds.values())
    assert n_seeds[best[0].number] == 2
    assert runs[0][0].startswith("confirm #00")
    assert runs[0][0].endswith(", fresh seed 1")
    assert winner is not None
    assert len(place.runs("trial")) == 5
    assert len(place.search(5).trials) == 5  # Optuna never sees the confirmation


def test_fresh_seeds_are_new_all_different_and_always_the_same(place: Place):
    place.search(3)
    confirmation, _ = place.confirm(3, 3, mode="fine")
    used = seeds_of(place, "confirm")
    assert len({*used, *seeds_of(place, "trial")}) == len(used) + 3
    numbers = {c.number: range(1, len(c.values) + 1) for c in confirmation.candidates}
    expected = {
        str(derive_seed(0, "confirm", number, repeat)) for number, repeats in numbers.items() for repeat in repeats
    }
    assert set(used) == expected
    assert place.confirm(3, 3)[0] == confirmation
    assert len(place.runs("confirm")) == len(used)


@pytest.mark.slow
def test_clear_losers_skip_their_remaining_seeds(place: Place):
    place.search(12)
    confirmation, winner = place.confirm(12, 4)  # the last ones are far behind
    n_seeds = {c.number: len(c.values) for c in confirmation.candidates}
    assert winner is not None
    assert n_seeds[winner.number] == 4
    assert n_seeds[confirmation.candidates[-1].number] < 4
    assert len(place.runs("confirm")) == sum(n_seeds.values()) < 40
    worst = max(c.mean for c in confirmation.candidates if len(c.values) < 4 and c.mean is not None)
    assert winner.mean is not None
    assert worst < winner.mean - 3 * (confirmation.noise or 0) * (1 / 4 + 1) ** 0.5
    last = confirmation.candidates[-1].number
    assert f"trial {last}  " in place.lines.getvalue()
    assert ", fresh seed 4 is not needed any more: its configuration cannot win" in place.lines.getvalue()


@pytest.mark.slow
def test_a_candidate_is_marked_behind_however_many_seeds_it_had(place: Place):
    place.search(12)
    confirmation, winner = place.confirm(12, 2)
    assert winner is not None
    assert not next(c for c in confirmation.candidates if c.number == winner.number).behind
    assert all(c.behind or len(c.values) == 2 for c in confirmation.candidates)
    assert any(c.behind for c in confirmation.candidates)


def test_the_lowest_loss_wins(place: Place):
    objective = Toy("minimize", steps=STEPS)
    place.search(6, objective=objective)
    confirmation, winner = place.confirm(6, 2, objective=objective)
    searched = [c.searched for c in confirmation.candidates]
    assert searched == sorted(searched)
    assert winner is not None
    assert winner.mean == min(c.mean for c in confirmation.candidates if c.mean is not None)
    assert len(confirmation.candidates[-1].values) == 1


def test_an_objective_without_noise_has_no_interval_and_the_best_wins(place: Place):
    place.search(4, mode="still")
    confirmation, winner = place.confirm(3, 2, mode="still")
    assert confirmation.noise == 0
    assert [c.half for c in confirmation.candidates] == [None] * 3
    assert winner is not None
    assert winner.number == confirmation.candidates[0].number
    assert winner.mean == winner.searched


def test_without_a_finished_seed_there_is_no_winner(place: Place):
    place.search(4)
    confirmation, winner = place.confirm(3, 2, mode="error")
    assert winner is None
    figures = [(c.values, c.mean, c.half, c.failed) for c in confirmation.candidates]
    assert figures == [((), None, None, 2)] * 3
    assert {status for _, status, _ in place.runs("confirm")} == {"FAILED"}


@pytest.mark.slow
def test_the_range_of_the_metric_bounds_the_intervals(place: Place):
    objective = Toy(steps=STEPS)
    objective.metric_range = (None, 1)  # type: ignore[attr-defined]
    place.search(2, objective=objective)
    confirmation, _ = place.confirm(2, 2, objective=objective)
    assert confirmation.metric_range == (None, 1.0)
    intervals = [confirmation.interval(candidate) for candidate in confirmation.candidates]
    assert all(interval is not None and interval[1] <= 1 for interval in intervals)


@pytest.mark.slow
def test_the_next_start_repeats_a_seed_that_ran_out_of_memory(place: Place):
    place.search(3)
    confirmation, winner = place.confirm(2, 2, mode="memory@2")
    assert ([c.failed for c in confirmation.candidates], winner) == ([2, 2], None)
    confirmation, winner = place.confirm(2, 2)
    assert [c.failed for c in confirmation.candidates] == [0, 0]
    assert winner is not None
    runs = place.runs("confirm")
    assert {status for _, status, _ in runs} == {"FINISHED"}
    assert all([step for step, _ in place.curves()[name]] == [1, 2, 3, 4] for name, *_ in runs)


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [2, 3, 5, 6, 9])
def test_an_interruption_repeats_no_training(place: Place, rounds: int):
    """Round 3 ends between the last step of a training and its end."""
    place.search(3)
    place.confirm(2, 2, interrupted=after(rounds))
    confirmation, winner = place.confirm(2, 2)
    curves = place.curves()
    runs = place.runs("confirm")
    assert {status for _, status, _ in runs} == {"FINISHED"}
    assert all([step for step, _ in curves[name]] == [1, 2, 3, 4] for name, *_ in runs)
    finals = sorted(curves[name][-1][1] for name, *_ in runs)
    assert finals == sorted(value for candidate in confirmation.candidates for value in candidate.values)
    assert not list((place.folder / "checkpoints").glob("*"))
    assert winner is not None


def test_more_trials_confirm_only_what_is_new(place: Place):
    place.search(3)
    place.confirm(2, 2)
    before = place.runs("confirm")
    place.search(8)
    confirmation, _ = place.confirm(2, 2)
    after_more = place.runs("confirm")
    assert set(before) <= set(after_more)
    new = {c.number for c in confirmation.candidates} - {int(name.split()[1][1:]) for name, *_ in before}
    assert {int(name.split()[1][1:]) for name, *_ in set(after_more) - set(before)} == new


def test_the_display_shows_the_trainings_of_a_confirmation(place: Place):
    place.search(2)
    place.lines.truncate(0)
    place.confirm(1, 2)
    lines = place.lines.getvalue().strip("\0").splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("[1/2]  trial ")
    assert ", fresh seed 1  " in lines[0]
    assert "best" not in lines[0]
