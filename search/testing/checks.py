"""Does an objective keep the contract of `objectives.base`? It is tried for a few seconds.

`python -m search check-objective MODULE:ATTR` runs all checks. In your own tests:

    @pytest.fixture(scope="module")
    def specimen():
        return Specimen.of("my_module:MyObjective")

    @pytest.mark.parametrize("check", CHECKS)
    def test_my_objective(specimen, check):
        check(specimen)
"""

import re
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from optuna.trial import FixedTrial

from objectives.base import missing_methods
from search.study.space import objective_calls
from search.study.space.objective_calls import ContractError, call, require
from search.study.space.space import contains, search_space
from search.testing import training
from search.testing.specimen import NotTried, Specimen

SUGGEST_S = 0.05
"""The longest median time of `suggest`. The coordinator calls it for every trial while workers wait."""


def check_names(specimen: Specimen) -> None:
    """It has a name, a metric and a direction."""
    objective_calls.require_texts(specimen.objective)
    for part in ("name", "metric"):
        text, allowed = getattr(specimen.objective, part), "letters, digits, dots and dashes"
        valid = re.fullmatch(r"[\w. -]+", text)
        require(valid, f"{part} is {text!r}; give a text of {allowed}, which names files and models")


def check_suggest(specimen: Specimen) -> None:
    """Its configurations are plain data, made quickly, and the same for the same values."""
    suggest, seconds = specimen.objective.suggest, []
    for trial in specimen.trials():
        started = time.perf_counter()
        params = call("suggest", suggest, trial)
        seconds.append(time.perf_counter() - started)
        require(isinstance(params, Mapping), f"suggest gave {params!r}; give a dict of parameters")
        for name, value in params.items():
            plain = isinstance(name, str) and isinstance(value, bool | int | float | str | None)
            allowed = "numbers, texts, True, False or None under a text"
            require(plain, f"suggest gave {name!r}: {value!r}; parameters are {allowed}")
        require(trial.params, "suggest asked the trial for nothing, so there is nothing to search")
        again = call("suggest", suggest, FixedTrial(trial.params))
        both = f"{dict(params)} and then, from the same values, {dict(again)}"
        require(params == again, f"suggest made {both}; only the trial may decide")
    median = statistics.median(seconds)
    limit = f"it is called for every trial: keep it below {SUGGEST_S} s"
    require(median < SUGGEST_S, f"suggest took {median:.2f} s; {limit}")


def check_baselines(specimen: Specimen) -> None:
    """Its baselines lie inside the space."""
    space = search_space(specimen.objective)
    for baseline, params in objective_calls.require_baselines(specimen.objective).items():
        for name, value in params.items():
            stray = f"baseline {baseline!r} has {name!r}, which suggest does not ask for; there are: {', '.join(space)}"
            require(name in space, stray)
            outside = f"baseline {baseline!r} has {name} = {value!r}, which suggest does not allow: {space[name]}"
            require(contains(space[name], value), outside)


def check_words(specimen: Specimen) -> None:
    """It describes a configuration in one line, and itself by a constant fingerprint."""
    for params in specimen.configurations():
        text = call("describe", specimen.objective.describe, params)
        valid = isinstance(text, str) and text and "\n" not in text
        require(valid, f"describe gave {text!r}; give a few words on one line, such as 'lr 0.01'")
    made_twice = (specimen.objective, specimen.spec.load())
    first, second = (dict(objective_calls.require_fingerprint(objective)) for objective in made_twice)
    require(first == second, f"fingerprint was {first} and, made a second time, {second}")


def check_schedule(specimen: Specimen) -> None:
    """Its epochs, and its pulls in an epoch, are whole positive numbers."""
    objective_calls.require_schedule(specimen.objective, specimen.device)


def check_protocols(specimen: Specimen) -> None:
    """It implements every method of each optional protocol that it begins."""
    missing = missing_methods(specimen.objective)
    require(missing is None, f"{missing}; add the missing methods, or remove the others")


BASIC_CHECKS = (check_names, check_suggest, check_baselines, check_words, check_schedule, check_protocols)
CHECKS = (*BASIC_CHECKS, *training.CHECKS)


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    title: str
    wrong: str | None = None
    not_tried: str | None = None


def examine(specimen: Specimen) -> Iterator[Finding]:
    """Run every check, one after the other."""
    for check in CHECKS:
        title = (check.__doc__ or check.__name__).splitlines()[0].rstrip(".")
        try:
            check(specimen)
        except ContractError as error:
            yield Finding(title, wrong=str(error))
        except NotTried as error:
            yield Finding(title, not_tried=str(error))
        except Exception as error:  # an objective can be wrong in unforeseen ways
            yield Finding(title, wrong=f"{type(error).__name__}: {error}")
        else:
            yield Finding(title)
