"""Whether going on is worth it: `--patience N` ends a search whose last N trials brought nothing beyond noise.

The decision is a function of the stored trials, so a resumed search comes to the same one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import TrialState

from search.records import TrialRecord
from search.summary import counted

LAST_SHARE = 3
"""The last third of a curve, at least three values, is taken to show noise more than progress."""


BEYOND = 2 * math.sqrt(2)
"""Standard deviations of one value that an improvement has at least: two standard errors of a difference of two."""


@dataclass(frozen=True)
class Noise:
    """How far a value may lie from what its setting is worth."""

    deviation: float
    """Standard deviation; 0 where nothing tells it."""
    source: str
    """What it was estimated from, in words."""


def noise(done: Sequence[TrialRecord], best: TrialRecord, n_images: int | None) -> Noise:
    """The larger of two estimates, which both leave something out.

    Of a share of `n_images`, what they can resolve: the binomial standard deviation. Of any curve, how much a value
    lies off the middle of its neighbours, in the median over the completed trials. Source of the latter: Gasser,
    Sroka, Jennen-Steinmetz, Biometrika 73 (1986), 625-633.
    """
    parts = [Noise(0.0, "nothing tells the noise of a value, so any improvement counts")]
    if n_images and best.value is not None:
        resolved = math.sqrt(best.value * (1 - best.value) / n_images)
        parts.append(Noise(resolved, f"what {n_images:,} validation images resolve"))
    if scatters := [scatter for trial in done if (scatter := _scatter(trial)) is not None]:
        parts.append(
            Noise(statistics.median(scatters), f"how values scatter at the end of {counted(len(scatters), 'training')}")
        )
    return max(parts, key=lambda part: part.deviation)


def _scatter(trial: TrialRecord) -> float | None:
    """Standard deviation of the last values around a line through their neighbours; None when there are too few."""
    curve = [value for _, value in sorted(trial.intermediate.items())]
    last = curve[-max(3, len(curve) // LAST_SHARE) :]
    if len(last) < 3:
        return None
    off = [middle - (before + after) / 2 for before, middle, after in zip(last, last[1:], last[2:], strict=False)]
    return math.sqrt(statistics.mean(value**2 for value in off) / 1.5)  # a residual has 1 + 1/4 + 1/4 of the variance


def run_out(trials: Sequence[TrialRecord], patience: int, *, maximize: bool, n_images: int | None) -> str | None:
    """Why the search ends here, in words; None while it goes on.

    Trials count in the order in which they ended, whatever became of them; only a completed one within the limits can
    be an improvement, and it is one when it is `BEYOND` the last improvement. `n_images`: of which values are shares.
    Baselines are not counted: they are tried whatever they bring.
    """
    ended = sorted((t for t in trials if t.state.is_finished() and t.ended), key=lambda t: (t.ended, t.number))
    done = [t for t in ended if t.state == TrialState.COMPLETE and t.value is not None and t.feasible]
    if not done:
        return None
    sign = 1.0 if maximize else -1.0
    spread = noise(done, max(done, key=lambda t: sign * (t.value or 0.0)), n_images)
    least = BEYOND * spread.deviation
    mark, since, improving = done[0], 0, {trial.number for trial in done}
    for trial in ended[ended.index(mark) + 1 :]:  # before there is anything to improve on, nothing counts
        if trial.number in improving and sign * ((trial.value or 0.0) - (mark.value or 0.0)) > least:
            mark, since = trial, 0
        elif trial.baseline is None:
            since += 1
    if since < patience:
        return None
    beyond = f"better than it by more than {least:.2g}, two standard errors of a difference" if least else "better"
    return (
        f"--patience {patience}: of {counted(since, 'trial')} that ended after trial {mark.number} "
        f"({mark.value:.4f}), none was {beyond} ({spread.source})"
    )
