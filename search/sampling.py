"""Samplers, pruners and seeds: how the next setting is chosen and when a training is given up."""

from __future__ import annotations

import hashlib
import json
import warnings

import optuna
from optuna.distributions import distribution_to_json
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler

from objectives.base import Objective, ObjectiveError, Params

REDUCTION = 4
"""Of a rung's trials, one in four goes on. With the first rung at a sixteenth of the budget, three rungs span it."""

PROBES = 48
"""Settings sampled to see the search space; two spaces that agree on all of them are taken as the same."""


def derive_seed(seed: int, *purpose: int | str) -> int:
    """A seed of its own for every purpose, in [0, 2**31)."""
    text = json.dumps([seed, *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def make_sampler(name: str, seed: int, number: int) -> BaseSampler:
    """The sampler for the ask of trial `number`.

    Its seed is a function of study seed and number, so an ask repeats whether or not the search was interrupted.
    """
    ask_seed = derive_seed(seed, "ask", number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "tpe":
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


def make_pruner(name: str, steps: int) -> BasePruner:
    """The pruner for trainings of `steps` steps.

    Rungs lie at 1/16, 1/4 and all of the budget (1, 4 and 16 quarter epochs of 4 epochs), so that what a rung costs
    grows as its trials get fewer.
    """
    first = max(1, steps // REDUCTION**2)
    match name:
        case "hyperband":
            return HyperbandPruner(min_resource=first, max_resource=steps, reduction_factor=REDUCTION)
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


def search_space(objective: Objective) -> dict[str, str]:
    """Every parameter that the objective was seen to sample, with its distribution as JSON."""
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    space: dict[str, str] = {}
    for _ in range(PROBES):
        trial = study.ask()
        try:
            objective.suggest(trial)
        except Exception as error:  # an objective that cannot be asked makes a search impossible, not a trial
            raise ObjectiveError(f"the objective's suggest failed: {type(error).__name__}: {error}") from error
        for name, distribution in trial.distributions.items():
            space.setdefault(name, distribution_to_json(distribution))
    return dict(sorted(space.items()))
