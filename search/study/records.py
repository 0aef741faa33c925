"""The user attributes that a study stores with Optuna's own fields, and how both are read back.

The terminal, the report and `show` read a study through here, from Optuna's storage alone. So they work without MLflow
and while a search is running.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.study.summary import Summary

# Attributes of a study.
UID = "uid"  # tells this study from an earlier one of the same name in the same folder
OBJECTIVE = "objective"  # {"target": ..., "options": {...}}: how to make the objective again
METRIC = "metric"  # the objective's name for its value
STEPS_PER_EPOCH = "steps_per_epoch"
FINGERPRINT = "fingerprint"  # what must be equal for values to be comparable
PROVENANCE = "provenance"  # command, seed, git commit, versions, hardware, dataset
SESSIONS = "sessions"  # one per start of the search: {"started", "slots"}, and once it ended "wall_s" and more seconds
TARGET = "trials"  # the --trials of the latest start
TRACKING = "tracking"  # the --tracking-uri of the latest start, without its user; "" for the folder's own store
HOLDER = "holder"  # signed by each search that writes: a mark of its own
TEST_READS = "test_reads"  # one each time that the test split was read: {"number", "run", "time"}, kept before
EXTRA = "trainings"  # by run: results of the trainings that are not trials: confirmation and refit
SUMMARY = "summary"  # Summary.as_dict()
OVER = "over"  # why the study has ended with fewer trials than TARGET once said; absent or None otherwise
WARM_STARTS = "warm_starts"  # by the name of an earlier study: its best settings, tried first
PARENT_RUN = "mlflow_run_id"
EXPERIMENT = "mlflow_experiment_id"
RUNS = "mlflow_run_ids"  # by trial, of those that ended before MLflow had made their run; Optuna closes ended trials

# Attributes of a trial.
RUN = "mlflow_run_id"
BASELINE = "baseline"
WARM_START = "warm_start"  # the earlier study and trial that a configuration was taken from
LABEL = "label"
FAILURE = "failure"
FAILURE_MESSAGE = "failure_message"
METRICS = "metrics"
SLOT = "slot"


@dataclass(frozen=True)
class TrialRecord:
    """One trial as users see it."""

    number: int
    state: TrialState
    value: float | None
    """The metric at the end; for a pruned trial, the last one reported."""
    params: Mapping[str, Any]
    label: str
    """A few words such as `cnn-3x32 adamw 3.1e-3`."""
    baseline: str | None
    failure: str | None
    """Why a FAIL failed: `diverged`, `out_of_memory`, `crashed` or `error`."""
    failure_message: str | None
    metrics: Mapping[str, float]
    """Last figures: `train_seconds`, `parameters`, `images_per_s`, `epochs` and the last curve points."""
    slot: int | None
    """The slot that trained it."""
    started: datetime | None
    ended: datetime | None
    run_id: str | None
    intermediate: Mapping[int, float]
    """Metric by step."""
    constraints: Mapping[str, float] = field(default_factory=dict)
    """By limited figure, its excess over the limit as a share of the limit."""

    @property
    def feasible(self) -> bool:
        """Whether it is within the limits of the search."""
        return all(excess <= 0 for excess in self.constraints.values())

    @property
    def seconds(self) -> float | None:
        """Wall seconds from start to end."""
        return (self.ended - self.started).total_seconds() if self.started and self.ended else None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values: dict[str, Any] = json_values({**asdict(self), "state": self.state.name, "seconds": self.seconds})
        return values

    @classmethod
    def of(cls, trial: FrozenTrial) -> TrialRecord:
        """Read one Optuna trial."""
        attrs = trial.user_attrs
        value = trial.value if trial.state == TrialState.COMPLETE else None
        if value is None and trial.intermediate_values:
            value = trial.intermediate_values[max(trial.intermediate_values)]
        return cls(
            number=trial.number,
            state=trial.state,
            value=value,
            params=trial.params,
            label=attrs.get(LABEL, ""),
            baseline=attrs.get(BASELINE),
            failure=attrs.get(FAILURE),
            failure_message=attrs.get(FAILURE_MESSAGE),
            metrics=attrs.get(METRICS, {}),
            slot=attrs.get(SLOT),
            started=trial.datetime_start,
            ended=trial.datetime_complete,
            run_id=attrs.get(RUN),
            intermediate=trial.intermediate_values,
            constraints=trial.constraints,
        )


@dataclass(frozen=True)
class StudyRecord:
    """One study as users see it."""

    name: str
    metric: str
    maximize: bool
    trials: tuple[TrialRecord, ...]
    summary: Summary | None
    provenance: Mapping[str, Any]
    sessions: tuple[Mapping[str, Any], ...]
    attrs: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, study: optuna.Study) -> StudyRecord:
        """Read one Optuna study."""
        attrs = study.user_attrs
        summary = attrs.get(SUMMARY)
        return cls(
            name=study.study_name,
            metric=attrs.get(METRIC, "value"),
            maximize=study.direction == optuna.study.StudyDirection.MAXIMIZE,
            trials=tuple(_linked(trial, attrs.get(RUNS, {})) for trial in study.get_trials(deepcopy=False)),
            summary=Summary.from_dict(summary) if summary else None,
            provenance=attrs.get(PROVENANCE, {}),
            sessions=tuple(_measured(attrs.get(SESSIONS, ()), study.get_trials(deepcopy=False)))[::-1],
            attrs=attrs,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: everything that the terminal and the report show."""
        values: dict[str, Any] = json_values(
            {
                "name": self.name,
                "metric": self.metric,
                "direction": "maximize" if self.maximize else "minimize",
                "summary": self.summary and self.summary.as_dict(),
                "test_reads": self.attrs.get(TEST_READS, ()),
                "trials": [trial.as_dict() for trial in self.trials],
                "sessions": self.sessions,
                "provenance": self.provenance,
            }
        )
        return values

    def ranked(self, trials: Iterable[TrialRecord] | None = None) -> list[TrialRecord]:
        """Trials with a value, best first: those within the limits before others, completed ones before pruned ones."""
        chosen = [trial for trial in (self.trials if trials is None else trials) if trial.value is not None]
        sign = -1.0 if self.maximize else 1.0
        return sorted(
            chosen, key=lambda t: (not t.feasible, t.state != TrialState.COMPLETE, sign * (t.value or 0.0), t.number)
        )

    @property
    def considered(self) -> int:
        """Number of trials that the best was chosen from: those with a value, within the limits."""
        return sum(trial.value is not None and trial.feasible for trial in self.trials)

    @property
    def finished(self) -> int:
        """How many trials have ended."""
        return sum(trial.state.is_finished() for trial in self.trials)

    def count(self, state: TrialState) -> int:
        """How many trials are in `state`."""
        return sum(trial.state == state for trial in self.trials)


def _measured(sessions: Sequence[Mapping[str, Any]], trials: Sequence[FrozenTrial]) -> Iterator[Mapping[str, Any]]:
    """Sessions with durations, latest first. One that was killed or still runs lasts until its last trial event."""
    moments = [at for trial in trials for at in (trial.datetime_start, trial.datetime_complete) if at]
    until = datetime.max
    for session in reversed(sessions):
        since = datetime.fromisoformat(session["started"])
        last = max((at for at in moments if since <= at < until), default=since)
        yield {"wall_s": (last - since).total_seconds(), **session}
        until = since


def _linked(trial: FrozenTrial, runs: Mapping[str, str]) -> TrialRecord:
    record = TrialRecord.of(trial)
    return record if record.run_id else replace(record, run_id=runs.get(str(record.number)))


def json_values(value: Any) -> Any:
    """Plain JSON values; a number that is not finite becomes None."""
    match value:
        case datetime():
            return value.isoformat()
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {str(key): json_values(item) for key, item in value.items()}
        case list() | tuple():
            return [json_values(item) for item in value]
    return value


def to_json(values: Any) -> bytes:
    """Readable JSON."""
    return json.dumps(values, indent=2, ensure_ascii=False).encode()
