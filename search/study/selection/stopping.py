"""The stopping rule behind `--patience N`: N trials in a row without a clear improvement end a search.

It depends on the stored trials alone, so a resumed search comes to the same decision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna.trial import TrialState

from search.common.direction import Direction
from search.study.records import TrialRecord
from search.study.summary import counted


def standard_error(value: float, n_images: int | None) -> float:
    """Binomial standard error of an accuracy on `n_images`; 0.0 if the metric is not a share of images."""
    return math.sqrt(value * (1 - value) / n_images) if n_images else 0.0


def stopping_reason(
    trials: Sequence[TrialRecord], patience: int, direction: Direction, *, n_images: int | None
) -> str | None:
    """Why the search stops, in words; None while it goes on.

    An improvement is more than one standard error of the metric better than the last improvement. If the metric is not
    a share of `n_images`, every better value is one. Trials count in the order in which they ended. Only completed
    trials within the limits can improve. Baselines, and trials before the first completed one, are not counted.
    """
    best, best_value, waited = None, 0.0, 0
    for trial in sorted((t for t in trials if t.state.is_finished() and t.ended), key=lambda t: (t.ended, t.number)):
        value = trial.value if trial.state == TrialState.COMPLETE and trial.feasible else None
        if value is not None and (
            best is None or direction.gain(value, best_value) > standard_error(best_value, n_images)
        ):
            best, best_value, waited = trial, value, 0
        elif best is not None and trial.baseline is None:
            waited += 1
    if best is None or waited < patience:
        return None
    error = standard_error(best_value, n_images)
    margin = f" by more than one standard error ({error:.2g})" if error else ""
    return (
        f"--patience {patience}: the last {counted(waited, 'trial')} did not improve on trial {best.number} "
        f"({best_value:.4f}){margin}"
    )
