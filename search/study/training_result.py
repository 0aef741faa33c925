"""The end of a training, as the coordinator, the journal and the study have it."""

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
    """The metric of a completed training. None for a pruned or failed one, and for a refit."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """User attributes that the trial gets, by the keys of `search.study.records`."""

    @classmethod
    def failed(cls, kind: str, message: str) -> Self:
        """Describe a failed training. `kind` is `diverged`, `out_of_memory`, `crashed` or `error`."""
        return cls(TrialState.FAIL, None, {records.FAILURE: kind, records.FAILURE_MESSAGE: message[:2000]})

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Read what `as_dict` returned."""
        return cls(TrialState[stored["state"]], stored["value"], stored["attrs"])

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain JSON values, for the journal and the study."""
        return {"state": self.state.name, "value": self.value, "attrs": dict(self.attrs)}

    def with_attrs(self, attrs: Mapping[str, Any]) -> Self:
        """Return a copy with more attributes."""
        return replace(self, attrs={**self.attrs, **attrs})

    @property
    def failure(self) -> str | None:
        return self.attrs.get(records.FAILURE)

    @property
    def failure_message(self) -> str | None:
        return self.attrs.get(records.FAILURE_MESSAGE)

    @property
    def metrics(self) -> Mapping[str, float]:
        metrics: Mapping[str, float] = self.attrs.get(records.METRICS, {})
        return metrics
