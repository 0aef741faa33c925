"""The search space: an objective's whole space, or the part left by `--fix` and the `[space]` table of a file.

A fixed parameter stays a parameter, with one choice. Trials are stored, shown and loaded as if nothing were fixed.
"""

import difflib
import math
import tomllib
import warnings
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.samplers import RandomSampler

from objectives.base import Checkable, Objective, Params, ParamValue, Suggest
from objectives.failures import describe_value
from objectives.functions.objective import FunctionObjective
from search.common.errors import UsageError
from search.study.space.asked_trial import AskedTrial, Distributions, PartialTrial, plain_params
from search.study.space.objective_calls import ContractError, call, require
from search.study.space.plain_values import is_number

PROBES = 48
"""Number of configurations sampled to learn the search space. Spaces that agree on all of them are the same."""

KINDS = {CategoricalDistribution: "a choice of", FloatDistribution: "a float from", IntDistribution: "an int from"}

MORE_PROBES = 500
"""Number of further ones, for a parameter that the user names and few configurations have."""

ConfigurationKey = tuple[tuple[str, ParamValue], ...]


def configuration_key(params: Mapping[str, ParamValue]) -> ConfigurationKey:
    """Equal for two trials with the same sampled parameters."""
    # Rounded, because samplers compute the values of a stepped range in different ways.
    rounded = {name: float(f"{v:.12g}") if isinstance(v, float) else v for name, v in params.items()}
    return tuple(sorted(rounded.items()))


@dataclass(frozen=True)
class Space:
    """The part of an objective's space that is searched."""

    narrowed: Distributions = field(default_factory=dict)  # of parameters that are fixed or narrowed
    fixed: Params = field(default_factory=dict)  # of a function, whose distributions are unknown before it runs

    def suggest(self, objective: Objective, trial: Suggest) -> Params:
        """Sample a configuration of the objective within this space. Raises ContractError."""
        return sample(objective, AskedTrial(trial, self.narrowed))


WHOLE_SPACE = Space()


def search_space(objective: Objective, space: Space = WHOLE_SPACE, named: Set[str] = frozenset()) -> Distributions:
    """The parameters that the objective samples, those that are `named` among them. Raises ContractError."""
    distributions: Distributions = {}
    if isinstance(objective, FunctionObjective):
        return distributions
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    for probe in range(PROBES + MORE_PROBES):
        if probe >= PROBES and named <= distributions.keys():
            break
        trial = study.ask()
        space.suggest(objective, trial)
        distributions = trial.distributions | distributions
    return dict(sorted(distributions.items()))


def sample(objective: Objective, trial: AskedTrial) -> Params:
    """One configuration, as plain values. Raises ContractError."""
    with warnings.catch_warnings():  # of a step that lowers a bound, and of a baseline outside, which is checked anyway
        warnings.simplefilter("ignore")
        return plain_params(call("suggest", objective.suggest, trial))


def require_space(objective: Objective) -> None:
    """Raise ContractError unless suggested values, and nothing else, decide on every configuration."""
    if isinstance(objective, FunctionObjective):
        return  # it suggests while it runs
    sampler = RandomSampler(seed=0)
    distributions: Distributions = {}
    for _ in range(PROBES):
        # Each in a study of its own: in a common one Optuna raises its own error for choices that change.
        trial = AskedTrial(optuna.create_study(sampler=sampler).ask(), {})
        params = sample(objective, trial)
        _require_constant(distributions, trial.distributions)
        require_repeatable(objective, trial.params, params)
    require(distributions, "suggest asked the trial for nothing, so there is nothing to search")


def check_example(objective: Objective) -> None:
    """Let the objective check one of its configurations, if it can. Raises ObjectiveError for a mistake."""
    if isinstance(objective, Checkable):
        trial = optuna.create_study(sampler=RandomSampler(seed=0)).ask()
        call("check", objective.check, WHOLE_SPACE.suggest(objective, trial))


def require_repeatable(objective: Objective, suggested: Params, params: Params) -> None:
    """Raise ContractError unless equal suggested values give equal parameters."""
    trial = AskedTrial(PartialTrial(suggested), {})
    again = sample(objective, trial)
    advice = "only the trial may decide: use no random number, time or earlier call"
    made = f"{describe_value(params)} and then, from the same values, {describe_value(again)}"
    require(again == params, f"suggest made {made}; {advice}")
    asked = " and then, with the same values, for ".join(", ".join(map(repr, t)) for t in (suggested, trial.params))
    require(trial.params == suggested, f"suggest asked for {asked}; {advice}")


def _require_constant(known: Distributions, asked: Distributions) -> None:
    """Add parameters to the known ones. Raises ContractError for one that Optuna cannot take for the same."""
    for name, distribution in asked.items():
        before = known.setdefault(name, distribution)
        try:
            check_distribution_compatibility(before, distribution)
        except ValueError:
            texts = [f"{KINDS[type(d)]} {format_distribution(d)}" for d in (before, distribution)]
            both = f"as {texts[0]} and, in another configuration, as {texts[1]}"
            raise ContractError(f"suggest asked for {name!r} {both}; use another name for each") from None


