"""The choice of networks to average, and their measured gain over the winner alone."""

from __future__ import annotations

import math
from collections.abc import Set

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from objectives.metrics import METRICS, Metric, direction_of, scores
from search.study.selection.ensembles import Selection, paired_gain, weighted_mean
from search.study.summary import Ensemble, Member

Rows = NDArray[np.float32]


def rows(*of_first_class: float) -> Rows:
    """Probabilities of two classes, by that of the first."""
    first = np.array(of_first_class, np.float32)
    return np.stack((first, 1 - first), axis=1)


def noisy(labels: NDArray[np.int64], k: int, seed: int, strength: float = 1.0) -> Rows:
    """Probabilities of a network whose mistakes depend on the seed."""
    logits = np.random.default_rng(seed).normal(0, 1, (len(labels), k))
    logits[np.arange(len(labels)), labels] += strength
    odds = np.exp(logits)
    return (odds / odds.sum(1, keepdims=True)).astype(np.float32)


def test_a_small_case_by_hand():
    """The winner is wrong about the last image. The mean with network 1 is right once that counts twice."""
    labels = np.array([0, 0, 1])
    winner, other, useless = rows(0.9, 0.9, 0.8), rows(0.6, 0.6, 0.3), rows(0.5, 0.5, 0.9)
    assert Selection("accuracy", 2).picks(labels, [winner, useless, other]) == [0, 2]  # only the loss is better
    assert Selection("accuracy", 3).picks(labels, [winner, useless, other]) == [0, 2, 2]
    assert weighted_mean([winner, other], [1, 2])[2, 1] == pytest.approx((0.2 + 2 * 0.7) / 3)


def test_equal_networks_leave_the_winner_alone():
    labels = np.array([0, 1])
    assert Selection("log_loss", 5).picks(labels, [rows(0.8, 0.3)] * 3) == [0]


@pytest.mark.parametrize("metric", METRICS)
@given(seed=st.integers(0, 1000), at_most=st.integers(1, 6), largest=st.integers(1, 6))
def test_it_is_never_worse_on_the_same_images_and_within_the_limits(
    metric: Metric, seed: int, at_most: int, largest: int
):
    labels = np.random.default_rng(seed).integers(0, 3, 30)
    networks = [noisy(labels, 3, seed + number) for number in range(4)]

    def allows(members: Set[int]) -> bool:
        return len(members) <= largest

    picks = Selection(metric, at_most, allows).picks(labels, networks)
    assert picks[0] == 0
    assert len(picks) <= at_most
    assert len(set(picks)) <= largest
    mean = np.mean([networks[index] for index in picks], axis=0)
    gain = scores(labels, mean)[metric] - scores(labels, networks[0])[metric]
    assert (gain if direction_of(metric) == "maximize" else -gain) > -1e-6


@pytest.mark.parametrize("metric", METRICS)
def test_networks_with_mistakes_of_their_own_gain(metric: Metric):
    labels = np.random.default_rng(0).integers(0, 4, 600)
    gain, error = Selection(metric, 5).gain(labels, [noisy(labels, 4, seed) for seed in range(8)])
    assert gain > 3 * error > 0


@pytest.mark.parametrize("metric", METRICS)
def test_no_image_judges_what_was_selected_on_it(metric: Metric):
    """Networks of pure chance: the best ensemble on the same images looks better, the gain does not."""
    same, apart, errors = [], [], []
    for seed in range(20):
        labels = np.random.default_rng(seed).integers(0, 2, 60)
        networks = [noisy(labels, 2, 100 * seed + number, strength=0.0) for number in range(9)]
        selection = Selection(metric, 2)
        mean = np.mean([networks[index] for index in selection.picks(labels, networks)], axis=0)
        sign = 1 if direction_of(metric) == "maximize" else -1
        same.append(sign * (scores(labels, mean)[metric] - scores(labels, networks[0])[metric]))
        gain, error = selection.gain(labels, networks)
        apart.append(gain)
        errors.append(error)
    assert np.mean(same) > np.mean(apart) + np.mean(errors) / 2


@pytest.mark.parametrize("metric", METRICS)
def test_the_standard_error_is_the_spread_over_draws_of_images(metric: Metric):
    random, n = np.random.default_rng(0), 200 if metric in ("accuracy", "log_loss") else 40
    gains, errors = [], []
    for seed in range(n):
        labels = np.repeat(np.arange(3), (120, 60, 20))
        ours, theirs = noisy(labels, 3, seed, strength=1.5), noisy(labels, 3, seed + 1000, strength=1.2)
        mixed = np.where(random.random((200, 1)) < 0.5, ours, theirs)  # both make some of the same mistakes
        gain, error = paired_gain(metric, labels, mixed, theirs)
        gains.append(gain)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(gains), rel=0.2 if n == 200 else 0.35)


def test_the_gain_has_the_sign_of_an_improvement():
    labels = np.array([0, 1, 0, 1])
    better, worse = rows(0.9, 0.1, 0.8, 0.2), rows(0.4, 0.1, 0.8, 0.2)
    for metric in METRICS:
        gain, back = paired_gain(metric, labels, better, worse)[0], paired_gain(metric, labels, worse, better)[0]
        assert gain == pytest.approx(-back)
        assert gain > 0


def test_one_image_is_no_certain_gain():
    """Two are: the rule by which a smaller network wins, one standard error, has no other margin."""
    labels = np.zeros(100, np.int64)
    for n_better, expected in ((1, False), (2, True)):
        theirs = rows(*[0.1] * 2, *[0.9] * 98)
        ours = rows(*[0.9] * n_better, *[0.1] * (2 - n_better), *[0.9] * 98)
        gain, error = paired_gain("accuracy", labels, ours, theirs)
        assert gain == pytest.approx(n_better / 100)
        cells = n_better + 1, n_better  # both cases of who alone is right, with half an image each
        assert error == pytest.approx(math.sqrt(cells[0] - cells[1] ** 2 / 102) / 102)
        members = Member(0, "", "trial-0", 1), Member(1, "", "trial-1", 1)
        assert Ensemble(members, gain, error, 100, 2).pays is expected


def test_shares_parameters_and_the_name_of_the_run():
    members = Member(7, "mlp", "refit-7", 2, 1000.0), Member(12, "cnn", "trial-12", 1, 500.0)
    ensemble = Ensemble(members, 0.02, 0.01, 100, 5)
    assert ensemble.shares == (2 / 3, 1 / 3)
    assert ensemble.parameters == 1500
    assert ensemble.run == "ensemble-refit-7-x2-trial-12-x1"
    assert not Ensemble(members[:1], 0.02, 0.01, 100, 5).pays
    assert Ensemble((members[0], Member(1, "", "trial-1", 1)), 0.0, 0.1, 100, 5).parameters is None
