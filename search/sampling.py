"""Samplers, pruners and seeds: how the next setting is chosen and when a training is given up."""

from __future__ import annotations

import copy
import hashlib
import heapq
import json
import warnings
from collections.abc import Container, Iterator
from contextlib import contextmanager

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.samplers._tpe import _truncnorm
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from objectives.base import Objective, Params

REDUCTION = 4
"""Of a rung's trials, one in four goes on. With the first rung at a sixteenth of the budget, three rungs span it.

What rungs say of the end: of 40 random settings of the default space, trained unpruned for 3 epochs on 6,000 images of
MNIST, ranks of validation accuracy correlate with the last ones by 0.65 at the first rung (step 1 of 12) and by 0.86 at
the second (step 4). Of the 5 best, 4 were in the first quarter at both, and so was the best. One-cycle trainings, still
warming up at the first, stood 3.2 +- 1.6 ranks below their end there. A warm-up of a sixteenth instead of a quarter
made it 0.7 +- 1.9, with correlations of 0.62 and 0.87 and no better ends (-0.1 +- 0.2 points, 13 pairs), so it was not
shortened. (One seed; 13 one-cycle, 27 constant; validated on 3,000 images; torch 2.15, Xeon 2.5 GHz.)
"""

GOOD, RECENT = 25, 275
"""Ended trials that TPE is shown of a long study: all that it would call good, and the latest of the others."""


