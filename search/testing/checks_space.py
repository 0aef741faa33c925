"""Contract checks of what an objective says of itself: name, space, baselines, descriptions and schedule."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Mapping

from optuna.trial import FixedTrial

from search.study.space.objective_calls import is_count
from search.study.space.space import contains, search_space
from search.testing.specimen import ContractError, Specimen, call, require

SUGGEST_S = 0.05
"""The longest median time of `suggest`. The coordinator calls it for every trial while workers wait."""


def check_names(specimen: Specimen) -> None:
    """It has a name, a metric and a direction."""
    for what in ("name", "metric"):
        given = getattr(specimen.objective, what)
        require(
            isinstance(given, str) and re.fullmatch(r"[\w. -]+", given),
            f"{what} is {given!r}; give a text of letters, digits, dots and dashes, which names files and models",
        )


def check_suggest(specimen: Specimen) -> None:
    """Its configurations are plain data, made quickly, and the same for the same values."""
    took = []
    for trial in specimen.trials():
        started = time.perf_counter()
        params = call("suggest", specimen.objective.suggest, trial)
        took.append(time.perf_counter() - started)
        require(isinstance(params, Mapping), f"suggest gave {params!r}; give a dict of parameters")
        for name, value in params.items():
            require(
                isinstance(name, str) and isinstance(value, bool | int | float | str | None),
                f"suggest gave {name!r}: {value!r}; parameters are numbers, texts, True, False or None under a text",
            )
        require(trial.params, "suggest asked the trial for nothing, so there is nothing to search")
        again = call("suggest", specimen.objective.suggest, FixedTrial(trial.params))
        require(
            params == again,
            f"suggest made {dict(params)} and then, of the same values, {dict(again)}; only the trial may decide",
        )
    require(
        statistics.median(took) < SUGGEST_S,
        f"suggest took {statistics.median(took):.2f} s; it is called for every trial: keep it below {SUGGEST_S} s",
    )


def check_baselines(specimen: Specimen) -> None:
    """Its baselines lie inside the space."""
    space = search_space(specimen.objective)
    for name, params in call("baselines", specimen.objective.baselines).items():
        for parameter, value in params.items():
            require(
                parameter in space,
                f"baseline {name!r} has {parameter!r}, which suggest does not ask for; there are: {', '.join(space)}",
            )
            require(
                contains(space[parameter], value),
                f"baseline {name!r} has {parameter} = {value!r}, which suggest does not allow: {space[parameter]}",
            )


def check_words(specimen: Specimen) -> None:
    """It describes a configuration in one line, and itself by a constant fingerprint."""
    for params in specimen.configurations():
        text = call("describe", specimen.objective.describe, params)
        require(
            isinstance(text, str) and text and "\n" not in text,
            f"describe gave {text!r}; give a few words on one line, such as 'lr 0.01'",
        )
    fingerprint = call("fingerprint", specimen.objective.fingerprint)
    try:
        json.dumps(dict(fingerprint))
    except (TypeError, ValueError) as error:
        raise ContractError(f"fingerprint gave {fingerprint!r}, which is not plain data; give texts by name") from error
    again = call("fingerprint", specimen.spec.load().fingerprint)
    require(dict(fingerprint) == dict(again), f"fingerprint was {fingerprint} and, made a second time, {again}")


def check_schedule(specimen: Specimen) -> None:
    """Its epochs, and its pulls in an epoch, are whole positive numbers."""
    epochs = call("epochs", specimen.objective.epochs, specimen.device)
    steps = call("steps_per_epoch", specimen.objective.steps_per_epoch)
    for name, value in (("epochs", epochs), ("steps_per_epoch", steps)):
        require(is_count(value), f"{name} gave {value!r}; give a whole number above 0")
