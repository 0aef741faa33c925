"""Presents the outcome of a search as texts: the winner, its confirmation, gains, test score and registration.

The terminal, MLflow's Markdown and the HTML report only lay these texts out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from objectives.metrics import metric_of
from search.common.direction import Direction
from search.common.text import readable
from search.study.records import EXTRA_TRAININGS, StudyRecord
from search.study.state import State
from search.study.summary import FOLD_RUN, Candidate, Confirmation, Gain, Summary, counted
from search.study.texts.calibrated import calibration_text
from search.study.texts.classes import constant_answer, never_predicted
from search.study.texts.ensembles import ensemble_text
from search.study.texts.tested import TestFigures, figures_on_test

NETWORKS = {
    "trial": "the search's own training of this configuration, which was selected for its validation value",
    "confirm": "one of the trainings on fresh seeds, not selected for its own value",
    "fold": "one of the trainings on folds, without the images of one fold and not selected for its own value",
    "ensemble": "several networks, whose probabilities are averaged",
    "refit": "a fresh seed, trained on the training and validation splits together, so it has no validation value",
}
"""Which training made the tested and registered network, by `Summary.network`; `fold` if one confirms it on a fold."""


def state_text(study: StudyRecord) -> str:
    """Say whether the search runs, has stopped or is finished, how far it is, and what to do."""
    match study.state:
        case State.RUNNING:
            return f"running: {_progress_text(study)} ({study.holder})"
        case State.STOPPED:
            return f"stopped: {_progress_text(study)}; run the same command again to continue"
        case State.FINISHED:
            return f"finished: {counted(study.finished, 'trial')}"
    return f"not made by a search: {counted(len(study.trials), 'trial')}"


def trials_text(study: StudyRecord) -> str:
    """Write how many trials have finished, and of how many if some are missing."""
    if study.target is None or study.finished >= study.target:
        return str(study.finished)
    return f"{study.finished} of {study.target}"


def _progress_text(study: StudyRecord) -> str:
    if study.target is None:
        return "before the first trial"
    trials, phase = f"{trials_text(study)} trials", study.phase
    if phase is None or phase.kind == "trials":
        return trials
    if len(phase.jobs) < 2:
        return f"{trials}, {phase.title}"
    done = len(phase.jobs.keys() & study.attrs.get(EXTRA_TRAININGS, {}).keys())
    return f"{trials}, {phase.title}, {done} of {len(phase.jobs)} trainings"


class Decimals:
    """Writes values of the study's metric with four decimals. A medium may override how."""

    def text(self, value: float | None) -> str:
        """Write one value, or a dash for None."""
        return "-" if value is None else f"{value:.4f}"

    def gain(self, value: float, half_width: float | None = None, /) -> str:
        """Write a signed difference, such as `+0.0235 ± 0.0021`. `half_width` is that of its interval."""
        return f"{value:+.4f}" + ("" if half_width is None else f" ± {half_width:.4f}")

    def half_width(self, value: float | None) -> str:
        """Write the half-width of an interval, or a standard deviation; "" for None."""
        return "" if value is None else f"{value:.4f}"


@dataclass(frozen=True)
class CandidateRow:
    """One candidate of the confirmation."""

    candidate: Candidate
    is_winner: bool
    mean: str
    interval: str  # 95% interval; "" if unknown
    spread: str
    values: str  # one value for each fresh seed or fold
    searched: str  # the value of the search, for which it was selected
    weights: str
    verdict: str  # the decision of the confirmation, such as `winner` or `clearly behind`; "" if there is none


@dataclass(frozen=True)
class ConfirmationTable:
    """The candidates, best confirmed mean first; one with a failed seed comes after all others."""

    seeds: str  # what each candidate was trained on, such as `2 fresh seeds each` or `up to 4 folds of all 90 images`
    noun: str  # `fresh seeds` or `folds`
    split: str  # what the means are measured on, such as `fresh seeds` or `folds of all 90 images`
    intervals: str  # the kind of intervals, or the reason why there are none
    rows: tuple[CandidateRow, ...]


