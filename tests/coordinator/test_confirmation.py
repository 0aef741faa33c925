"""Confirmation: which trainings run on which seeds, which are skipped, and that kills and more trials repeat none."""

from __future__ import annotations

import pytest
from place import STEPS, Place, after
from toy import Toy

from search.study.sampling.samplers import derive_seed


def seeds_of(place: Place, kind: str) -> list[str]:
    return [seed for _, _, seed in place.runs(kind)]


def test_every_candidate_gets_its_fresh_seeds_in_runs_of_their_own(place: Place):
    place.search(5)
    found, winner = place.confirm(3, 2)
    best = sorted(place.search(5).trials, key=lambda trial: -(trial.value or 0))[:3]
    assert [each.number for each in found.candidates] == [trial.number for trial in best]
    assert [each.searched for each in found.candidates] == [trial.value for trial in best]
    tried = {each.number: len(each.values) for each in found.candidates}
    runs = place.runs("confirm")
    assert {status for _, status, _ in runs} == {"FINISHED"}
    assert len(runs) == sum(tried.values())
    assert tried[best[0].number] == 2
    assert runs[0][0].startswith("confirm #00")
    assert runs[0][0].endswith(", fresh seed 1")
    assert winner is not None
    assert len(place.runs("trial")) == 5
    assert len(place.search(5).trials) == 5  # Optuna knows nothing of it


def test_fresh_seeds_are_new_all_different_and_always_the_same(place: Place):
    place.search(3)
    first, _ = place.confirm(3, 3, mode="fine")
    used = seeds_of(place, "confirm")
    assert len({*used, *seeds_of(place, "trial")}) == len(used) + 3
    numbers = {each.number: range(1, len(each.values) + 1) for each in first.candidates}
    expected = {
        str(derive_seed(0, "confirm", number, repeat)) for number, repeats in numbers.items() for repeat in repeats
    }
    assert set(used) == expected
    assert place.confirm(3, 3)[0] == first
    assert len(place.runs("confirm")) == len(used)


def test_clear_losers_skip_their_remaining_seeds(place: Place):
    place.search(12)
    found, winner = place.confirm(12, 4)  # from all over the space: the last ones are hopeless
    tried = {each.number: len(each.values) for each in found.candidates}
    assert winner is not None
    assert tried[winner.number] == 4
    assert tried[found.candidates[-1].number] < 4
    assert len(place.runs("confirm")) == sum(tried.values()) < 40
    worst = max(each.mean for each in found.candidates if len(each.values) < 4 and each.mean is not None)
    assert winner.mean is not None
    assert worst < winner.mean - 3 * (found.noise or 0) * (1 / 4 + 1) ** 0.5
    last = found.candidates[-1].number
    assert f"confirm #{last:03d}" in place.lines.getvalue()
    assert ", fresh seed 4 is not needed any more: its configuration cannot win" in place.lines.getvalue()


@pytest.mark.slow
def test_a_candidate_is_marked_behind_however_many_seeds_it_had(place: Place):
    place.search(12)
    found, winner = place.confirm(12, 2)
    assert winner is not None
    assert not next(each for each in found.candidates if each.number == winner.number).behind
    for each in found.candidates:
        assert each.behind or len(each.values) == 2
    assert any(each.behind for each in found.candidates)


def test_a_loss_is_confirmed_as_one(place: Place):
    objective = Toy("minimize", steps=STEPS)
    place.search(6, objective=objective)
    found, winner = place.confirm(6, 2, objective=objective)
    assert [each.searched for each in found.candidates] == sorted(each.searched for each in found.candidates)
    assert winner is not None
    assert winner.mean == min(each.mean for each in found.candidates if each.mean is not None)
    assert len(found.candidates[-1].values) == 1


def test_an_objective_without_noise_has_no_interval_and_the_best_wins(place: Place):
    place.search(4, mode="still")
    found, winner = place.confirm(3, 2, mode="still")
    assert found.noise == 0
    assert [each.half for each in found.candidates] == [None] * 3
    assert winner is not None
    assert winner.number == found.candidates[0].number
    assert winner.mean == winner.searched


def test_seeds_that_fail_put_a_candidate_out_and_all_failing_leaves_no_winner(place: Place):
    place.search(4)
    found, winner = place.confirm(3, 2, mode="error")
    assert winner is None
    assert [(each.values, each.mean, each.half, each.failed) for each in found.candidates] == [((), None, None, 2)] * 3
    assert {status for _, status, _ in place.runs("confirm")} == {"FAILED"}


@pytest.mark.slow
def test_a_seed_that_failed_for_want_of_memory_is_tried_again_at_the_next_start(place: Place):
    place.search(3)
    found, winner = place.confirm(2, 2, mode="memory@2")
    assert ([each.failed for each in found.candidates], winner) == ([2, 2], None)
    found, winner = place.confirm(2, 2)
    assert [each.failed for each in found.candidates] == [0, 0]
    assert winner is not None
    runs = place.runs("confirm")
    assert {status for _, status, _ in runs} == {"FINISHED"}
    assert all([step for step, _ in place.curves()[name]] == [1, 2, 3, 4] for name, *_ in runs)


@pytest.mark.parametrize("rounds", [2, 5, 6, 9])
def test_an_interruption_costs_nothing(place: Place, rounds: int):
    place.search(3)
    place.confirm(2, 2, interrupted=after(rounds))
    found, winner = place.confirm(2, 2)
    curves = place.curves()
    runs = place.runs("confirm")
    assert {status for _, status, _ in runs} == {"FINISHED"}
    assert all([step for step, _ in curves[name]] == [1, 2, 3, 4] for name, *_ in runs)
    finals = sorted(curves[name][-1][1] for name, *_ in runs)
    assert finals == sorted(value for each in found.candidates for value in each.values)
    assert not list((place.folder / "checkpoints").glob("*"))
    assert winner is not None


def test_more_trials_confirm_only_what_is_new(place: Place):
    place.search(3)
    place.confirm(2, 2)
    before = place.runs("confirm")
    place.search(8)
    found, _ = place.confirm(2, 2)
    after_ = place.runs("confirm")
    assert set(before) <= set(after_)
    new = {each.number for each in found.candidates} - {int(name.split()[1][1:]) for name, *_ in before}
    assert {int(name.split()[1][1:]) for name, *_ in set(after_) - set(before)} == new


def test_the_display_shows_a_confirmation_as_one(place: Place):
    place.search(2)
    place.lines.truncate(0)
    place.confirm(1, 2)
    lines = place.lines.getvalue().strip("\0").splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("[1/2]  trial ")
    assert ", fresh seed 1  " in lines[0]
    assert "best" not in lines[0]
