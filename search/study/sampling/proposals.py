"""What to try next: initial parameters, then the sampler's proposals. None is trained twice or exceeds a limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from objectives.base import Objective, Params, ParamValue
from search.study import records
from search.study.sampling.history import SamplingCopy
from search.study.sampling.samplers import derive_seed, make_sampler
from search.study.space.initial_params import InitialParams, PartialTrial
from search.study.space.limits import Limits
from search.study.space.space import ConfigurationKey, Space, configuration_key

SAMPLER_TRIES = 5
"""How many proposals of the sampler are considered for one trial. One that repeats itself has little more to say."""

RANDOM_TRIES = 1_000
"""How many random configurations are then drawn, in a row, before the search ends for want of a new one.

A small space is tried completely: with one configuration of m left, the draws miss it with probability
(1 - 1/m) ** 1000, which is 5e-8 for m = 60 and 0.7% for m = 200. 700 simulated searches of spaces of 2, 6, 24 and 60
configurations, with the samplers tpe, random, cmaes and qmc, all tried every configuration.
"""

EXHAUSTED = (
    f"of {RANDOM_TRIES:,} configurations drawn at random, none was both new and within the limits; to search a larger "
    "space, start another study: give --study NAME with other values of --fix or of a limit"
)


class Proposals:
    """Samples trials on the copy of a study. An ask depends on the study's trials and seed alone, so it repeats."""

    def __init__(
        self,
        objective: Objective,
        memory: SamplingCopy,
        copy: optuna.Study,
        *,
        sampler: str,
        seed: int,
        space: Space,
        limits: Limits,
        initial: Sequence[InitialParams],
    ) -> None:
        self.objective, self.space, self.limits = objective, space, limits
        self._memory, self._copy = memory, copy
        self._sampler, self._seed, self._initial = sampler, seed, initial
        self._proposed: set[tuple[str, str]] = set()
        """Origin and name of the initial parameters that were proposed."""
        self._tried: set[ConfigurationKey] = set()
        self.exhausted: str | None = None
        """Why nothing is left to try, once an ask found nothing."""

    def note(self, trial: FrozenTrial) -> None:
        """Take note of a trial that exists."""
        self._tried.add(configuration_key(trial.params))
        for origin in (records.BASELINE, records.WARM_START):
            if (name := trial.user_attrs.get(origin)) is not None:
                self._proposed.add((origin, name))

    def complete(self, number: int, trial_id: int) -> Params:
        """Sample the parameters that a trial of the copy does not have yet."""
        with self._sampling(self._sampler_for(number, 0)):
            params = self.space.suggest(self.objective, optuna.Trial(self._copy, trial_id))
        self._accept(trial_id, params)
        return params

    def next(self, number: int) -> tuple[Params, InitialParams | None] | None:
        """Sample trial `number` on the copy; None when nothing is left to try."""
        if self.exhausted is not None:
            return None
        if (initial := self._next_initial()) is not None:
            self._copy.enqueue_trial(initial.params, user_attrs={initial.origin: initial.name})
        trial_id, params = self._ask(number)
        for attempt in range(1, SAMPLER_TRIES + RANDOM_TRIES):
            if self._is_wanted(self._memory.get_trial(trial_id).params, params):
                break
            initial = None
            params = self._ask_again(trial_id, self._sampler_for(number, attempt))
        if not self._is_wanted(self._memory.get_trial(trial_id).params, params):
            self.exhausted = EXHAUSTED
            self._copy.tell(number, state=optuna.trial.TrialState.FAIL)  # on the copy alone: the number stays free
            return None
        self._accept(trial_id, params)
        return params, initial

    def is_exhausted(self) -> bool:
        """True if random draws find nothing left to try. Leaves the copy as it is."""
        study = optuna.create_study(sampler=RandomSampler(seed=derive_seed(self._seed, "exhausted")))
        for _ in range(RANDOM_TRIES):
            trial = study.ask()
            params = self.space.suggest(self.objective, trial)
            if self._is_wanted(trial.params, params):
                return False
        return True

    # ---- one proposal

    def _ask(self, number: int) -> tuple[int, Params]:
        with self._sampling(self._sampler_for(number, 0)):
            trial = self._copy.ask()
            assert trial.number == number, f"the copy made trial {trial.number} where {number} was due"
            return trial._trial_id, self.space.suggest(self.objective, trial)

    def _ask_again(self, trial_id: int, sampler: BaseSampler) -> Params:
        self._memory.blank(trial_id)
        with self._sampling(sampler):
            return self.space.suggest(self.objective, optuna.Trial(self._copy, trial_id))

    @contextmanager
    def _sampling(self, sampler: BaseSampler) -> Iterator[None]:
        """Sample on the copy in this block."""
        self._copy.sampler = sampler
        with self._memory.as_shown_to(sampler, self._copy._study_id):
            yield

    def _sampler_for(self, number: int, attempt: int) -> BaseSampler:
        name = self._sampler if attempt < SAMPLER_TRIES else "random"
        return make_sampler(name, self._seed, number, attempt)

    # ---- what is wanted

    def _next_initial(self) -> InitialParams | None:
        for initial in self._initial:
            if (initial.origin, initial.name) in self._proposed:
                continue
            self._proposed.add((initial.origin, initial.name))
            trial = PartialTrial(initial.params)
            self.space.suggest(self.objective, trial)
            if trial.missing or configuration_key(trial.params) not in self._tried:
                return initial
        return None

    def _is_wanted(self, sampled: Mapping[str, ParamValue], params: Params) -> bool:
        return configuration_key(sampled) not in self._tried and self.limits.allow(self._figures(params))

    def _accept(self, trial_id: int, params: Params) -> None:
        """Keep what was sampled, with the constraints that are known now."""
        self._tried.add(configuration_key(self._memory.get_trial(trial_id).params))
        self._memory.add_constraints(trial_id, self.limits.excess(self._figures(params)))

    def _figures(self, params: Params) -> dict[str, float]:
        return self.limits.figures(self.objective, params)
