"""Studies of the toy objective, run as a coordinator does it."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import TrialState
from toy import Toy

from objectives.base import Diverged, Task
from search.study import records
from search.study.records import TrainingResult
from search.study.sampling.samplers import derive_seed, make_pruner
from search.study.sampling.sampling_study import PreparedTrial, SamplingStudy
from search.study.space.initial_params import InitialParams
from search.study.space.limits import Limits
from search.study.space.space import WHOLE_SPACE, Space
from search.study.storage.storage import open_storage
from search.study.storage.writer import WriterStorage
from search.study.study import NO_LIMITS, open_study

STEPS = 4


def a_study(
    storage: WriterStorage | str,
    objective: Toy | None = None,
    *,
    sampler: str = "random",
    pruner: str = "none",
    seed: int = 0,
    name: str = "toy",
    space: Space = WHOLE_SPACE,
    limits: Limits = NO_LIMITS,
    initial: Sequence[InitialParams] | None = None,
) -> SamplingStudy:
    """Open a study as a coordinator does."""
    storage = open_storage(storage) if isinstance(storage, str) else storage
    objective = objective or Toy(steps=STEPS)
    steps = objective.epochs("cpu")
    stored = open_study(storage, name, objective, "toy:Toy", steps, space, limits)
    return SamplingStudy.open(
        stored,
        pruner=make_pruner(pruner, steps),
        sampler=sampler,
        seed=seed,
        space=space,
        limits=limits,
        initial=initial,
    )


def ask(study: SamplingStudy) -> PreparedTrial:
    """The next trial, where there must be one."""
    prepared = study.ask()
    assert prepared is not None
    return prepared


def train(study: SamplingStudy, sampled: PreparedTrial) -> int:
    """Train a trial and end it as a coordinator does; returns the last step."""
    steps = study.objective.epochs("cpu")
    task = Task(sampled.number, sampled.params, derive_seed(1, sampled.number), steps)
    if not study.holds(sampled.number):
        study.start(sampled, {records.LABEL: "toy"})
    training = study.objective.start(task, "cpu")
    step, value = 0, None
    try:
        while step < steps:
            result = next(training)
            step, value = result.step, result.value
            assert value is not None
            if study.report(sampled.number, step, value, prunable=sampled.baseline is None):
                study.tell(sampled.number, TrainingResult(TrialState.PRUNED))
                return step
        study.tell(sampled.number, TrainingResult(TrialState.COMPLETE, value))
    except Diverged as error:
        study.tell(sampled.number, TrainingResult.failed("diverged", str(error)))
    except ValueError as error:
        study.tell(sampled.number, TrainingResult.failed("error", str(error)))
    return step


def story(study: SamplingStudy) -> list[tuple[object, ...]]:
    """What the storage tells of every trial, except for times and for the study's uid."""
    return [
        (
            t.number,
            t.state,
            t.params,
            t.values,
            t.intermediate_values,
            {key: value for key, value in t.user_attrs.items() if key != records.ORIGIN},
            t.system_attrs,
            t.datetime_complete is not None,
        )
        for t in study.stored.optuna_study.trials
    ]
