"""The stopping rule behind `--patience N`: N trials in a row without a clear improvement end a search.

It depends on the stored trials alone, so a resumed search comes to the same decision.
"""

import math
from collections.abc import Sequence

from optuna.trial import TrialState

from search.common.direction import Direction
from search.study.records import TrialRecord
from search.study.summary import counted


def standard_error(value: float, n_images: int | None, image_error: float | None = None) -> float:
    """Binomial standard error of an accuracy on `n_images`; of any other metric, `image_error`, or 0.0 if unknown."""
    return math.sqrt(value * (1 - value) / n_images) if n_images else image_error or 0.0


def stopping_reason(
    trials: Sequence[TrialRecord], patience: int, direction: Direction, *, n_images: int | None
) -> str | None:
    """Why the search stops, in words; None while it continues.

    An improvement exceeds the last one by more than one standard error, or at all if that is unknown. `n_images` is
    the number of images that values are shares of. Trials count in the order in which they ended. Only completed
    trials within the limits can improve. Baselines, and trials before the first completed one, are not counted.
    """
    best, best_value, error, waited = None, 0.0, 0.0, 0
    for trial in sorted((t for t in trials if t.state.is_finished() and t.ended), key=lambda t: (t.ended, t.number)):
        value = trial.value if trial.state == TrialState.COMPLETE and trial.feasible else None
        if value is not None and (best is None or direction.gain(value, best_value) > error):
            best, best_value, waited = trial, value, 0
            error = standard_error(value, n_images, trial.image_error)
        elif best is not None and trial.baseline is None:
            waited += 1
    if best is None or waited < patience:
        return None
    by = f" by more than one standard error ({error:.2g})" if error else ""
    done, best_trial = counted(waited, "trial"), f"trial {best.number} ({best_value:.4f})"
    return f"--patience {patience}: the last {done} did not improve on {best_trial}{by}"
