"""Messages between a function that is called and the coordinator. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Asked:
    """A function asks something and waits for the `Answer`, which is the next command.

    `method` is a name of `optuna.Trial` or, after `study.`, of `optuna.Study`; a property has no arguments. The answer
    to `suggest_categorical` is the index of the choice. What only this project has:

        seed()                   the seed of this training
        log(metrics, step)       curve points
        log_artifact(path, bytes)
        log_model(bytes)         the program that torch.export.save wrote
        save_checkpoint(bytes)   `Task.checkpoint` of the next start of this training
        set_system_attr(key, value)  what a part of Optuna keeps with its trial
        output(text)             all that the function printed; its last question
    """

    method: str
    arguments: tuple[Any, ...] = field(default=(), repr=False)
    keywords: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Answer:
    """The reply to a question of a function, sent by the coordinator."""

    value: Any = None
    error: BaseException | None = None
    """Raised in place of a value."""
    warnings: tuple[tuple[str, type[Warning]], ...] = ()
    """Warnings of Optuna to repeat where the function runs: text and category."""


@dataclass(frozen=True)
class Returned:
    """A function returned its value, or raised `optuna.TrialPruned`."""

    value: float | None
    """None if it was pruned."""


@dataclass(frozen=True)
class Unusable:
    """The function can never be searched; the coordinator raises ObjectiveError with the message."""

    message: str