def derive_seed(seed: int, *purpose: int | str) -> int:
    """A seed of its own for every purpose, in [0, 2**31)."""
    text = json.dumps([seed, *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def _compute_in_scipy() -> None:
    """Give TPE SciPy's function for a logarithm that it computes number by number in Python: half of an ask's time.

    Optuna does without SciPy, and is right to; here it is there.
    """
    from scipy.special import log_ndtr  # type: ignore[import-untyped, unused-ignore]

    _truncnorm._log_ndtr = log_ndtr


def make_sampler(name: str, seed: int, number: int, attempt: int = 0) -> BaseSampler:
    """The sampler for the ask of trial `number`; `attempt` counts what it proposed before and was not wanted.

    Its seed is a function of these, so an ask repeats whether or not the search was interrupted.
    """
    ask_seed = derive_seed(seed, "ask", number, *([attempt] if attempt else []))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "tpe":
                _compute_in_scipy()
                return TPESampler(seed=ask_seed, group=True)
            case "random":
                return RandomSampler(seed=ask_seed)
            case "gp":
                return GPSampler(seed=ask_seed, warn_independent_sampling=False)
            case "cmaes":
                return CmaEsSampler(seed=ask_seed, warn_independent_sampling=False)
            case "qmc":
                # A Sobol sequence is one sequence, whose position the study keeps: it has one seed throughout. What
                # is outside of it, as conditional parameters are, is drawn anew for each ask.
                return QMCSampler(
                    seed=seed,
                    independent_sampler=RandomSampler(seed=ask_seed),
                    warn_independent_sampling=False,
                    warn_asynchronous_seeding=False,
                )
    raise AssertionError(f"the command line let the sampler {name!r} pass")


class SamplingCopy(InMemoryStorage):
    """One study in memory, of which a sampler can be shown a part.

    TPE's cost grows with the trials it sees. It models the good ones, of which it never takes more than 25, and the
    others, of which it takes all and gives the older ones little weight: of those, the latest tell it as much.
    Source: optuna.samplers.TPESampler, `gamma` and `weights`, whose defaults these are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._narrow = False
        self._shown: list[int] = []
        """Numbers of the trials to show, of those before `_seen`. One that is hidden will never be wanted again."""
        self._seen = 0

    def adopt(self, study_id: int, trial: FrozenTrial) -> None:
        """Take the next trial as it was stored. What has ended is not copied in depth: nothing changes it any more."""
        if not trial.state.is_finished():
            self.create_new_trial(study_id, trial)
            return
        trial_id = self.create_new_trial(study_id)
        taken = copy.copy(trial)
        taken._trial_id, taken.number = trial_id, self.get_trial_number_from_id(trial_id)
        self._set_trial(trial_id, taken)
        self._update_cache(trial_id, study_id)

    def blank(self, trial_id: int) -> None:
        """Take back what was sampled for a running trial, so that it can be sampled anew under the same number."""
        trial = copy.copy(self.get_trial(trial_id))
        trial.params, trial.distributions, trial.system_attrs, trial.user_attrs = {}, {}, {}, {}
        self._set_trial(trial_id, trial)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials in order of their numbers, without those that are hidden."""
        if not self._narrow:
            return super().get_all_trials(study_id, deepcopy, states)
        shown = [trial for trial in self._candidates(study_id) if states is None or trial.state in states]
        return copy.deepcopy(shown) if deepcopy else shown

    def _candidates(self, study_id: int) -> list[FrozenTrial]:
        trials = super().get_all_trials(study_id, deepcopy=False)
        return [trials[number] for number in self._shown] + trials[self._seen :]

    @contextmanager
    def as_shown_to(self, sampler: BaseSampler, study_id: int) -> Iterator[None]:
        """Hide what this sampler need not see, until the block ends."""
        if isinstance(sampler, TPESampler):
            self._narrow = True
            self._choose(study_id)
        try:
            yield
        finally:
            self._narrow = False

    def _choose(self, study_id: int) -> None:
        """Go on showing the good and the recent trials of those that TPE learns from, and all that have not ended."""
        maximize = self.get_study_directions(study_id)[0] == StudyDirection.MAXIMIZE
        candidates = self._candidates(study_id)
        learnt_from = [trial for trial in candidates if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        hidden: set[int] = set()
        if len(learnt_from) > RECENT:
            good = heapq.nsmallest(GOOD, learnt_from, key=lambda trial: _rank(trial, maximize))
            ended = {trial.number for trial in candidates if trial.state.is_finished()}
            hidden = ended - {trial.number for trial in (*good, *learnt_from[-RECENT:])}
        self._shown = [trial.number for trial in candidates if trial.number not in hidden]
        self._seen = candidates[-1].number + 1 if candidates else 0


def _rank(trial: FrozenTrial, maximize: bool) -> tuple[float, ...]:
    """TPE's order: completed trials by value, pruned ones by how far they came; infeasible ones last."""
    infeasible = sum(excess for excess in trial.constraints.values() if excess > 0)
    sign = -1.0 if maximize else 1.0
    if trial.state == TrialState.COMPLETE:
        return infeasible, 0, 0, sign * (trial.value or 0.0)
    step, value = max(trial.intermediate_values.items(), default=(-1, 0.0))
    return infeasible, 1, -step, sign * value


class Hyperband(HyperbandPruner):
    """Optuna's, which hashes a trial's number to its bracket once, and not again at every report of every later one."""

    def __init__(self, *, min_resource: int, max_resource: int, reduction_factor: int) -> None:
        super().__init__(min_resource, max_resource, reduction_factor)
        self._brackets: dict[int, int] = {}

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        if (known := self._brackets.get(trial.number)) is not None:
            return known
        return self._brackets.setdefault(trial.number, super()._get_bracket_id(study, trial))


def make_pruner(name: str, steps: int) -> BasePruner:
    """The pruner for trainings of `steps` steps.

    Rungs lie at a quarter of a quarter, at a quarter and at all of the budget, or as near as whole steps come (1, 4 and
    12 quarter epochs of 3 epochs), so that what a rung costs grows as its trials get fewer.
    """
    first = max(1, steps // REDUCTION**2)
    match name:
        case "hyperband":
            return Hyperband(min_resource=first, max_resource=steps, reduction_factor=REDUCTION)
        case "halving":
            return SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION)
        case "median":
            return MedianPruner(n_startup_trials=5, n_warmup_steps=first)
        case "none":
            return NopPruner()
    raise AssertionError(f"the command line let the pruner {name!r} pass")


def some_params(objective: Objective) -> Params:
    """A setting to try something with: the first baseline, or any."""
    for params in objective.baselines().values():
        return dict(params)
    return objective.suggest(optuna.create_study(sampler=RandomSampler(seed=0)).ask())
