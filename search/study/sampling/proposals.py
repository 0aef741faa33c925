"""The next configuration to try: initial parameters, then new proposals of the sampler that are within the limits."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from objectives.base import Objective, Params, ParamValue, Selective
from objectives.functions.objective import FunctionObjective
from search.study import records
from search.study.sampling.history import SamplingCopy
from search.study.sampling.samplers import derive_seed, make_sampler
from search.study.space.asked_trial import PartialTrial
from search.study.space.initial_params import InitialParams
from search.study.space.limits import Limits
from search.study.space.objective_calls import may_propose
from search.study.space.space import ConfigurationKey, Space, configuration_key

SAMPLER_TRIES = 5
"""Number of the sampler's proposals for one trial. A sampler that repeats itself rarely has more to offer."""

COMPLETION_TRIES = 20
"""Number of random draws after those for the rest of a given configuration."""

RANDOM_TRIES = 1_000
"""Number of random configurations drawn after those. The search ends if all of them are known or exceed a limit.

So a small space is tried completely. The draws miss the last of m configurations with probability (1 - 1/m) ** 1000:
5e-8 for m = 60 and 0.7% for m = 200.
"""

FIXED_PARAMS = "fixed_params"
"""Where `enqueue_trial` stores parameters; private, as in Optuna 5.0.0."""

EXHAUSTED_MESSAGE = (
    f"of {RANDOM_TRIES:,} configurations drawn at random, none was both new and within the limits; to search a larger "
    "space, start another study: give --study NAME with other values of --fix or of a limit"
)


@dataclass
class Proposals:
    """Samples trials on the copy of a study. An ask depends on the study's trials and seed alone, so it repeats."""

    objective: Objective
    memory: SamplingCopy
    study: optuna.Study  # the study in `memory`
    sampler: str
    seed: int
    space: Space
    limits: Limits
    initial: Sequence[InitialParams]
    exhausted: str | None = None  # why no configuration is left to try, once an ask found none
    _proposed: set[tuple[str, str]] = field(default_factory=set)  # origin and name of proposed initial parameters
    _tried: set[ConfigurationKey] = field(default_factory=set)

    def note(self, trial: FrozenTrial) -> None:
        """Take note of a trial that exists."""
        if not isinstance(self.objective, FunctionObjective):
            self._tried.add(configuration_key(trial.params))
        origins = [origin for origin in (records.BASELINE, records.WARM_START) if origin in trial.user_attrs]
        self._proposed |= {(origin, trial.user_attrs[origin]) for origin in origins}

    def unsampled(self) -> FrozenTrial:
        """A new trial of a function, which suggests its parameters later. Some of them may be given."""
        given: Params = dict(self.space.fixed)
        attrs: dict[str, str] = {}
        for initial in self.initial:
            if (initial.origin, initial.name) not in self._proposed:
                self._proposed.add((initial.origin, initial.name))
                given, attrs = {**initial.params, **given}, {initial.origin: initial.name}
                break
        system_attrs = {FIXED_PARAMS: given} if given else {}
        return create_trial(state=TrialState.RUNNING, user_attrs=attrs, system_attrs=system_attrs)

    def complete(self, number: int, trial_id: int) -> Params:
        """Sample the parameters that a trial of the copy does not have yet.

        They are sampled again while the objective would not propose them. If it never would, as when what was given is
        the reason, the first sample stays.
        """
        given = copy.deepcopy(self.memory.get_trial(trial_id))
        for attempt in (*range(SAMPLER_TRIES + COMPLETION_TRIES), 0):
            self.memory.restore(trial_id, given)
            trial, params = self._sample(number, attempt, trial_id)
            if self._may_propose(params):
                break
        self._accept(trial, params)
        return params

    def next(self, number: int) -> tuple[Params, InitialParams | None] | None:
        """Sample trial `number` on the copy; None when nothing is left to try."""
        if self.exhausted is not None:
            return None
        if (initial := self._next_initial()) is not None:
            self.study.enqueue_trial(initial.params, user_attrs={initial.origin: initial.name})
        trial_id = None
        for attempt in range(SAMPLER_TRIES + RANDOM_TRIES):
            trial, params = self._sample(number, attempt, trial_id)
            is_initial = initial is not None and attempt == 0
            if (is_initial or self._may_propose(params)) and self._is_wanted(trial.params, params):
                self._accept(trial, params)
                return params, None if attempt else initial
            trial_id = trial._trial_id  # private, as in Optuna 5.0.0: a trial has no public id
            # The trial is emptied, so that it can be sampled again under the same number.
            self.memory.replace(trial_id, params={}, distributions={}, system_attrs={}, user_attrs={})
        self.exhausted = EXHAUSTED_MESSAGE
        self.study.tell(number, state=TrialState.FAIL)  # on the copy alone: the number stays free
        return None

    def is_exhausted(self) -> bool:
        """True if random draws find nothing left to try. Leaves the copy as it is."""
        if isinstance(self.objective, FunctionObjective):
            return False  # nobody knows what it may suggest
        study = optuna.create_study(sampler=RandomSampler(seed=derive_seed(self.seed, "exhausted")))
        for _ in range(RANDOM_TRIES):
            trial = study.ask()
            params = self.space.suggest(self.objective, trial)
            if self._may_propose(params) and self._is_wanted(trial.params, params):
                return False
        return True

    def _sample(self, number: int, attempt: int, trial_id: int | None = None) -> tuple[optuna.Trial, Params]:
        """Sample a new trial, or the rest of trial `trial_id`."""
        name = self.sampler if attempt < SAMPLER_TRIES else "random"
        self.study.sampler = make_sampler(name, self.seed, number, attempt)
        # private, as in Optuna 5.0.0: a study has no public id
        with self.memory.as_shown_to(self.study.sampler, self.study._study_id):
            trial = self.study.ask() if trial_id is None else optuna.Trial(self.study, trial_id)
            assert trial.number == number, f"the copy made trial {trial.number} where {number} was due"
            return trial, self.space.suggest(self.objective, trial)

    def _next_initial(self) -> InitialParams | None:
        for initial in self.initial:
            if (initial.origin, initial.name) in self._proposed:
                continue
            self._proposed.add((initial.origin, initial.name))
            trial = PartialTrial(initial.params)
            self.space.suggest(self.objective, trial)
            if trial.missing or configuration_key(trial.params) not in self._tried:
                return initial
        return None

    def _is_wanted(self, sampled: Mapping[str, ParamValue], params: Params) -> bool:
        is_new = configuration_key(sampled) not in self._tried
        return is_new and self.limits.allow(self.limits.figures(self.objective, params))

    def _may_propose(self, params: Params) -> bool:
        if not isinstance(self.objective, Selective):
            return True
        return may_propose(self.objective, params, self.space.narrowed.keys())

    def _accept(self, trial: optuna.Trial, params: Params) -> None:
        self._tried.add(configuration_key(trial.params))
        excess = self.limits.excess(self.limits.figures(self.objective, params))
        self.memory.add_constraints(trial._trial_id, excess)  # private, as in Optuna 5.0.0
