"""What to try next: known settings first, then the sampler's, none of them twice and none above a limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import optuna
from optuna.samplers import BaseSampler, PartialFixedSampler
from optuna.trial import FrozenTrial, TrialState

from objectives.base import Objective, Params, ParamValue
from search import records
from search.history import SamplingCopy
from search.known import Known
from search.limits import Limits
from search.sampling import derive_seed, make_sampler
from search.settings import Key, Recorder, every_setting, key
from search.space import Space

SAMPLER_TRIES = 5
"""How often a sampler is asked for one trial. One that insists on what was tried has little more to say."""

RANDOM_TRIES = 1_000
"""How often chance is asked after that, in a space that cannot be counted: where one setting in 200 is small enough, it
fails to find one once in 150 times."""

EXHAUSTED = (
    "every setting of this space has been tried, and none is trained twice; a larger space is another study: give "
    "--study NAME with other values of --fix or of a limit"
)
NOTHING_NEW = (
    "none of them is both new and within the limits; with a higher limit it is another study: give --study NAME"
)


class Proposals:
    """Samples trials on the copy of a study. An ask depends on the study's trials and seed alone, so it repeats."""

    def __init__(
        self, objective: Objective, memory: SamplingCopy, copy: optuna.Study, *, sampler: str, seed: int,
        space: Space, limits: Limits, known: Sequence[Known],
    ) -> None:  # fmt: skip
        self.objective, self.space, self.limits = objective, space, limits
        self._memory, self._copy = memory, copy
        self._sampler, self._seed, self._known = sampler, seed, known
        self._tried: set[tuple[str, str]] = set()
        """Known settings that have been asked for, by origin and name."""
        self._seen: set[Key] = set()
        self._settings: list[dict[str, ParamValue]] | None = None
        self._counted = False
        self.over: str | None = None
        """Why nothing is left to try, once an ask has found nothing."""

    def note(self, trial: FrozenTrial) -> None:
        """Take note of a trial that exists."""
        self._seen.add(key(trial.params))
        for origin in (records.BASELINE, records.WARM_START):
            if (name := trial.user_attrs.get(origin)) is not None:
                self._tried.add((origin, name))

    def complete(self, number: int, trial_id: int) -> Params:
        """Sample what is missing of a trial of the copy."""
        with self._sampling(self._of_study(number)):
            params = self.space.suggest(self.objective, optuna.Trial(self._copy, trial_id))
        self._accept(trial_id, params)
        return params

    def next(self, number: int) -> tuple[Params, Known | None] | None:
        """Sample trial `number` on the copy; None when nothing is left to try."""
        if self.over is not None:
            return None
        if (known := self._next_known()) is not None:
            self._copy.enqueue_trial(known.params, user_attrs={known.origin: known.name})
        trial_id, params = self._ask(number)
        found: Params | None = params
        attempt = 0
        while found is not None and not self._is_wanted(trial_id, found):
            known, attempt = None, attempt + 1
            if attempt < SAMPLER_TRIES:
                found = self._ask_again(trial_id, self._of_study(number, attempt))
            elif (left := self.untried()) is not None:
                found = self._one_of(left, number, trial_id)
            elif attempt < SAMPLER_TRIES + RANDOM_TRIES:
                found = self._ask_again(trial_id, self._chance(number, attempt))
            else:
                found, self.over = None, f"{RANDOM_TRIES:,} settings were drawn, and {NOTHING_NEW}"
        if found is None:
            self._copy.tell(number, state=TrialState.FAIL)  # on the copy alone: the number stays free
            return None
        self._accept(trial_id, found)
        return found, known

    def untried(self) -> list[dict[str, ParamValue]] | None:
        """The settings that are left, of those within the limits; None where they cannot be counted."""
        if not self._counted:
            self._counted = True
            self._settings = every_setting(lambda trial: self.space.suggest(self.objective, trial))
        if self._settings is None:
            return None
        left = [params for params in self._settings if key(params) not in self._seen]
        return [params for params in left if self.limits.allow(self._figures(self._made(params)))]

    # ---- one proposal

    def _ask(self, number: int) -> tuple[int, Params]:
        with self._sampling(self._of_study(number)):
            trial = self._copy.ask()
            assert trial.number == number, f"the copy made trial {trial.number} where {number} was due"
            return trial._trial_id, self.space.suggest(self.objective, trial)

    def _ask_again(self, trial_id: int, sampler: BaseSampler) -> Params:
        self._memory.blank(trial_id)
        with self._sampling(sampler):
            return self.space.suggest(self.objective, optuna.Trial(self._copy, trial_id))

    def _one_of(self, left: Sequence[Mapping[str, ParamValue]], number: int, trial_id: int) -> Params | None:
        if not left:
            self.over = EXHAUSTED
            return None
        chosen = left[derive_seed(self._seed, "rest", number) % len(left)]
        return self._ask_again(trial_id, PartialFixedSampler(dict(chosen), self._chance(number, 0)))

    @contextmanager
    def _sampling(self, sampler: BaseSampler) -> Iterator[None]:
        """Sample on the copy in this block."""
        self._copy.sampler = sampler
        with self._memory.as_shown_to(sampler, self._copy._study_id):
            yield

    def _of_study(self, number: int, attempt: int = 0) -> BaseSampler:
        return make_sampler(self._sampler, self._seed, number, attempt)

    def _chance(self, number: int, attempt: int) -> BaseSampler:
        return make_sampler("random", self._seed, number, attempt)

    # ---- what is wanted

    def _next_known(self) -> Known | None:
        for known in self._known:
            if (known.origin, known.name) in self._tried:
                continue
            self._tried.add((known.origin, known.name))
            recorder = Recorder(known.params)
            self.space.suggest(self.objective, recorder)
            if recorder.unknown or key(recorder.asked) not in self._seen:
                return known
        return None

    def _is_wanted(self, trial_id: int, params: Params) -> bool:
        if key(self._memory.get_trial(trial_id).params) in self._seen:
            return False
        return self.limits.allow(self._figures(params))

    def _accept(self, trial_id: int, params: Params) -> None:
        """Keep what is sampled, with the constraints that are known now."""
        self._seen.add(key(self._memory.get_trial(trial_id).params))
        self._memory.add_constraints(trial_id, self.limits.excess(self._figures(params)))

    def _figures(self, params: Params) -> dict[str, float]:
        return self.limits.known(self.objective, params)

    def _made(self, sampled: dict[str, ParamValue]) -> Params:
        """What the objective makes of sampled parameters."""
        return self.space.suggest(self.objective, Recorder(sampled))
