"""Which executor a search gets, from its flags."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from objectives.base import Objective, ObjectiveSpec, Portable
from objectives.devices import resolve_device
from search.config import Config
from search.errors import UsageError
from search.executors.base import Executor
from search.executors.inline import InlineExecutor
from search.executors.local import LocalExecutor
from search.progress import Display


def check_engine(config: Config) -> None:
    """Refuse flags that do not go together, and a device that is not there. Raises UsageError, DeviceError."""
    if config.engine != "ray":
        for name in ("address", "cpus_per_trial", "gpus_per_trial"):
            if getattr(config, name) != getattr(Config, name):
                raise UsageError(f"--{name.replace('_', '-')} is for Ray: add --engine ray, or leave it out")
        if config.device not in ("auto", "cpu"):
            resolve_device(config.device, 0)
        return
    if ":" in config.device:
        raise UsageError(f"--device {config.device}: Ray chooses the GPU of each trainer; type --device cuda")
    if not math.isfinite(config.cpus_per_trial):
        raise UsageError(f"--cpus-per-trial {config.cpus_per_trial} is no number of CPUs; leave it out for 1")
    gpus = config.gpus_per_trial or 0.0
    if gpus > 1 and not gpus.is_integer():
        raise UsageError(f"--gpus-per-trial {gpus}: a trainer has a part of one GPU or whole ones; type 0.5 or 2")
    if config.device == "cuda" and config.gpus_per_trial == 0:
        raise UsageError("--device cuda with --gpus-per-trial 0 asks for a GPU and for none; leave one of them out")


@contextmanager
def open_executor(config: Config, spec: ObjectiveSpec, objective: Objective, display: Display) -> Iterator[Executor]:
    """The executor, whose trainers end with the block. Raises UsageError when it cannot be reached."""
    executor: Executor
    if config.engine == "inline":
        executor = InlineExecutor(spec, config.device)
    elif config.engine == "local":
        executor = LocalExecutor(spec, config.device, config.jobs)
    else:
        from search.executors.ray import RayExecutor

        if isinstance(objective, Portable):
            spec = ObjectiveSpec(spec.target, {**spec.options, **objective.portable()})
        with display.busy("starting or reaching Ray"):
            executor = RayExecutor(
                spec, config.device, config.jobs, cpus=config.cpus_per_trial, gpus=config.gpus_per_trial,
                address=config.address, tasks=config.trials, say=display.notice,
            )  # fmt: skip
    try:
        yield executor
    finally:
        executor.close()
