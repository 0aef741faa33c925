"""How one training ended: the same type in the coordinator, in the journal and in the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from optuna.trial import TrialState

from search.study import records


@dataclass(frozen=True)
class TrainingResult:
    """The end of a training."""

    state: TrialState
    value: float | None = None
    """The metric at the end of a completed training. None for a pruned or failed one, and for a refit."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """User attributes that the trial gets, by the keys of `search.study.records`."""

    @classmethod
    def failed(cls, kind: str, message: str) -> Self:
        """A training that failed. `kind` is `diverged`, `out_of_memory`, `crashed` or `error`."""
        return cls(TrialState.FAIL, None, {records.FAILURE: kind, records.FAILURE_MESSAGE: message[:2000]})

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Read what `as_dict` has stored."""
        return cls(TrialState[stored["state"]], stored["value"], stored["attrs"])

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, for the journal and for the study."""
        return {"state": self.state.name, "value": self.value, "attrs": dict(self.attrs)}

    def with_attrs(self, attrs: Mapping[str, Any]) -> Self:
        """A copy with more attributes."""
        return replace(self, attrs={**self.attrs, **attrs})

    @property
    def failure(self) -> str | None:
        """The kind of failure; None if it did not fail."""
        return self.attrs.get(records.FAILURE)

    @property
    def failure_message(self) -> str | None:
        """The error message of the failure."""
        return self.attrs.get(records.FAILURE_MESSAGE)

    @property
    def metrics(self) -> Mapping[str, float]:
        """The last figures of the training."""
        metrics: Mapping[str, float] = self.attrs.get(records.METRICS, {})
        return metrics
