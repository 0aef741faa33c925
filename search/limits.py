"""What a winner may weigh and how long it may take: `--max-parameters` and `--max-latency-ms`.

Both are constraints in Optuna's sense: a figure's excess over its limit, as a share of the limit, is stored with the
trial; zero or less is feasible. Weights are counted before anything is trained, and a setting with too many never
becomes a trial. Latency is measured by the trainer before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from objectives.base import Objective, Params, Sized, Timed
from search.asking import asking
from search.errors import UsageError

FLAGS = {"parameters": "--max-parameters", "latency_ms": "--max-latency-ms"}


@dataclass(frozen=True)
class Limits:
    """Upper limits of two figures; None: any."""

    parameters: int | None = None
    latency_ms: float | None = None

    def as_dict(self) -> dict[str, float]:
        """The limits that there are, by the figure that they are of."""
        both = {"parameters": self.parameters, "latency_ms": self.latency_ms}
        return {name: limit for name, limit in both.items() if limit is not None}

    def as_settings(self) -> dict[str, float | None]:
        """All of them, by the names of their settings."""
        return {"max_parameters": self.parameters, "max_latency_ms": self.latency_ms}

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Limits:
        """Those among a study's settings."""
        return cls(settings.get("max_parameters"), settings.get("max_latency_ms"))

    def check(self, objective: Objective) -> None:
        """Raise UsageError when the objective cannot tell what is limited."""
        needed = {"parameters": (Sized, "n_parameters(params)"), "latency_ms": (Timed, "latency_ms(params, device)")}
        for name in self.as_dict():
            protocol, method = needed[name]
            if not isinstance(objective, protocol):
                raise UsageError(
                    f"{FLAGS[name]} needs an objective that says what its models come to: give "
                    f"{type(objective).__name__} a method {method} as in objectives/base.py, or leave the flag out"
                )

    def known(self, objective: Objective, params: Params) -> dict[str, float]:
        """The figures that are known before a training, of those that are limited."""
        if self.parameters is None:
            return {}
        assert isinstance(objective, Sized)
        with asking("n_parameters"):
            return {"parameters": float(objective.n_parameters(params))}

    def excess(self, figures: Mapping[str, float]) -> dict[str, float]:
        """By how much of its limit each figure is above it; negative below it."""
        return {name: figures[name] / limit - 1 for name, limit in self.as_dict().items() if name in figures}

    def allow(self, figures: Mapping[str, float]) -> bool:
        """Whether these figures are within the limits."""
        return all(excess <= 0 for excess in self.excess(figures).values())


def describe(figures: Mapping[str, float]) -> str:
    """Figures for people: `421,642 parameters`, `0.31 ms`."""
    texts = {"parameters": "{:,.0f} parameters", "latency_ms": "{:.3g} ms a prediction"}
    return ", ".join(texts[name].format(value) for name, value in figures.items() if name in texts)
