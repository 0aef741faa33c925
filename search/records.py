"""What a study keeps in Optuna's user attributes beside Optuna's own fields, and how it is read back.

Everything that shows a study (the terminal, the report, `show`) reads it through here, from Optuna's storage alone, so
it works without MLflow and while a search is running.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from objectives.base import ObjectiveSpec
from search.config import DEFAULT_OBJECTIVE
from search.errors import StorageError

# Attributes of a study.
UID = "uid"  # tells this study from an earlier one of the same name in the same folder
OBJECTIVE = "objective"  # {"target": ..., "options": {...}}: how to make the objective again
METRIC = "metric"  # the objective's name for its value
STEPS_PER_EPOCH = "steps_per_epoch"
FINGERPRINT = "fingerprint"  # what must be equal for values to be comparable
PROVENANCE = "provenance"  # command, seed, git commit, versions, hardware, dataset
SESSIONS = "sessions"  # one per start of the search: {"started", "wall_s", "search_s", "tracking_s", "slots"}
TARGET = "trials"  # the --trials of the latest start
TRACKING = "tracking"  # the --tracking-uri of the latest start, without its user; "" for the folder's own store
HOLDER = "holder"  # signed by each search that writes: a mark of its own
TEST_READS = "test_reads"  # one each time that the test split was read: {"number", "run", "time"}, kept before
EXTRA = "trainings"  # by run: how the trainings beside the trials ended, which confirm the winner and make it
SUMMARY = "summary"  # Summary.as_dict()
OVER = "over"  # why the study has ended with fewer trials than TARGET once said; absent or None otherwise
WARM_STARTS = "warm_starts"  # by the name of an earlier study: its best settings, tried first
PARENT_RUN = "mlflow_run_id"
EXPERIMENT = "mlflow_experiment_id"
RUNS = "mlflow_run_ids"  # by trial, of those that ended before MLflow had made their run; Optuna closes ended trials

# Attributes of a trial.
RUN = "mlflow_run_id"
BASELINE = "baseline"
WARM_START = "warm_start"  # the earlier study and trial that a setting was taken from
LABEL = "label"
FAILURE = "failure"
FAILURE_MESSAGE = "failure_message"
METRICS = "metrics"
SLOT = "slot"

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def stored_objective(attrs: Mapping[str, Any]) -> ObjectiveSpec:
    """How to make a study's objective again. Raises StorageError for what no search has stored.

    Whoever may write to the storage is not to choose what is called here, and with which arguments: objectives other
    than this project's take none.
    """
    spec = ObjectiveSpec(**attrs[OBJECTIVE])
    if spec.options and spec.target != DEFAULT_OBJECTIVE:
        raise StorageError(
            f"the study names an objective with arguments, {spec.target}, which no search does; not made"
        )
    return spec


@dataclass(frozen=True)
class TrialRecord:
    """One trial as people are shown it."""

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
    """Which trainer ran it."""
    started: datetime | None
    ended: datetime | None
    run_id: str | None
    intermediate: Mapping[int, float]
    """Metric by step."""
    constraints: Mapping[str, float] = field(default_factory=dict)
    """By limited figure, its excess over the limit as a share of the limit."""

    @property
    def feasible(self) -> bool:
        """Whether it is within the limits that the search was given."""
        return all(excess <= 0 for excess in self.constraints.values())

    @property
    def seconds(self) -> float | None:
        """Wall seconds from start to end."""
        return (self.ended - self.started).total_seconds() if self.started and self.ended else None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values: dict[str, Any] = _plain({**asdict(self), "state": self.state.name, "seconds": self.seconds})
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
class Gain:
    """How far the winner is ahead of one baseline, on the validation split."""

    baseline: str
    number: int
    value: float
    gain: float
    """Positive when the winner is better, whatever the direction."""
    half: float | None = None
    """Half of the gain's 95% interval; None where the winner was not confirmed or nothing is known of the noise."""
    seeds: int = 0
    """Fresh seeds whose mean `value` is; 0 where it is the search's one training."""

    @property
    def known_from(self) -> str:
        """What `value` rests on, for people."""
        return f"mean of {counted(self.seeds, 'fresh seed')}" if self.seeds else "one training, not confirmed"

    @property
    def doubt(self) -> str:
        """What else is to be said of the gain: its interval may hold zero."""
        return "may be chance" if self.half is not None and abs(self.gain) <= self.half else ""


