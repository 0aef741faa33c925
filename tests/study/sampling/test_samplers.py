"""TPE sees enough of a long study to choose as from the whole. Rungs suit the default objective."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.pruners import NopPruner
from optuna.samplers import TPESampler
from optuna.samplers._tpe import _truncnorm
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.trial import TrialState, create_trial

from objectives.images.objective import ImageClassification
from search.study.sampling import samplers as sampling
from search.study.sampling.history import GOOD_TRIALS, RECENT_TRIALS, SamplingCopy
from search.study.sampling.samplers import make_pruner, make_sampler

ENDS = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL)


def a_long_study(direction: str, trials: int, ends: Sequence[TrialState] = ENDS) -> tuple[optuna.Study, SamplingCopy]:
    """A study in which trials ended in all ways, with a waiting and a running trial after them."""
    memory, draw = SamplingCopy(), random.Random(trials)
    study = optuna.create_study(direction=direction, storage=memory)
    distribution = optuna.distributions.FloatDistribution(0.0, 1.0)
    for _ in range(trials):
        state, value = draw.choice(ends), draw.random()
        steps = {step: draw.random() for step in range(1, draw.randint(1, 4))} if state == TrialState.PRUNED else {}
        study.add_trial(
            create_trial(
                state=state,
                value=value if state == TrialState.COMPLETE else None,
                params={"x": draw.random()},
                distributions={"x": distribution},
                intermediate_values=steps,
            )
        )
    study.ask()
    study.enqueue_trial({"x": 0.5})
    return study, memory


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("ends", [ENDS, (TrialState.COMPLETE, *[TrialState.PRUNED] * 99)], ids=["mixed", "pruned"])
def test_tpe_sees_every_good_trial_and_the_latest_of_the_others(direction: str, ends: Sequence[TrialState]):
    study, memory = a_long_study(direction, 1200, ends)
    everything = study.get_trials(deepcopy=False)
    ended = [trial for trial in everything if trial.state.is_finished()]
    useful = [trial for trial in ended if trial.state != TrialState.FAIL]
    good, _ = _split_trials(study, useful, default_gamma(len(useful)))

    with memory.as_shown_to(TPESampler(), study._study_id):
        visible = study.get_trials(deepcopy=False)
    shown = {trial.number for trial in visible}
    seen = [trial for trial in visible if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]

    assert _split_trials(study, seen, default_gamma(len(seen)))[0] == good
    assert {trial.number for trial in useful[-RECENT_TRIALS:]} <= shown
    assert len(shown) <= GOOD_TRIALS + RECENT_TRIALS + 2
    assert {trial.number for trial in everything if not trial.state.is_finished()} <= shown
    assert study.get_trials(deepcopy=False) == everything


class Large(ImageClassification):
    """As large as MNIST, without its files."""

    is_large = True


@pytest.mark.parametrize(
    ("objective", "device", "steps", "rungs"),
    [
        (Large(), "cpu", 8, {1, 4}),
        (Large(), "cuda:0", 64, {4, 16}),
        (ImageClassification("digits"), "cpu", 8, {1, 4}),
    ],
)
def test_the_default_objectives_rungs_are_where_it_is_measured_each_four_times_the_one_before(
    objective: ImageClassification, device: str, steps: int, rungs: set[int]
):
    per_epoch = objective.steps_per_epoch()
    assert objective.epochs(device) * per_epoch == steps
    pruner = make_pruner("hyperband", steps)
    study, draw, ended = optuna.create_study(pruner=NopPruner(), direction="maximize"), random.Random(0), Counter[int]()
    for _ in range(200):
        trial, quality = study.ask(), draw.random()
        for step in sorted({1, *range(per_epoch, steps + 1, per_epoch)}):
            trial.report(quality, step)
            if pruner.prune(study, study._storage.get_trial(trial._trial_id)) and step < steps:
                ended[step] += 1
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, quality)
    assert set(ended) == rungs
    assert ended[min(rungs)] == max(ended.values())


def test_a_short_study_and_other_samplers_are_shown_everything():
    for trials, sampler in ((RECENT_TRIALS, "tpe"), (600, "cmaes")):
        study, memory = a_long_study("maximize", trials)
        with memory.as_shown_to(make_sampler(sampler, seed=0, number=trials), study._study_id):
            assert len(study.get_trials(deepcopy=False)) == trials + 2


def test_a_blank_trial_is_sampled_again_under_its_number():
    memory = SamplingCopy()
    study = optuna.create_study(storage=memory, sampler=make_sampler("random", 0, 0))
    trial = study.ask()
    first = trial.suggest_float("x", 0.0, 1.0)
    memory.replace(trial._trial_id, params={}, distributions={}, system_attrs={}, user_attrs={})
    assert study.trials[0].params == {}
    study.sampler = make_sampler("random", 0, 0, attempt=1)
    again = optuna.Trial(study, trial._trial_id)
    assert again.number == 0
    assert again.suggest_float("x", 0.0, 1.0) != first


def test_constraints_are_added_and_never_changed():
    memory = SamplingCopy()
    trial = optuna.create_study(storage=memory).ask()
    memory.add_constraints(trial._trial_id, {"parameters": 0.5})
    memory.add_constraints(trial._trial_id, {"parameters": -0.5, "latency_ms": -0.1})
    assert memory.get_trial(trial._trial_id).constraints == {"parameters": 0.5, "latency_ms": -0.1}


@pytest.fixture
def logarithm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The `log_ndtr` that Optuna has by itself. Every replacement ends with the test."""
    monkeypatch.setattr(_truncnorm, "_log_ndtr", _truncnorm._log_ndtr)
    return lambda x: np.frompyfunc(_truncnorm._log_ndtr_single, 1, 1)(x).astype(float)


def test_tpe_computes_in_scipy_and_chooses_the_same(logarithm: Any, monkeypatch: pytest.MonkeyPatch):
    study, _ = a_long_study("maximize", 100, ENDS[:1])
    trial, values = study.get_trials(deepcopy=False)[0], optuna.distributions.FloatDistribution(0.0, 1.0)
    calls = []

    def in_python(x: Any) -> Any:
        calls.append(x)
        return logarithm(x)

    def chosen() -> list[float]:
        return [make_sampler("tpe", 0, n).sample_independent(study, trial, "x", values) for n in range(20)]

    _truncnorm._log_ndtr = in_python
    with_scipy = chosen()
    assert calls == []
    monkeypatch.setattr(sampling, "use_scipy_in_tpe", lambda: None)
    _truncnorm._log_ndtr = in_python
    assert chosen() == pytest.approx(with_scipy, rel=1e-6)
    assert calls, "TPE no longer computes with _truncnorm._log_ndtr: sampling.use_scipy_in_tpe has no effect"