@dataclass(frozen=True)
class GainRow:
    """The winner's lead over one baseline on the validation split."""

    source: Gain
    value: str  # the baseline's value
    measured: str  # how `value` was measured
    difference: str  # the gain without its interval
    half_width: str
    gain: str  # the gain with its interval
    is_doubtful: bool  # the winner is behind, or the gain may be chance
    remark: str


@dataclass(frozen=True)
class SearchOutcome:
    """Everything shown about a finished search."""

    number: int
    label: str
    metric: str
    score: str  # the winner's best validation figure: confirmed if possible
    searched: str  # its value in the search
    constant: str  # what a constant answer scores; "" if unknown or if classes are about equal
    params: tuple[tuple[str, str], ...]
    baseline: str  # which baseline the winner is, and why; "" if it is none
    network: str  # which training was tested and registered: `trial`, `confirm` or `refit`; or `ensemble`
    network_text: str
    ensemble: str  # its members with their weights, and its gain; "" without one
    refit: str  # images and epochs of the refit; "" without one
    confirmed: CandidateRow | None  # the winner's row; None if no training of it finished
    confirmation: ConfirmationTable | None
    gains: tuple[GainRow, ...]
    gains_note: str  # a remark about all gains together; may be ""
    test: TestFigures | None
    calibration: str  # the temperature and the calibration errors; "" for earlier studies and without a test split
    warnings: tuple[str, ...]  # classes that are never predicted, and a network no better than a constant answer
    registration: Mapping[str, Any] | None  # `name`, `version`, `alias` and `uri` of the registered version
    notes: tuple[str, ...]  # deviations from the plan


def present(study: StudyRecord, summary: Summary, style: Decimals) -> SearchOutcome:
    """Format the outcome `summary` of `study`."""
    refit, confirmation = summary.refit, _confirmation(study, summary, style)
    rows, test = confirmation.rows if confirmation else (), figures_on_test(study, summary)
    return SearchOutcome(
        number=summary.number,
        label=summary.label,
        metric=study.metric,
        score=style.text(summary.score),
        searched=style.text(summary.value),
        constant=_constant(study, summary, style),
        params=tuple((name, readable(value, digits=3)) for name, value in summary.params.items()),
        baseline=_baseline(study, summary),
        network=summary.network,
        network_text=NETWORKS["fold" if FOLD_RUN in summary.run else summary.network],
        ensemble=ensemble_text(summary.ensemble, style.gain),
        refit=f"{refit['images']:,} images, {counted(refit['epochs'], 'epoch')}" if refit else "",
        confirmed=next((row for row in rows if row.is_winner and row.candidate.values), None),
        confirmation=confirmation,
        gains=gain_rows(summary.gains, style),
        gains_note=_gains_note(summary, study.direction),
        test=test,
        calibration=calibration_text(summary),
        warnings=(*never_predicted(study, summary), *([test.warning] if test and test.warning else [])),
        registration=summary.model,
        notes=tuple(text for text in (summary.note, summary.standing) if text),
    )


def _constant(study: StudyRecord, summary: Summary, style: Decimals) -> str:
    """Score of a constant answer on the validation split, in the study's metric."""
    majority, metric = summary.majorities.get("validation"), metric_of(study.metric)
    if majority is None or not majority.is_notable or (metric is None and not study.maximize):
        return ""
    return constant_answer(majority, metric or "accuracy", style.text)


def gain_rows(gains: Iterable[Gain], style: Decimals) -> tuple[GainRow, ...]:
    """Format gains, in their order."""
    return tuple(
        GainRow(
            source=gain,
            value=style.text(gain.value),
            measured=f"mean of {counted(gain.seeds, gain.measured)}" if gain.seeds else "one training, not confirmed",
            difference=style.gain(gain.gain),
            half_width=f"± {style.half_width(gain.half)}" if gain.half is not None else "",
            gain=style.gain(gain.gain, gain.half),
            is_doubtful=gain.half is None or gain.gain <= gain.half,
            remark="may be chance" if gain.half is not None and abs(gain.gain) <= gain.half else "",
        )
        for gain in gains
    )


