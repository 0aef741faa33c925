"""Optuna's own plotly figures, restyled for the report and limited to what stays readable.

Every function of `optuna.visualization` gets the same frozen view of the study, read once, so that the figures of a
running search agree with each other. What cannot be drawn becomes a note, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna import visualization
from optuna.trial import FrozenTrial, TrialState

from search.records import StudyRecord
from search.report_base import (
    STATE_COLOURS,
    STATE_NAMES,
    Chart,
    Steps,
    Unit,
    focus,
    focus_hint,
    shade,
    titled,
    winner,
)
from search.report_charts import Clock
from search.report_plotly import (
    BAR_MARGIN,
    Figure,
    as_values,
    calm_axes,
    colour_bar,
    legend,
    name_diagonal,
    with_margin,
)
from search.report_view import View, quiet

POINT_TRIALS, SURFACE_TRIALS, RANK_TRIALS, PARALLEL_TRIALS, CURVE_TRIALS, TIMELINE_TRIALS = 1_500, 90, 250, 150, 60, 200
SURFACE_PARAMS, SLICE_PARAMS, PARALLEL_PARAMS = 3, 6, 7


class OptunaCharts:
    """All of Optuna's figures for one study, each made by a method of the same name."""

    def __init__(self, study: optuna.Study, record: StudyRecord) -> None:
        """Read the trials and rank the parameters, once for all figures."""
        self.record, self.unit, self.steps = record, Unit.of(record), Steps.of(record)
        with quiet():
            self.view = View.of(study)
            self.done = self.view.get_trials(states=(TrialState.COMPLETE,))
            self.importances = self._importances()
        values = [trial.value for trial in self.done if trial.value is not None]
        self.span = focus(values, maximize=record.maximize)
        self._hover = {t.number: f"{titled(t)}<br>{self.unit.text(t.value)}" for t in record.trials}
        self.low, self.high = self.span or (min(values, default=0.0), max(values, default=1.0))

    def all(self) -> list[Chart]:
        """Every figure, in the order of `optuna.visualization`'s documentation."""
        return [
            self.history(), self.importance(), self.slice(), self.parallel(), self.contour(), self.rank(),
            self.intermediate(), self.edf(), self.timeline(),
        ]  # fmt: skip

    def varying(self) -> list[str]:
        """Parameters with at least two values among completed trials, most important first."""
        seen: dict[str, set[Any]] = {}
        for trial in self.done:
            for name, value in trial.params.items():
                seen.setdefault(name, set()).add(value)
        several = [name for name, values in seen.items() if len(values) > 1]
        return sorted(several, key=lambda name: (-self.importances.get(name, 0.0), name))

    def shared(self) -> list[str]:
        """Varying parameters that most completed trials have, so that pairs of them meet."""
        often = [n for n in self.varying() if 2 * sum(n in trial.params for trial in self.done) > len(self.done)]
        return often if len(often) > 1 else self.varying()

    def _importances(self) -> dict[str, float]:
        try:
            return optuna.importance.get_param_importances(self.view)
        except Exception:  # too few trials, or equal values; the order is then alphabetical
            return {}

    def _chart(self, chart: Chart, need: str, build: Callable[[], Figure]) -> Chart:
        """Fill in the figure; `need` is what is missing when it is not empty."""
        if need:
            return replace(chart, note=need)
        try:
            with quiet():
                return replace(chart, figure=with_margin(build()))
        except Exception as error:  # a picture never costs the report
            return replace(chart, note=f"Optuna could not draw this figure ({type(error).__name__}: {error}).")

    def _need(self, trials: int = 1, params: int = 0) -> str:
        if len(self.done) < trials:
            have = f"{len(self.done)} so far" if self.done else "none so far"
            return f"Needs {trials} completed trial{'s' * (trials > 1)}; {have}."
        if len(self.varying()) < params:
            return f"Needs {params} parameter{'s' * (params > 1)} with different values among completed trials."
        return ""

    # The figures ---------------------------------------------------------------------------------------------------

    def history(self) -> Chart:
        """Value of each trial and the best so far; Optuna needs all trials here, it counts them by their numbers."""

        def build() -> Figure:
            figure = as_values(visualization.plot_optimization_history(self.view, target_name=self.unit.name))
            for trace in figure["data"]:
                if trace.get("mode") == "markers":
                    trace.update(marker={"color": "@soft", "size": 6, "opacity": 0.75}, name="trial")
                else:
                    trace["name"] = "best so far"
                    trace["line"] = {"color": "@accent", "width": 2.4, "shape": "hv"}
            figure["layout"]["legend"] = legend()
            self._value_axis(figure["layout"], "yaxis", self.span)
            return figure

        caption = "Each dot is one completed trial; the line is the best value so far." + focus_hint(self.span)
        return self._chart(Chart("history", "Optimization history", caption), self._need(), build)

    def importance(self) -> Chart:
        """Share of the variation that each parameter explains."""

        def build() -> Figure:
            figure = as_values(visualization.plot_param_importances(self.view, target_name=self.unit.name))
            for trace in figure["data"]:
                trace["marker"] = {"color": "@accent"}
                trace["hovertemplate"] = "%{y}: %{x:.1%}<extra></extra>"
                trace["text"] = [_share(value) for value in trace["x"]]
                trace["textposition"], trace["cliponaxis"], trace["textangle"] = "outside", False, 0
            figure["layout"]["bargap"], figure["layout"]["showlegend"] = 0.38, False
            figure["layout"]["xaxis"] = {"title": {"text": "importance"}, "tickformat": ".0%"}
            figure["layout"]["yaxis"] = {"showgrid": False}
            return figure

        caption = "How much of what separates good from bad trials each parameter explains (PED-ANOVA)."
        need = self._need(trials=4, params=1) or ("" if self.importances else "All completed trials have equal values.")
        height = 90 + 24 * len(self.importances)
        chart = Chart("importances", "Parameter importances", caption, height_px=height, wide=True)
        return self._chart(chart, need, build)

    def slice(self) -> Chart:
        """Value against each of the most important parameters."""
        names, some = self.varying()[:SLICE_PARAMS], self.view.only(POINT_TRIALS).by_number()

        def build() -> Figure:
            figure = as_values(visualization.plot_slice(some, params=sorted(names), target_name=self.unit.name))
            for trace in figure["data"]:
                trace["marker"].update(colorscale="@recency", showscale=False, size=6, opacity=0.85, line={"width": 0})
            self._value_axis(figure["layout"], "yaxis", self.span)
            calm_axes(figure)
            return figure

        caption = f"The {len(names)} most important parameters, one by one; later trials in stronger colour."
        chart = Chart(
            "slice", "Slice", caption + focus_hint(self.span), height_px=330, min_width_px=170 * len(names), wide=True
        )
        return self._chart(chart, self._need(trials=2, params=1), build)

    def parallel(self) -> Chart:
        """One line per trial through all its parameters."""
        names, some = self.varying()[:PARALLEL_PARAMS], self.view.only(PARALLEL_TRIALS)

        def build() -> Figure:
            figure = as_values(visualization.plot_parallel_coordinate(some, params=names, target_name=self.unit.name))
            lines = [trace for trace in figure["data"] if trace.get("mode") == "lines" and trace.get("customdata")]
            for trace, trial in zip(lines, some.chosen, strict=True):
                colour = shade(trial.value or 0.0, self.low, self.high, maximize=self.record.maximize)
                trace["line"].update(color=colour, width=1.4)
                trace["opacity"] = 0.75
            figure["data"][-1]["marker"].update(
                colorscale="@scale", reversescale=not self.record.maximize, color=[self.low, self.high],
                cmin=self.low, cmax=self.high, colorbar=colour_bar(self.unit.tick),
            )  # fmt: skip
            for shape in figure["layout"].get("shapes", ()):
                shape["line"] = {"color": "@rule", "width": 1}
            for label in figure["layout"].get("annotations", ()):
                label["bgcolor"] = "@paper"
                label["text"] = self._axis_label(label)
                label.get("font", {}).pop("color", None)
            figure["layout"].update(plot_bgcolor="rgba(0,0,0,0)", margin=BAR_MARGIN | {"t": 24, "b": 54})
            return figure

        caption = "One line per trial, the best in the strongest colour." + _part(len(some.chosen), len(self.done))
        chart = Chart("parallel", "Parallel coordinates", caption, height_px=430, wide=True,
                      min_width_px=118 * (len(names) + 1))  # fmt: skip
        return self._chart(chart, self._need(trials=2, params=1), build)

    def contour(self) -> Chart:
        """Value over pairs of parameters, as a surface."""
        names, some = self.shared()[:SURFACE_PARAMS], self.view.only(SURFACE_TRIALS)

        def build() -> Figure:
            figure = as_values(visualization.plot_contour(some, params=names, target_name=self.unit.name))
            for trace in figure["data"]:
                if trace["type"] == "contour":
                    trace.update(colorscale="@scale", reversescale=not self.record.maximize)
                    trace.update(zauto=False, zmin=self.low, zmax=self.high, line={"width": 0}, ncontours=12)
                    trace["colorbar"] = colour_bar(self.unit.tick)
                elif "marker" in trace:
                    trace["marker"] = {"size": 4, "color": "@ink", "opacity": 0.75, "line": {"width": 0}}
            return name_diagonal(figure, sorted(names))

        caption = "The value between tried settings is interpolated: trust it only near the dots."
        chart = Chart("contour", "Contour", caption + _part(len(some.chosen), len(self.done)), height_px=560,
                      min_width_px=500)  # fmt: skip
        return self._chart(chart, self._need(trials=3, params=2), build)

    def rank(self) -> Chart:
        """Trials over pairs of parameters, coloured by rank."""
        names, some = self.shared()[:SURFACE_PARAMS], self.view.only(RANK_TRIALS)

        def build() -> Figure:
            figure = as_values(visualization.plot_rank(some, params=sorted(names), target_name=self.unit.name))
            order = {trial.number: index for index, trial in enumerate(sorted(some.chosen, key=some.rank)[::-1])}
            last = max(1, len(order) - 1)
            for trace in figure["data"]:
                marker = trace["marker"]
                marker["line"] = {"width": 0}
                if trace.get("hovertext"):
                    numbers = [int(text.split("<br>", 1)[0].removeprefix("Trial #")) for text in trace["hovertext"]]
                    trace["hovertext"] = [self._hover[number] for number in numbers]
                    marker.update(color=[f"@s{round(10 * order[number] / last)}" for number in numbers], size=6)
                else:
                    marker["colorscale"] = "@scale"
                    words = {"tickvals": [0, 0.5, 1], "ticktext": ["worst", "median", "best"]}
                    marker["colorbar"] = colour_bar() | words
            return name_diagonal(figure, sorted(names))

        caption = "The same pairs without interpolation: every dot is a trial, coloured by its rank."
        chart = Chart("rank", "Rank", caption + _part(len(some.chosen), len(self.done)), height_px=560,
                      min_width_px=500)  # fmt: skip
        return self._chart(chart, self._need(trials=3, params=2), build)

    def intermediate(self) -> Chart:
        """The reports of all trials over their steps."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        known = [trial for trial in self.view.get_trials(states=states) if trial.intermediate_values]
        some = View(self.view, known).only(CURVE_TRIALS, states)
        best = winner(self.record)
        ends = [value for trial in some.chosen for value in trial.intermediate_values.values()]
        span = focus(ends, maximize=self.record.maximize)

        def build() -> Figure:
            figure = as_values(visualization.plot_intermediate_values(some))
            for trace, trial in zip(figure["data"], some.chosen, strict=True):
                first = best is not None and trial.number == best.number
                trace["x"] = [self.steps.at(step) for step in sorted(trial.intermediate_values)]
                trace["mode"] = "lines" if len(trace["x"]) > 1 else "markers"
                colour = "@accent" if first else STATE_COLOURS[trial.state]
                trace["line"] = {"color": colour, "width": 3 if first else 1}
                trace["marker"] = {"color": colour, "size": 4}
                trace["opacity"] = 1 if first else 0.5
                trace["hovertemplate"] = f"#{trial.number}: %{{y}} at {self.steps.name} %{{x}}<extra></extra>"
            self._value_axis(figure["layout"], "yaxis", span)
            figure["layout"]["xaxis"]["title"] = {"text": self.steps.name}
            return figure

        caption = f"Reports by {self.steps.name}; pruned trials in amber, the winner bold."
        chart = Chart("intermediate", "Intermediate values",
                      caption + _part(len(some.chosen), len(known)) + focus_hint(span))  # fmt: skip
        return self._chart(chart, "" if known else "No trial has reported a value before its end.", build)

    def edf(self, others: Sequence[optuna.Study] = ()) -> Chart:
        """Share of trials that reached a value, for one or several studies."""

        def build() -> Figure:
            views = [self.view, *(View.of(other) for other in others)]
            figure = as_values(visualization.plot_edf(views, target_name=self.unit.name))
            for index, trace in enumerate(figure["data"]):
                trace["line"] = {"color": f"@c{index % 6}", "width": 2.2}
            figure["layout"].update(showlegend=bool(others), legend=legend())
            figure["layout"]["yaxis"].update(title={"text": "share of trials"}, tickformat=".0%")
            self._value_axis(figure["layout"], "xaxis", self.span)
            return figure

        better = "right" if self.record.maximize else "left"
        caption = f"Share of completed trials at or below a value: the further {better}, the better the search."
        key = "edf-compared" if others else "edf"
        return self._chart(Chart(key, "Distribution of values (EDF)", caption), self._need(trials=2), build)

    def timeline(self) -> Chart:
        """When each trial ran."""
        stretch = self._longest_stretch()
        recent = min(len(stretch), TIMELINE_TRIALS)

        def build() -> Figure:
            figure = as_values(visualization.plot_timeline(View(self.view, stretch), n_recent_trials=recent))
            for trace in figure["data"]:
                state = TrialState[trace["name"]] if trace["name"] in TrialState.__members__ else TrialState.WAITING
                trace["marker"] = {"color": STATE_COLOURS[state], "line": {"width": 0}}
                trace["name"] = STATE_NAMES[state]
            figure["layout"].update(legend=legend(), bargap=0.2)
            figure["layout"]["xaxis"]["title"] = {"text": ""}
            figure["layout"]["yaxis"].update(showgrid=False)
            return figure

        caption = "When each trial ran."
        if recent < len(self.view.chosen):
            last = stretch[-recent:]
            caption += f" The longest stretch without a pause: trials {last[0].number} to {last[-1].number}."
        need = "" if stretch else "No trial has started yet."
        return self._chart(Chart("timeline", "Timeline", caption), need, build)

    def _longest_stretch(self) -> list[FrozenTrial]:
        """Trials of the part of the search with the most of them; a pause overnight would flatten every bar."""
        begun = [trial for trial in self.record.trials if trial.started]
        if not begun:
            return []
        stretches = sorted(Clock(begun).stretches(begun), key=len)
        numbers = set(stretches[-1])
        return [trial for trial in self.view.chosen if trial.number in numbers]

    def _axis_label(self, label: Figure) -> str:
        """A tick of the first axis of the parallel coordinates is a value of the metric."""
        text = str(label.get("text", ""))
        try:
            return self.unit.text(float(text)) if label.get("x") == 0 else text
        except ValueError:
            return text

    def _value_axis(self, layout: Figure, axis: str, span: tuple[float, float] | None) -> None:
        layout.setdefault(axis, {}).update(title={"text": self.unit.name}, tickformat=self.unit.tick)
        if span:
            layout[axis].update(range=list(span), autorange=False)


def _part(shown: int, n: int) -> str:
    if shown == n:
        return ""
    return f" Drawn from {shown:,} of {n:,} trials: the best {shown // 2:,} and a spread of the others."


def _share(value: float) -> str:
    return f"{value:.0%}" if value >= 0.01 else "<1%"
