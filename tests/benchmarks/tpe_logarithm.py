"""What SciPy's `log_ndtr` saves in an ask of TPE: milliseconds with it and with Optuna's own, one after the other.

Run it with `python -m tests.benchmarks.tpe_logarithm`. It samples the built-in objective's space, as a search does.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.samplers._tpe import _truncnorm

from objectives.images.objective import ImageClassification
from search.study.sampling import samplers as sampling
from search.study.sampling.history import SamplingCopy
from search.study.sampling.samplers import make_sampler

OWN: Callable[[Any], Any] = _truncnorm._log_ndtr
ROUNDS, ASKS = 9, 5


def main() -> None:
    """Print the medians and their ratio for a short and a long study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampling.use_scipy_in_tpe()
    fast: Callable[[Any], Any] = _truncnorm._log_ndtr
    sampling.use_scipy_in_tpe = lambda: None
    for trials in (50, 350):
        study, memory = study_of(trials)
        with_scipy, without = [], []
        for n in range(ROUNDS):
            with_scipy.append(ask_ms(study, memory, fast, n))
            without.append(ask_ms(study, memory, OWN, n))
        ratio = statistics.median(b / a for a, b in zip(with_scipy, without, strict=True))
        print(
            f"{trials} trials: {statistics.median(with_scipy):.1f} ms with SciPy, "
            f"{statistics.median(without):.1f} ms without, ratio {ratio:.2f} (medians of {ROUNDS} rounds)"
        )


def study_of(trials: int) -> tuple[optuna.Study, SamplingCopy]:
    """A study of completed trials of the built-in objective, with random values."""
    memory, draw = SamplingCopy(), random.Random(0)
    study = optuna.create_study(direction="maximize", storage=memory, sampler=RandomSampler(seed=0))
    objective = ImageClassification("digits")
    for _ in range(trials):
        trial = study.ask()
        objective.suggest(trial)
        study.tell(trial, draw.random())
    return study, memory


def ask_ms(study: optuna.Study, memory: SamplingCopy, log_ndtr: Callable[[Any], Any], n: int) -> float:
    """Milliseconds for one ask, the mean of several. The trials fail, so TPE learns nothing from them."""
    _truncnorm._log_ndtr = log_ndtr
    objective, took = ImageClassification("digits"), []
    for k in range(ASKS):
        study.sampler = make_sampler("tpe", 0, n * ASKS + k)
        started = time.perf_counter()
        with memory.as_shown_to(study.sampler, study._study_id):
            trial = study.ask()
            objective.suggest(trial)
        took.append(1000 * (time.perf_counter() - started))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return statistics.mean(took)


if __name__ == "__main__":
    main()