@dataclass(frozen=True)
class Candidate:
    """One of the best trials, and what fresh seeds made of its setting."""

    number: int
    label: str
    searched: float
    """The value that the search saw, which is too good on average: it was chosen for it."""
    parameters: float | None
    """Size of the network."""
    values: tuple[float, ...]
    """One for each fresh seed."""
    failed: int = 0
    """Fresh seeds that came to nothing."""
    half: float | None = None
    """Half of the mean's 95% interval, wide enough for the one that is chosen; None when no setting has two seeds."""
    behind: bool = False
    """Whether chance alone does not make it so much worse than the best."""

    @property
    def spread(self) -> float | None:
        """Standard deviation of its values; None when there are not two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def mean(self) -> float | None:
        """The confirmed value."""
        return sum(self.values) / len(self.values) if self.values else None


@dataclass(frozen=True)
class Confirmation:
    """What fresh seeds said of the best trials."""

    candidates: tuple[Candidate, ...]
    """Best of the search first."""
    seeds: int
    """How many each was to have."""
    noise: float | None
    """Standard deviation of one value around its setting's mean, pooled; None when no setting has two values."""
    n_images: int | None = None
    """How many validation images the values are shares of; None where they are something else."""

    def trust(self, trials: int) -> str:
        """What the intervals of a winner out of so many trials stand for, in words."""
        if all(each.half is None for each in self.candidates):
            return "no intervals: no setting has two seeds whose values differ"
        if self.n_images is None:
            return "95% intervals of the seeds alone"
        return f"95% intervals, allowing for the best of {counted(trials, 'trial')}"

    def interval(self, candidate: Candidate) -> tuple[float, float] | None:
        """The 95% interval of a candidate's mean, from low to high; a share of images ends at 0 and 1."""
        if candidate.mean is None or candidate.half is None:
            return None
        low, high = candidate.mean - candidate.half, candidate.mean + candidate.half
        return (low, high) if self.n_images is None else (max(low, 0.0), min(high, 1.0))


@dataclass(frozen=True)
class Summary:
    """The outcome of a finished search."""

    number: int
    """The winning trial."""
    label: str
    value: float
    """Its metric on the validation split, as the search saw it."""
    params: Mapping[str, Any]
    run: str
    """The journal's name for the run whose network is scored and published."""
    gains: tuple[Gain, ...] = ()
    test: Mapping[str, float] | None = None
    """`accuracy`, `low`, `high` (95% Wilson interval), `loss`, `n`; None when the objective has no test split."""
    confusion: Sequence[Sequence[int]] | None = None
    """Test images by true class (rows) and predicted class (columns); None for very many classes."""
    model: Mapping[str, Any] | None = None
    """`name`, `version`, `alias`, `uri`; None when nothing was registered."""
    confirmation: Confirmation | None = None
    """None when the search was told not to confirm."""
    refit: Mapping[str, Any] | None = None
    """`epochs`, `seconds`, `images` of the training that made the published network; None for a confirmed one."""
    note: str | None = None
    """What went another way than it was meant to, a refit that failed for instance."""
    standing: str | None = None
    """Why the model is not the champion, or not registered; None when it is or was not to be."""

    def noted(self, text: str) -> Summary:
        """With something more to say."""
        return replace(self, note=f"{self.note}; {text}" if self.note else text)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Summary:
        """The reverse of `as_dict`."""
        values = dict(stored)
        values["gains"] = tuple(Gain(**gain) for gain in values.get("gains", ()))
        if confirmed := values.get("confirmation"):
            tried = tuple(Candidate(**{**each, "values": tuple(each["values"])}) for each in confirmed["candidates"])
            values["confirmation"] = Confirmation(**{**confirmed, "candidates": tried})
        return cls(**values)

    @property
    def confirmed(self) -> Candidate | None:
        """The winner's figures on fresh seeds; None when none of them came to its end."""
        candidates = self.confirmation.candidates if self.confirmation else ()
        return next((each for each in candidates if each.number == self.number and each.values), None)

    @property
    def score(self) -> float:
        """The best figure there is of the winner on the validation split: confirmed, where that was done."""
        confirmed = self.confirmed
        return self.value if confirmed is None or confirmed.mean is None else confirmed.mean

    @property
    def network(self) -> str:
        """Which training made the published network: the `trial`'s own, one to `confirm` it, or the `refit`."""
        return self.run.partition("-")[0]

    def figures(self, metric: str) -> dict[str, float]:
        """The figures of the winning setting by name; `test_accuracy` is the published network's own."""
        found = {f"best_{metric}": self.value}
        if self.confirmed is not None and self.confirmed.mean is not None:
            found[f"confirmed_{metric}"] = self.confirmed.mean
        return found | ({"test_accuracy": self.test["accuracy"]} if self.test else {})


