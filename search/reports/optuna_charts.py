"""Optuna's own charts of a study, as Optuna draws them.

Only axes are formatted; nothing depends on the traces of a figure. A chart that cannot be drawn becomes a note.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import optuna
from optuna import visualization
from optuna.trial import FrozenTrial, TrialState

from search.reports.elements import Chart, Span, Unit, focus, focus_hint
from search.reports.frozen_study import frozen, thinned, varying_params
from search.reports.style import Figure
from search.study.records import StudyRecord
from search.study.summary import counted

# Limits keep charts legible and the file small.
SLICE_TRIALS, RANK_TRIALS, PARALLEL_TRIALS, CONTOUR_TRIALS = 1_500, 250, 150, 90
CURVE_TRIALS, TIMELINE_TRIALS = 60, 200
SLICE_PARAMS, PARALLEL_PARAMS, PAIRED_PARAMS = 6, 7, 3
REPORTING = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
"""States in which a trial may have reported values."""

Plot: TypeAlias = Callable[..., Any]
"""A function of Optuna that draws a figure."""


@dataclass(frozen=True)
class OptunaCharts:
    """All of Optuna's charts for one study; each method makes one."""

    study: optuna.Study
    """A frozen copy."""
    unit: Unit
    maximize: bool
    completed: Sequence[FrozenTrial]
    varying: Sequence[str]
    """Parameters with at least two values among completed trials, most important first."""
    span: Span | None
    """The range of values to show; None for all."""

    @classmethod
    def of(cls, study: optuna.Study, record: StudyRecord) -> OptunaCharts:
        """Copy the trials and rank the parameters."""
        copied = frozen(study)
        completed = copied.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        span = focus([trial.value for trial in completed if trial.value is not None], maximize=record.maximize)
        return cls(copied, Unit.of(record), record.maximize, completed, varying_params(copied), span)

    def history(self) -> Chart:
        caption = "Each dot is a completed trial; the line is the best value so far." + focus_hint(self.span)
        plot, axis = visualization.plot_optimization_history, self.unit.axis(self.span)
        chart = Chart("history", "Optimization history", caption)
        return _drawn(chart, self._lack(), lambda: plot(self.study, target_name=self.unit.name).update_yaxes(axis))

    def edf(self, others: Sequence[optuna.Study] = (), *, compared: bool = False) -> Chart:
        """Draw the share of trials up to a value, for one study, or `compared` with others of the same metric."""
        better = "right" if self.maximize else "left"
        caption = f"Share of completed trials at or below a value. Further {better} is better." + focus_hint(self.span)
        chart = Chart("edf-compared" if compared else "edf", "Distribution of values (EDF)", caption)
        plot, studies, axis = visualization.plot_edf, [self.study, *map(frozen, others)], self.unit.axis(self.span)
        draw = partial(plot, studies, target_name=self.unit.name)
        return _drawn(chart, self._lack(trials=2), lambda: draw().update_xaxes(axis).update_yaxes(tickformat=".0%"))

    def intermediate(self) -> Chart:
        trials = [t for t in self.study.get_trials(deepcopy=False, states=REPORTING) if t.intermediate_values]
        span = focus([v for t in trials for v in t.intermediate_values.values()], maximize=self.maximize)
        caption = "Reports by step, one line per trial." + _excerpt_hint(CURVE_TRIALS, len(trials)) + focus_hint(span)
        plot, axis = visualization.plot_intermediate_values, self.unit.axis(span)
        chart, lack = Chart("intermediate", "Intermediate values", caption), "No trial has reported a value yet."
        curves = thinned(self.study, CURVE_TRIALS, REPORTING)
        return _drawn(chart, "" if trials else lack, lambda: plot(curves).update_yaxes(axis))

    def timeline(self) -> Chart:
        n, plot = len(self.study.get_trials(deepcopy=False)), visualization.plot_timeline
        trials = f"each of the last {TIMELINE_TRIALS} trials" if n > TIMELINE_TRIALS else "each trial"
        chart = Chart("timeline", "Timeline", f"When {trials} ran.")
        lack = "" if n else "No trial has started yet."
        return _drawn(chart, lack, lambda: plot(self.study, n_recent_trials=TIMELINE_TRIALS))

    def importance(self) -> Chart:
        caption = "How much of the difference between good and bad trials each parameter explains (PED-ANOVA)."
        height_px = 90 + 24 * len({name for trial in self.completed for name in trial.params})
        chart = Chart("importances", "Parameter importances", caption, height_px=height_px, wide=True)
        equal = len({trial.value for trial in self.completed}) == 1
        lack = self._lack(trials=4, params=1) or ("All completed trials have equal values." if equal else "")
        plot = visualization.plot_param_importances
        return _drawn(chart, lack, lambda: plot(self.study, target_name=self.unit.name).update_yaxes(dtick=1))

    def slice(self) -> Chart:
        names, plot = self.varying[:SLICE_PARAMS], visualization.plot_slice
        caption = f"The {len(names)} most important parameters, one by one." + focus_hint(self.span)
        chart = Chart("slice", "Slice", caption, height_px=330, min_width_px=170 * len(names), wide=True)
        return self._of_params(chart, plot, names, SLICE_TRIALS, {"nticks": 3}, self.unit.axis(self.span))

    def parallel(self) -> Chart:
        names, plot = self.varying[:PARALLEL_PARAMS], visualization.plot_parallel_coordinate
        caption, width_px = "One line per trial, coloured by its value.", 118 * (len(names) + 1)
        chart = Chart("parallel", "Parallel coordinates", caption, height_px=430, min_width_px=width_px, wide=True)
        return self._of_params(chart, plot, names, PARALLEL_TRIALS, {}, {})

    def rank(self) -> Chart:
        caption, plot = "Every dot is a trial, coloured by the rank of its value.", visualization.plot_rank
        return self._of_pairs(Chart("rank", "Rank", caption, height_px=560, min_width_px=500), plot, RANK_TRIALS)

    def contour(self) -> Chart:
        caption, plot = "Interpolated between trials: trust it only near the dots.", visualization.plot_contour
        chart = Chart("contour", "Contour", caption, height_px=560, min_width_px=500)
        return self._of_pairs(chart, plot, CONTOUR_TRIALS)

    def _of_pairs(self, chart: Chart, plot: Plot, limit: int) -> Chart:
        """Draw pairs of the most important parameters that most completed trials have."""
        n = len(self.completed)
        common = [name for name in self.varying if 2 * sum(name in trial.params for trial in self.completed) > n]
        names = sorted((common if len(common) > 1 else self.varying)[:PAIRED_PARAMS])
        return self._of_params(chart, plot, names, limit, {"nticks": 2}, {"nticks": 4}, needed=2)

    def _of_params(
        self, chart: Chart, plot: Plot, names: Sequence[str], limit: int, x: Figure, y: Figure, *, needed: int = 1
    ) -> Chart:
        """Draw at most `limit` trials over parameters; `x` and `y` format the axes."""
        chart = replace(chart, caption=chart.caption + _excerpt_hint(limit, len(self.completed)))
        lack, study = self._lack(trials=needed + 1, params=needed), thinned(self.study, limit)
        draw = partial(plot, study, params=[*names], target_name=self.unit.name)
        return _drawn(chart, lack, lambda: draw().update_xaxes(x).update_yaxes(y))

    def _lack(self, trials: int = 1, params: int = 0) -> str:
        """Say what the study lacks for a chart; empty if nothing."""
        if len(self.completed) < trials:
            return f"Needs {counted(trials, 'completed trial')}; {len(self.completed) or 'none'} so far."
        if len(self.varying) < params:
            return f"Needs {counted(params, 'parameter')} with different values among completed trials."
        return ""


def _drawn(chart: Chart, lack: str, draw: Callable[[], Any]) -> Chart:
    if lack:
        return chart.missing(lack)
    try:
        with warnings.catch_warnings(action="ignore"):
            return chart.drawn(draw())
    except Exception as error:  # a chart must not cost the report
        return chart.missing(f"Optuna could not draw this figure ({type(error).__name__}: {error}).")


def _excerpt_hint(limit: int, n: int) -> str:
    if n <= limit:
        return ""
    return f" Drawn from {limit:,} of {n:,} trials: the best {limit // 2:,} and a spread of the others."