def _gains_note(summary: Summary, direction: Direction) -> str:
    if not summary.gains:
        return ""
    if any(gain.half is not None for gain in summary.gains):
        smaller = "; a positive gain is a smaller value" if direction is Direction.MINIMIZE else ""
        return f"each with its own 95% interval{smaller}"
    if summary.confirmation is None:
        return "without intervals, because nothing was confirmed, so any of it may be chance"
    if all(len(candidate.values) < 2 for candidate in summary.confirmation.candidates):
        noun = summary.confirmation.noun
        return f"without intervals, because no configuration has two {noun}s, so any of it may be chance"
    return ""  # all gave the same value


def _baseline(study: StudyRecord, summary: Summary) -> str:
    name = next((trial.baseline for trial in study.trials if trial.number == summary.number), None)
    if name is None:
        return ""
    sampled = any(trial.baseline is None for trial in study.trials)
    return f"the baseline {name}: {'no sampled trial is clearly better' if sampled else 'only baselines were tried'}"


def _confirmation(study: StudyRecord, summary: Summary, style: Decimals) -> ConfirmationTable | None:
    if (confirmation := summary.confirmation) is None:
        return None
    candidates, folds, noun = confirmation.candidates, confirmation.folds, f"{confirmation.noun}s"
    seeds = f"{counted(confirmation.seeds, 'fresh seed')} each" if folds is None else folds.describe(confirmation.seeds)
    dropped = any(len(candidate.values) + candidate.failed < confirmation.seeds for candidate in candidates)
    return ConfirmationTable(
        seeds=f"up to {seeds}" if dropped else seeds,
        noun=noun,
        split=noun if folds is None else f"{noun} {folds.whole}",
        intervals=_intervals(confirmation, study.n_eligible),
        rows=tuple(
            CandidateRow(
                candidate=candidate,
                is_winner=candidate.number == summary.number,
                mean=style.text(candidate.mean),
                interval=" to ".join(map(style.text, confirmation.interval(candidate) or ())),
                spread=style.half_width(candidate.spread),
                values=", ".join(map(style.text, candidate.values)) or "all failed",
                searched=style.text(candidate.searched),
                weights="" if candidate.parameters is None else f"{candidate.parameters:,.0f}",
                verdict=_verdict(study, summary, confirmation, candidate),
            )
            for candidate in sorted(candidates, key=partial(_rank, study))
        ),
    )


def _rank(study: StudyRecord, candidate: Candidate) -> tuple[bool, bool, float]:
    return candidate.mean is None, candidate.failed > 0, -study.direction.sign * (candidate.mean or 0.0)


def _intervals(confirmation: Confirmation, n_trials: int) -> str:
    if all(candidate.half is None for candidate in confirmation.candidates):
        noun = confirmation.noun.removeprefix("fresh ")
        return f"no intervals, because no configuration has two {noun}s with different values"
    if confirmation.n_images is None and all(candidate.image_error is None for candidate in confirmation.candidates):
        return f"95% intervals, from the {'seeds' if confirmation.folds is None else 'folds'} alone"
    return f"95% intervals, corrected for picking the best of {counted(n_trials, 'trial')}"


def _verdict(study: StudyRecord, summary: Summary, confirmation: Confirmation, candidate: Candidate) -> str:
    if candidate.number == summary.number:
        means = [c.mean for c in confirmation.candidates if c.mean is not None and not c.failed]
        best = max(means, key=lambda mean: study.direction.sign * mean, default=None)
        return "winner" if best in (None, candidate.mean) else "winner: level, but smaller"
    if candidate.failed:
        return f"{counted(candidate.failed, confirmation.noun.removeprefix('fresh '))} failed"
    if len(candidate.values) < confirmation.seeds:
        return "clearly behind, dropped early"
    return "clearly behind" if candidate.behind else ""
