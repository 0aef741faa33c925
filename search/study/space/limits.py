"""Upper limits on the winner, which are constraints in Optuna's sense: `--max-parameters` and `--max-latency-ms`.

A configuration with too many parameters never becomes a trial. The worker measures latency before the first step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from objectives.base import Objective, Params, Sized, Timed
from objectives.failures import describe_value
from search.common.errors import UsageError
from search.study.space.objective_calls import call, require
from search.study.space.plain_values import is_number


@dataclass(frozen=True)
class Limits:
    """Upper limits of two figures; None means no limit."""

    parameters: int | None = None
    latency_ms: float | None = None

    def as_dict(self) -> dict[str, float]:
        """The limits that are set, by the name of the figure."""
        return {name: limit for name, limit in vars(self).items() if limit is not None}

    def as_settings(self) -> dict[str, float | None]:
        """Both limits, by the names of their flags."""
        return {f"max_{name}": limit for name, limit in vars(self).items()}

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """The limits stored among the settings of a study."""
        return cls(settings.get("max_parameters"), settings.get("max_latency_ms"))

    def check(self, objective: Objective) -> None:
        """Raise UsageError when the objective lacks the method for a limited figure."""
        if self.parameters is not None and not isinstance(objective, Sized):
            flag, method = "--max-parameters", "n_parameters(params)"
        elif self.latency_ms is not None and not isinstance(objective, Timed):
            flag, method = "--max-latency-ms", "latency_ms(params, device)"
        else:
            return
        raise UsageError(
            f"{flag} needs an objective that measures its models: give {type(objective).__name__} a method {method} as "
            "in objectives/base.py, or leave the flag out"
        )

    def figures(self, objective: Objective, params: Params) -> dict[str, float]:
        """The limited figures that are known before training."""
        if self.parameters is None:
            return {}
        assert isinstance(objective, Sized)
        count = call("n_parameters", objective.n_parameters, params)
        require(is_number(count), f"n_parameters gave {describe_value(count)}; give a whole number")
        return {"parameters": float(count)}

    def excess(self, figures: Mapping[str, float]) -> dict[str, float]:
        """How far each figure is above its limit, as a share of the limit; negative below it."""
        return {name: figures[name] / limit - 1 for name, limit in self.as_dict().items() if name in figures}

    def allow(self, figures: Mapping[str, float]) -> bool:
        """True if these figures are within the limits."""
        return all(excess <= 0 for excess in self.excess(figures).values())


def describe(figures: Mapping[str, float]) -> str:
    """Figures in words: `421,642 parameters, 0.31 ms a prediction`."""
    texts = {"parameters": "{:,.0f} parameters", "latency_ms": "{:.3g} ms a prediction"}
    return ", ".join(texts[name].format(value) for name, value in figures.items() if name in texts)
