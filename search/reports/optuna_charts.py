"""Optuna's own charts of a study, as Optuna draws them.

Only axes are formatted; nothing depends on the traces of a figure. A chart that cannot be drawn becomes a note.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna import visualization
from optuna.trial import FrozenTrial, TrialState

from search.reports.elements import Chart, Unit, focus, focus_hint
from search.reports.frozen_study import frozen, quiet, thinned, varying_params
from search.reports.style import as_values
from search.study.records import StudyRecord
from search.study.summary import counted

POINT_TRIALS, RANK_TRIALS, PARALLEL_TRIALS, SURFACE_TRIALS = 1_500, 250, 150, 90
CURVE_TRIALS, LATEST = 60, 200
SLICE_PARAMS, PARALLEL_PARAMS, PAIRED_PARAMS = 6, 7, 3
REPORTING = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


@dataclass(frozen=True)
class OptunaCharts:
    """All of Optuna's charts for one study; each method makes one."""

    study: optuna.Study
    """A frozen copy."""
    unit: Unit
    maximize: bool
    done: Sequence[FrozenTrial]
    varying: Sequence[str]
    """Parameters with at least two values among completed trials, most important first."""
    span: tuple[float, float] | None
    """The range of values to show; None for all."""

    @classmethod
    def of(cls, study: optuna.Study, record: StudyRecord) -> OptunaCharts:
        """Copy the trials and rank the parameters."""
        copy = frozen(study)
        done = copy.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        span = focus([trial.value for trial in done if trial.value is not None], maximize=record.maximize)
        return cls(copy, Unit.of(record), record.maximize, done, varying_params(copy), span)

    def history(self) -> Chart:
        """Value of each trial, and the best so far."""
        caption = "Each dot is a completed trial; the line is the best value so far." + focus_hint(self.span)
        chart = Chart("history", "Optimization history", caption)
        plot, name = visualization.plot_optimization_history, self.unit.name
        return _drawn(chart, self._need(), lambda: plot(self.study, target_name=name).update_yaxes(self._axis))

    def edf(self, others: Sequence[optuna.Study] = ()) -> Chart:
        """Share of trials up to a value, for one or several studies."""
        better = "right" if self.maximize else "left"
        caption = f"Share of completed trials at or below a value: the further {better}, the better." + focus_hint(
            self.span
        )
        chart = Chart("edf-compared" if others else "edf", "Distribution of values (EDF)", caption)

        def draw() -> Any:
            figure = visualization.plot_edf([self.study, *map(frozen, others)], target_name=self.unit.name)
            return figure.update_xaxes(self._axis).update_yaxes(tickformat=".0%")

        return _drawn(chart, self._need(trials=2), draw)

    def intermediate(self) -> Chart:
        """The reports of trials by step."""
        trials = [t for t in self.study.get_trials(deepcopy=False, states=REPORTING) if t.intermediate_values]
        span = focus([v for t in trials for v in t.intermediate_values.values()], maximize=self.maximize)
        caption = "Reports by step, one line per trial." + _shown(CURVE_TRIALS, len(trials)) + focus_hint(span)
        chart = Chart("intermediate", "Intermediate values", caption)

        def draw() -> Any:
            figure = visualization.plot_intermediate_values(thinned(self.study, CURVE_TRIALS, REPORTING))
            return figure.update_yaxes(tickformat=self.unit.tick, range=span)

        return _drawn(chart, "" if trials else "No trial has reported a value yet.", draw)

    def timeline(self) -> Chart:
        """When each trial ran."""
        n = len(self.study.get_trials(deepcopy=False))
        caption = f"When each of the last {LATEST} trials ran." if n > LATEST else "When each trial ran."
        chart = Chart("timeline", "Timeline", caption)
        need = "" if n else "No trial has started yet."
        return _drawn(chart, need, lambda: visualization.plot_timeline(self.study, n_recent_trials=LATEST))

    def importance(self) -> Chart:
        """Share of the variation that each parameter explains."""
        caption = "How much of the difference between good and bad trials each parameter explains (PED-ANOVA)."
        height = 90 + 24 * len({name for trial in self.done for name in trial.params})
        chart = Chart("importances", "Parameter importances", caption, height_px=height, wide=True)
        equal = len({trial.value for trial in self.done}) == 1
        need = self._need(trials=4, params=1) or ("All completed trials have equal values." if equal else "")
        plot = visualization.plot_param_importances
        return _drawn(chart, need, lambda: plot(self.study, target_name=self.unit.name).update_yaxes(dtick=1))

    def slice(self) -> Chart:
        """Value against each of the most important parameters."""
        names = self.varying[:SLICE_PARAMS]
        caption = f"The {len(names)} most important parameters, one by one." + focus_hint(self.span)
        chart = Chart("slice", "Slice", caption, height_px=330, min_width_px=170 * len(names), wide=True)

        def draw() -> Any:
            figure = self._over(visualization.plot_slice, names, POINT_TRIALS)
            return figure.update_yaxes(self._axis).update_xaxes(nticks=3)

        return _drawn(chart, self._need(trials=2, params=1), draw)

    def rank(self) -> Chart:
        """Trials over pairs of parameters, coloured by rank."""
        caption = "Every dot is a trial, coloured by the rank of its value."
        return self._pairs(Chart("rank", "Rank", caption), visualization.plot_rank, RANK_TRIALS)

    def contour(self) -> Chart:
        """Value over pairs of parameters, as a surface."""
        caption = "Interpolated between trials: trust it only near the dots."
        return self._pairs(Chart("contour", "Contour", caption), visualization.plot_contour, SURFACE_TRIALS)

    def parallel(self) -> Chart:
        """One line per trial through all its parameters."""
        names = self.varying[:PARALLEL_PARAMS]
        caption = "One line per trial, coloured by its value." + _shown(PARALLEL_TRIALS, len(self.done))
        width = 118 * (len(names) + 1)
        chart = Chart("parallel", "Parallel coordinates", caption, height_px=430, min_width_px=width, wide=True)
        plot = visualization.plot_parallel_coordinate
        return _drawn(chart, self._need(trials=2, params=1), lambda: self._over(plot, names, PARALLEL_TRIALS))

    def _pairs(self, chart: Chart, plot: Callable[..., Any], limit: int) -> Chart:
        """Draw pairs of the most important parameters that most completed trials have."""
        often = [n for n in self.varying if 2 * sum(n in trial.params for trial in self.done) > len(self.done)]
        names = sorted((often if len(often) > 1 else self.varying)[:PAIRED_PARAMS])
        caption = chart.caption + _shown(limit, len(self.done))
        chart = replace(chart, caption=caption, height_px=560, min_width_px=500)
        need = self._need(trials=3, params=2)
        return _drawn(chart, need, lambda: self._over(plot, names, limit).update_xaxes(nticks=2).update_yaxes(nticks=4))

    def _over(self, plot: Callable[..., Any], names: Sequence[str], limit: int) -> Any:
        return plot(thinned(self.study, limit), params=[*names], target_name=self.unit.name)

    @property
    def _axis(self) -> dict[str, Any]:
        """Format of an axis of values."""
        return {"tickformat": self.unit.tick, "range": self.span}

    def _need(self, trials: int = 1, params: int = 0) -> str:
        """Say what a chart lacks; empty if nothing."""
        if len(self.done) < trials:
            return f"Needs {counted(trials, 'completed trial')}; {len(self.done) or 'none'} so far."
        if len(self.varying) < params:
            return f"Needs {counted(params, 'parameter')} with different values among completed trials."
        return ""


def _drawn(chart: Chart, need: str, draw: Callable[[], Any]) -> Chart:
    if need:
        return replace(chart, note=need)
    try:
        with quiet():
            return replace(chart, figure=as_values(draw()))
    except Exception as error:  # a chart must not cost the report
        return replace(chart, note=f"Optuna could not draw this figure ({type(error).__name__}: {error}).")


def _shown(limit: int, n: int) -> str:
    if n <= limit:
        return ""
    return f" Drawn from {limit:,} of {n:,} trials: the best {limit // 2:,} and a spread of the others."
