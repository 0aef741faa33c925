"""A study's user attributes, and records of studies and trials as users see them, and of a training's end.

Studies and trials come from Optuna's storage alone. So terminal and report work without MLflow and during a search.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Self

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.common.direction import Direction
from search.common.text import printable
from search.study.state import Holder, Phase, State, measured
from search.study.summary import Summary

# Attributes of a study.
UID = "uid"  # distinguishes the study from an earlier one of the same name in the same folder; of a copy: UID-UID
OBJECTIVE = "objective"  # {"target": ..., "options": {...}}, from which the objective can be made again
METRIC = "metric"  # the objective's name for its value
STEPS_PER_EPOCH = "steps_per_epoch"
FINGERPRINT = "fingerprint"  # values are comparable only if it is equal
PROVENANCE = "provenance"  # command, seed, git commit, versions, hardware, dataset, later commands
SESSIONS = "sessions"  # one per start of the search: {"started", "slots"}; after its end also "wall_s" and more seconds
TARGET = "trials"  # the --trials of the latest start; once it ended, how many trials it finished at most
TRACKING = "tracking"  # the --tracking-uri of the latest start, without its user; "" for the folder's own store
HOLDER = "holder"  # the mark of the search that holds the lock
TEST_READS = "test_reads"  # one per read of the test split, stored before it: {"number", "run", "time"}
CALIBRATIONS = "calibrations"  # by run: the Calibration with which it was first tested, as a dict; it keeps that one
ENSEMBLE = "ensemble"  # {"asked", "chosen"}: the latest Ensemble that was chosen, as a dict, and for what
EXTRA_TRAININGS = "trainings"  # by run: the results of confirmation and refit
PHASE = "phase"  # Phase.as_dict() of what the search does; None after its last phase
SUMMARY = "summary"  # Summary.as_dict()
STOP_REASON = "over"  # why the study ended with fewer trials than planned; otherwise absent or None
REFUTED = "refuted"  # {"target", "seeds", "trials"}: trials that reached --target, but not in their mean over the seeds
WARM_STARTS = "warm_starts"  # by the value of --warm-start: the configurations taken over, which are tried first
PARENT_RUN = "mlflow_run_id"
EXPERIMENT = "mlflow_experiment_id"
RUNS = "mlflow_run_ids"  # by trial, if it ended before MLflow made its run: Optuna allows no changes after the end
SEEDED = "seeded"  # true once a function has asked for its seed
FOLDS = "folds"  # how many confirm a candidate; 0 by seeds, as in earlier studies, which have no such attribute
MODELS = "models"  # true once a function has logged a model
DELETED = "weights_deleted"  # of a study: trials whose weights were deleted later; of a trial: true if never stored

# Attributes of a trial.
RUN = "mlflow_run_id"
ORIGIN = "origin"  # UID/NUMBER of a trial as the search made it: a copy in another study or place has another one
BASELINE = "baseline"
WARM_START = "warm_start"  # the earlier trial that its configuration comes from, or its place in the portfolio
LABEL = "label"
FAILURE = "failure"
FAILURE_MESSAGE = "failure_message"
METRICS = "metrics"
IMAGE_ERROR = "image_error"  # standard error of a completed training's value over draws of the validation images
NEVER_PREDICTED = "never_predicted"  # classes of validation images that a completed training never predicts
SLOT = "slot"

STUDY_ATTRS = {UID, OBJECTIVE, METRIC, STEPS_PER_EPOCH, FINGERPRINT, PROVENANCE, SESSIONS, TARGET, TRACKING, HOLDER}
STUDY_ATTRS |= {TEST_READS, EXTRA_TRAININGS, PHASE, SUMMARY, STOP_REASON, WARM_STARTS, PARENT_RUN, EXPERIMENT, RUNS}
STUDY_ATTRS |= {SEEDED, MODELS, REFUTED, DELETED, CALIBRATIONS, FOLDS, ENSEMBLE}
TRIAL_ATTRS = {RUN, ORIGIN, BASELINE, WARM_START, LABEL, FAILURE, FAILURE_MESSAGE, METRICS, SLOT, IMAGE_ERROR}
TRIAL_ATTRS |= {NEVER_PREDICTED, DELETED}


@dataclass(frozen=True)
class TrainingResult:
    """The end of a training, as the coordinator, the journal and the study have it."""

    state: TrialState
    value: float | None = None  # the metric of a completed training; None for a pruned or failed one, and for a refit
    attrs: Mapping[str, Any] = field(default_factory=dict)  # user attributes that the trial gets, by the keys above

    @classmethod
    def failed(cls, kind: str, message: str) -> Self:
        """Describe a failed training. `kind` is `diverged`, `out_of_memory`, `crashed` or `error`."""
        return cls(TrialState.FAIL, None, {FAILURE: kind, FAILURE_MESSAGE: printable(message, limit=2000)})

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        return cls(TrialState[stored["state"]], stored["value"], stored["attrs"])

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain JSON values, for the journal and the study."""
        return {"state": self.state.name, "value": self.value, "attrs": dict(self.attrs)}

    def with_attrs(self, attrs: Mapping[str, Any]) -> Self:
        return replace(self, attrs={**self.attrs, **attrs})

    @property
    def failure(self) -> str | None:
        return self.attrs.get(FAILURE)

    @property
    def failure_message(self) -> str | None:
        return self.attrs.get(FAILURE_MESSAGE)

    @property
    def metrics(self) -> Mapping[str, float]:
        return dict(self.attrs.get(METRICS, {}))