@dataclass(frozen=True)
class StudyRecord:
    """One study as people are shown it."""

    name: str
    study_id: int
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
            study_id=study._study_id,
            metric=attrs.get(METRIC, "value"),
            maximize=study.direction == optuna.study.StudyDirection.MAXIMIZE,
            trials=tuple(_linked(trial, attrs.get(RUNS, {})) for trial in study.get_trials(deepcopy=False)),
            summary=Summary.from_dict(summary) if summary else None,
            provenance=attrs.get(PROVENANCE, {}),
            sessions=tuple(attrs.get(SESSIONS, ())),
            attrs=attrs,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: everything that the terminal and the report show."""
        values: dict[str, Any] = _plain(
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
            chosen,
            key=lambda t: (not t.feasible, t.state != TrialState.COMPLETE, sign * (t.value or 0.0), t.number),
        )

    @property
    def considered(self) -> int:
        """Among how many trials the best was looked for: those within the limits that brought a value."""
        return sum(trial.value is not None and trial.feasible for trial in self.trials)

    def fate(self, candidate: Candidate) -> str:
        """What confirmation made of one of its candidates, in a few words."""
        assert self.summary is not None, "candidates are a summary's"
        assert (found := self.summary.confirmation) is not None, "candidates are a confirmation's"
        if candidate.number == self.summary.number:
            means = [each.mean for each in found.candidates if each.mean is not None and not each.failed]
            best = (max if self.maximize else min)(means, default=None)
            return "winner" if best in (None, candidate.mean) else "winner: level with the best, and smaller"
        if candidate.failed:
            return f"{counted(candidate.failed, 'seed')} failed"
        if len(candidate.values) < found.seeds:
            return "clearly behind, spared the rest"
        return "clearly behind" if candidate.behind else ""

    @property
    def tested(self) -> str:
        """How often this study has read the test split, for behind a figure that was measured there."""
        n = len(self.attrs.get(TEST_READS, ()))
        return "measured once" if n == 1 else f"the test split was read {n} times in this study"

    @property
    def baseline(self) -> str | None:
        """The name of the baseline that is the winner itself; None when it is none."""
        number = self.summary and self.summary.number
        return next((trial.baseline for trial in self.trials if trial.number == number), None)

    def count(self, state: TrialState) -> int:
        """How many trials are in `state`."""
        return sum(trial.state == state for trial in self.trials)


def _linked(trial: FrozenTrial, runs: Mapping[str, str]) -> TrialRecord:
    record = TrialRecord.of(trial)
    return record if record.run_id else replace(record, run_id=runs.get(str(record.number)))


def _plain(value: Any) -> Any:
    """`value` as JSON knows it; it has no words for numbers that are not finite."""
    match value:
        case datetime():
            return value.isoformat()
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    return value


def plus_minus(half: float | None) -> str:
    """Half of an interval as a suffix; nothing when it is not known."""
    return "" if half is None else f" ± {half:.4f}"


def span(interval: tuple[float, float] | None) -> str:
    """An interval in words; nothing when it is not known."""
    return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def counted(n: int, thing: str) -> str:
    """For instance `1 fresh seed`, `2 fresh seeds`."""
    return f"{n} {thing}{'' if n == 1 else 's'}"


def to_json(values: Any) -> bytes:
    """Readable JSON."""
    return json.dumps(values, indent=2, ensure_ascii=False).encode()