def contains(distribution: BaseDistribution, value: ParamValue) -> bool:
    """True if a parameter with this distribution may have this value."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if not isinstance(value, int | float) or not low <= value <= high:
        return False
    return step is None or abs((value - low) / step - round((value - low) / step)) < 1e-8


def format_distribution(distribution: BaseDistribution) -> str:
    """The values of a distribution in words: `64, 128 or 256`, `0.0005 to 0.02`."""
    if isinstance(distribution, CategoricalDistribution):
        *most, last = map(str, distribution.choices)
        return f"{', '.join(most)} or {last}" if most else last
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return f"{distribution.low:g}"
    step = f" in steps of {distribution.step:g}" if distribution.step not in (None, 1) else ""
    return f"{distribution.low:g} to {distribution.high:g}{step}"


def parse(text: str) -> tuple[str, Any]:
    """Split `NAME=VALUE`. The value is TOML, with or without quotes. Raises UsageError."""
    name, separator, value = (part.strip() for part in text.partition("="))
    if not separator or not name or not value:
        raise UsageError(f"--fix {text!r} is not NAME=VALUE; type for example --fix batch_size=128")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def narrow(objective: Objective, fixes: Sequence[str]) -> Space:
    """The space narrowed by `NAME=VALUE` texts, the last one of a name. Raises UsageError for impossible ones."""
    if not fixes:
        return WHOLE_SPACE
    values = dict(map(parse, fixes))
    if isinstance(objective, FunctionObjective):
        return Space(fixed=_single_values(values))
    space = _narrowed(_find_parameters(objective, values), values)
    unsampled = sorted(values.keys() - search_space(objective, space, values.keys()).keys())
    if unsampled:
        single = [f"{name}={format_distribution(dist)}" for name, dist in space.narrowed.items() if dist.single()]
        problem = f"{', '.join(unsampled)} would never be sampled with {', '.join(single)}"
        raise UsageError(f"--fix or [space]: {problem}; leave out one or the other")
    return space


def _single_values(values: Mapping[str, Any]) -> Params:
    """Check values that fix parameters of a function. Raises UsageError."""
    for name, value in values.items():
        if isinstance(value, list | dict):
            advice = f"narrow its range in the function, or fix it to one value: --fix {name}=VALUE"
            raise UsageError(f"--fix {name}={value}: the range of a function's parameter is in the function; {advice}")
    return dict(values)


def _find_parameters(objective: Objective, values: Mapping[str, Any]) -> Distributions:
    """The search space with every named parameter. Raises UsageError for one that is never sampled."""
    distributions = search_space(objective)
    # A parameter may appear only when another one is fixed, so the parameters are fixed as they appear.
    while missing := values.keys() - distributions.keys():
        more = search_space(objective, _narrowed(distributions, values), missing)
        if missing.isdisjoint(more):
            name = next(name for name in values if name in missing)
            similar = difflib.get_close_matches(name, distributions, 1)
            hint = f"did you mean {similar[0]}?" if similar else f"allowed: {', '.join(distributions)}"
            raise UsageError(f"--fix or [space]: unknown parameter {name!r}; {hint}")
        distributions = more | distributions
    return distributions


def _narrowed(distributions: Distributions, values: Mapping[str, Any]) -> Space:
    """Narrow those parameters that have a value."""
    narrowed: Distributions = {}
    for name, value in values.items():
        if isinstance(distribution := distributions.get(name), CategoricalDistribution):
            narrowed[name] = _with_choices(name, distribution, value)
        elif isinstance(distribution, FloatDistribution | IntDistribution):
            narrowed[name] = _with_range(name, distribution, value)
    return Space(narrowed)


def _with_choices(name: str, distribution: CategoricalDistribution, value: Any) -> CategoricalDistribution:
    choices = distribution.choices
    values = value if isinstance(value, list) else [value]
    if isinstance(value, str) and value[:1] + value[-1:] == "[]" and not any(_matches(value, c) for c in choices):
        values = [item.strip() for item in value[1:-1].removesuffix(",").split(",")]  # a list of words without quotes
    invalid = [item for item in values if not any(_matches(item, choice) for choice in choices)]
    if invalid or not values:
        meant = [item.strip() for item in str(value).strip("[]").split(",")]
        is_list = len(meant) > 1 and all(any(_matches(item, choice) for choice in choices) for item in meant)
        hint = f'--fix "{name}=[{",".join(meant)}]"' if is_list else f"--fix {name}={choices[0]}"
        raise _invalid(name, (invalid or [value])[0] or value, distribution, hint)
    return CategoricalDistribution([choice for choice in choices if any(_matches(item, choice) for item in values)])


def _matches(value: Any, choice: Any) -> bool:
    """True if the user's value means this choice. TOML has no None, and writes True as true."""
    if is_number(value) and is_number(choice):
        return bool(value == choice)
    return str(value).lower() == str(choice).lower()


def _with_range(name: str, distribution: FloatDistribution | IntDistribution, value: Any) -> BaseDistribution:
    lowest, highest, step = distribution.low, distribution.high, distribution.step
    hint = f"--fix {name}={lowest:g}, or in [space]: {name} = [{lowest:g}, {highest:g}]"
    ends = value if isinstance(value, list) else [value, value]
    if len(ends) != 2 or not all(map(is_number, ends)):
        raise _invalid(name, value, distribution, hint, "one number, or a range of two")
    low, high = ends
    if low > high:
        sorted_fix = f"--fix {name}=[{high:g},{low:g}]"
        raise UsageError(f"--fix or [space]: the range {name} = [{low:g}, {high:g}] is upside down; type {sorted_fix}")
    for end in ends:
        if not math.isfinite(end) or not lowest <= end <= highest:
            raise _invalid(name, value, distribution, hint)
        if not contains(distribution, end):
            steps = f"one of the values from {format_distribution(distribution)}"
            raise _invalid(name, value, distribution, hint, steps)
    return type(distribution)(low, high, distribution.log, step)  # type: ignore[arg-type]  # each takes its own step


def _invalid(name: str, value: Any, distribution: BaseDistribution, hint: str, allowed: str = "") -> UsageError:
    allowed = allowed or format_distribution(distribution)
    return UsageError(f"--fix or [space]: {name} cannot be {value}; allowed: {allowed}. Type for example {hint}")