@dataclass(frozen=True)
class TrialRecord:
    """One trial as users see it."""

    number: int
    state: TrialState
    value: float | None  # the metric at the end; for a pruned trial, the last one reported
    params: Mapping[str, Any]
    label: str  # a short description, such as `cnn-3x32 adamw 3.1e-3`
    baseline: str | None
    failure: str | None  # the kind of failure: `diverged`, `out_of_memory`, `crashed` or `error`
    failure_message: str | None
    metrics: Mapping[str, float]  # last figures: train_seconds, parameters, images_per_s, epochs, curve points
    slot: int | None  # the slot that trained it
    started: datetime | None
    ended: datetime | None
    run_id: str | None
    intermediate: Mapping[int, float]  # metric by step
    constraints: Mapping[str, float] = field(default_factory=dict)  # by figure, its excess as a share of the limit
    foreign: bool = False  # added to a search's study by another program: shown, never chosen
    never_predicted: tuple[str, ...] = ()  # classes that it never predicts on validation images, once it is complete
    image_error: float | None = None  # standard error of its value over draws of the validation images, if known
    weights_deleted: bool = False  # by --keep, at its end or later

    @property
    def feasible(self) -> bool:
        """True if it is within the limits of the search."""
        return all(excess <= 0 for excess in self.constraints.values())

    @property
    def may_win(self) -> bool:
        """True for a completed trial with a value within the limits."""
        return self.state == TrialState.COMPLETE and self.value is not None and self.feasible

    @property
    def seconds(self) -> float | None:
        """Wall seconds from start to end, also if clocks were put forward in between; 0 if they were put back more."""
        return max(0.0, self.ended.timestamp() - self.started.timestamp()) if self.started and self.ended else None

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain JSON values."""
        return dict(json_values({**asdict(self), "state": self.state.name, "seconds": self.seconds}))

    @classmethod
    def of_training(cls, number: int, label: str, result: TrainingResult, **more: Any) -> Self:
        """Record the end of a training that is not a trial: it confirms or refits the trial `number`."""
        unknown = dict.fromkeys(("baseline", "slot", "started", "ended", "run_id"))
        return cls(
            **{"params": {}, "intermediate": {}, **unknown, **more},
            number=number,
            label=label,
            state=result.state,
            value=result.value,
            failure=result.failure,
            failure_message=result.failure_message,
            metrics=result.metrics,
            image_error=result.attrs.get(IMAGE_ERROR),
        )

    @classmethod
    def of(cls, trial: FrozenTrial, study: Mapping[str, Any] | None = None, *, foreign: bool = False) -> Self:
        """Read an Optuna trial. `study`: the attributes of its study.

        The attributes of a `foreign` trial may be anything, so they are not read.
        """
        attrs: Mapping[str, Any] = {LABEL: "added by another program"} if foreign else trial.user_attrs
        value = trial.values[0] if trial.state == TrialState.COMPLETE and trial.values else None
        if value is None and trial.intermediate_values:
            value = trial.intermediate_values[max(trial.intermediate_values)]
        return cls(
            number=trial.number,
            state=trial.state,
            value=value,
            params=trial.params,
            label=_text(attrs.get(LABEL)) or "",
            baseline=_text(attrs.get(BASELINE)),
            failure=_text(attrs.get(FAILURE)),
            failure_message=_text(attrs.get(FAILURE_MESSAGE)),
            metrics=attrs.get(METRICS, {}),
            slot=attrs.get(SLOT),
            started=trial.datetime_start,
            ended=trial.datetime_complete,
            run_id=attrs.get(RUN) or (study or {}).get(RUNS, {}).get(str(trial.number)),
            intermediate=trial.intermediate_values,
            constraints=trial.constraints,
            foreign=foreign,
            never_predicted=tuple(attrs.get(NEVER_PREDICTED, ())),
            image_error=attrs.get(IMAGE_ERROR),
            weights_deleted=bool(attrs.get(DELETED)) or trial.number in (study or {}).get(DELETED, ()),
        )


def _text(stored: object) -> str | None:
    """A stored text as it can be shown. Other programs store anything, and so did earlier versions."""
    return None if stored is None else printable(str(stored))


def lineage(uid: str) -> list[str]:
    """Return the uid of a study, and before it those of the studies that it is a copy of."""
    return [uid[:end] for end, character in enumerate(f"{uid}-") if character == "-"]


def is_foreign(trial: FrozenTrial, uid: str) -> bool:
    """Return True for a trial that no search of the study has made: another program added or copied it."""
    if (origin := trial.user_attrs.get(ORIGIN)) is not None:
        return origin not in {f"{own}/{trial.number}" for own in lineage(uid)}
    return not {LABEL, SLOT} <= trial.user_attrs.keys()  # trials of version 0.1 have no origin


@dataclass(frozen=True)
class StudyRecord:
    """One study as users see it."""

    name: str
    metric: str
    maximize: bool
    trials: tuple[TrialRecord, ...]  # of the search itself
    summary: Summary | None
    provenance: Mapping[str, Any]
    sessions: tuple[Mapping[str, Any], ...]
    attrs: Mapping[str, Any] = field(repr=False)
    foreign: tuple[TrialRecord, ...] = ()  # trials that other programs have added
    holder: Holder | None = None  # the process that holds the study's lock

    @classmethod
    def of(cls, study: optuna.Study, holder: Holder | None = None) -> Self:
        """Read a study. A reader finds out its `holder` first; for the search itself it is None."""
        attrs, everything = study.user_attrs, study.get_trials(deepcopy=False)
        uid, of_trials = attrs.get(UID), {**attrs, DELETED: frozenset(attrs.get(DELETED, ()))}
        foreign = [trial for trial in everything if uid is not None and is_foreign(trial, uid)]
        trials = [trial for trial in everything if uid is None or not is_foreign(trial, uid)]
        return cls(
            name=study.study_name,
            metric=attrs.get(METRIC, "value"),
            maximize=Direction.of_study(study.direction) is Direction.MAXIMIZE,
            trials=tuple(TrialRecord.of(trial, of_trials) for trial in trials),
            foreign=tuple(TrialRecord.of(trial, foreign=True) for trial in foreign),
            holder=holder,
            summary=Summary.from_dict(attrs[SUMMARY]) if attrs.get(SUMMARY) else None,
            provenance=attrs.get(PROVENANCE, {}),
            sessions=tuple(measured(attrs.get(SESSIONS, ()), trials))[::-1],
            attrs=attrs,
        )

    @property
    def direction(self) -> Direction:
        return Direction.of(maximize=self.maximize)

    @property
    def is_function(self) -> bool:
        """True if its objective is a plain function of a trial, which has no epochs."""
        return "direction" in self.attrs.get(OBJECTIVE, {})

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain JSON values: everything that the terminal and the report show."""
        values = {
            "name": self.name,
            "metric": self.metric,
            "direction": self.direction.value,
            "state": self.state and self.state.value,
            "holder": self.holder and asdict(self.holder),
            "phase": self.phase and self.phase.as_dict(),
            "target": self.target,
            "stop_reason": self.stop_reason,
            "summary": self.summary and self.summary.as_dict(),
            "test_reads": self.attrs.get(TEST_READS, ()),
            "trials": [{**trial.as_dict(), "state": self.state_of(trial).upper()} for trial in self.all_trials],
            "sessions": self.sessions,
            "provenance": self.provenance,
        }
        return dict(json_values(values))

    @property
    def all_trials(self) -> list[TrialRecord]:
        """All trials by number, those of other programs among them."""
        return sorted((*self.trials, *self.foreign), key=lambda trial: trial.number)

    def ranked(self, trials: Iterable[TrialRecord] | None = None) -> list[TrialRecord]:
        """Sort trials with a value, best first: within the limits before others, completed before pruned."""
        valued = [trial for trial in (self.trials if trials is None else trials) if trial.value is not None]
        sign = self.direction.sign
        return sorted(
            valued, key=lambda t: (not t.feasible, t.state != TrialState.COMPLETE, -sign * (t.value or 0.0), t.number)
        )

    @property
    def n_eligible(self) -> int:
        """Number of trials among which the best was chosen: those with a value, within the limits."""
        return sum(trial.value is not None and trial.feasible for trial in self.trials)

    @property
    def phase(self) -> Phase | None:
        """The present phase, or the one in which the search stopped; None before the first and after the last."""
        return Phase.from_dict(stored) if (stored := self.attrs.get(PHASE)) else None

    @property
    def target(self) -> int | None:
        """The number of trials to finish; None before the first start has stored it."""
        return self.attrs.get(TARGET)

    @property
    def state(self) -> State | None:
        """Whether the search runs, has stopped or is finished; None for a study that no search has made."""
        if self.holder is not None:
            return State.RUNNING
        if UID not in self.attrs:
            return None
        is_over = self.summary is not None and self.phase is None
        return State.FINISHED if is_over and self.finished >= max(self.target or 0, len(self.trials)) else State.STOPPED

    def state_of(self, trial: TrialRecord) -> str:
        """Name the state of a trial, such as `complete`. One that no process trains any more is `interrupted`."""
        is_left = trial.state == TrialState.RUNNING and self.state is State.STOPPED and not trial.foreign
        return "interrupted" if is_left else trial.state.name.lower()

    @property
    def stop_reason(self) -> str | None:
        """Why a finished study has fewer trials than planned; None if it has all, or while something is left to do."""
        return self.attrs.get(STOP_REASON) if self.state is State.FINISHED else None

    @property
    def finished(self) -> int:
        return sum(trial.state.is_finished() for trial in self.trials)

    def count(self, state: TrialState) -> int:
        return sum(trial.state == state for trial in self.trials)


def json_values(value: Any) -> Any:
    """Convert to plain JSON values; a number that is not finite becomes None."""
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
    """Encode as indented JSON. A lone surrogate becomes the escape that JSON has for it."""
    return json.dumps(values, indent=2, ensure_ascii=False).encode(errors="backslashreplace")
