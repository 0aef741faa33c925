"""A narrowed space: the values that fixes and ranges leave, and the errors of impossible ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import create_trial
from toy import Toy

from objectives.base import ObjectiveError, Params, ParamValue, Suggest
from objectives.images.objective import ImageClassification
from search.cli.options import read_table
from search.common.errors import UsageError
from search.study.space.initial_params import baselines
from search.study.space.limits import Limits
from search.study.space.space import (
    Space,
    configuration_key,
    contains,
    format_distribution,
    narrow,
    parse,
    search_space,
)

DIGITS = ImageClassification("digits")


class Choices(Toy):
    """Everything has few values, and which parameters there are depends on one of them."""

    def suggest(self, trial: Suggest) -> Params:
        params: Params = {"flag": trial.suggest_categorical("flag", [True, False, None])}
        if params["flag"]:
            params["n"] = trial.suggest_int("n", 2, 8, step=3)
        else:
            params["share"] = trial.suggest_float("share", 0.1, 0.5, step=0.1)
        return params


def drawn(objective: Toy | ImageClassification, space: Space, n: int = 60) -> list[Params]:
    study = optuna.create_study(sampler=RandomSampler(seed=1))
    return [space.suggest(objective, study.ask()) for _ in range(n)]


def test_only_fixed_and_narrowed_values_are_sampled():
    fixes = [
        "optimizer=['adam', \"sgd\"]",
        "family=[mlp, cnn,]",
        "batch_size=[64, 128]",
        "batch_size=128",
        "adam_lr=[1e-3, 1e-2]",
        "mlp_depth=2",
    ]
    samples = drawn(DIGITS, narrow(DIGITS, fixes))
    assert {params["batch_size"] for params in samples} == {128}
    assert {params["optimizer"] for params in samples} == {"adam", "sgd"}
    rates = [float(params["adam_lr"] or 0) for params in samples if "adam_lr" in params]
    assert rates
    assert 1e-3 <= min(rates) <= max(rates) <= 1e-2
    assert {params["mlp_depth"] for params in samples if params["family"] == "mlp"} == {2}
    assert {params["family"] for params in samples} == {"mlp", "cnn"}


def test_a_fixed_parameter_is_stored_with_the_trial():
    study = optuna.create_study()
    narrow(DIGITS, ["batch_size=128"]).suggest(DIGITS, trial := study.ask())
    assert trial.params["batch_size"] == 128


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("batch_sise=64", r"unknown parameter 'batch_sise'; did you mean batch_size\?"),
        ("xyzzy=64", r"unknown parameter 'xyzzy'; allowed: adam_lr, .*weight_decay"),
        ("batch_size=100", r"batch_size cannot be 100; allowed: 64, 128 or 256\. .*--fix batch_size=64"),
        ("batch_size=[64, 100]", r"batch_size cannot be 100; allowed: 64, 128 or 256"),
        ("family=[mlp, vit]", r"family cannot be vit; allowed: mlp, cnn or resnet"),
        ("family=cnn, mlp", r'family cannot be cnn, mlp; .*--fix "family=\[cnn,mlp\]"'),
        ("family=[cnn,mlp", r'family cannot be \[cnn,mlp; .*--fix "family=\[cnn,mlp\]"'),
        ("batch_size=[]", r"batch_size cannot be \[\]; allowed: 64, 128 or 256"),
        ("adam_lr=[1e-2, 1e-3]", r"adam_lr = \[0.01, 0.001\] is upside down; type --fix adam_lr=\[0.001,0.01\]"),
        ("adam_lr=1", r"adam_lr cannot be 1; allowed: 0.0005 to 0.02\. .*adam_lr = \[0.0005, 0.02\]"),
        ("adam_lr=fast", r"adam_lr cannot be fast; allowed: one number, or a range of two"),
        ("adam_lr=[1e-3]", r"adam_lr cannot be \[0.001\]; allowed: one number, or a range of two"),
        ("adam_lr=true", r"adam_lr cannot be True; allowed: one number"),
        ("adam_lr=nan", r"adam_lr cannot be nan; allowed: 0.0005 to 0.02"),
        ("mlp_depth=1.5", r"mlp_depth cannot be 1.5; allowed: one of the values from 1 to 3"),
        ("label_smoothing=0.03", r"allowed: one of the values from 0 to 0.1 in steps of 0.05"),
        ("batch_size", r"--fix 'batch_size' is not NAME=VALUE; type for example --fix batch_size=128"),
        ("family=[mlp,]x", r"family cannot be \[mlp,\]x; allowed: mlp, cnn or resnet"),
        ("family=[mlp,,cnn]", r"family cannot be \[mlp,,cnn\]; allowed: mlp, cnn or resnet"),
        ("=3", r"--fix '=3' is not NAME=VALUE"),
    ],
)
def test_an_impossible_value_is_an_error_that_names_the_allowed_ones(given: str, message: str):
    with pytest.raises(UsageError, match=message):
        narrow(DIGITS, [given])


def test_a_fix_that_rules_out_another_one_is_an_error():
    with pytest.raises(UsageError, match=r"cnn_width would never be sampled with family=mlp, cnn_width=8"):
        narrow(DIGITS, ["family=mlp", "cnn_width=8"])


class Branches(Toy):
    """A parameter for each of sixty kinds, and one below a parameter that few kinds have."""

    def suggest(self, trial: Suggest) -> Params:
        kind = trial.suggest_categorical("kind", [str(number) for number in range(60)])
        params: Params = {"kind": kind, f"size_{kind}": trial.suggest_int(f"size_{kind}", 1, 9)}
        if params[f"size_{kind}"] == 9:
            params["rare"] = trial.suggest_float("rare", 0.0, 1.0)
        if kind == "7" and params["size_7"] == 3:
            params["rarest"] = trial.suggest_float("rarest", 0.0, 1.0)
        return params


@pytest.mark.parametrize("number", range(0, 60, 7))
def test_a_parameter_that_few_configurations_have_can_be_fixed(number: int):
    fixes = [f"size_{number}=5", f"kind={number}"]
    assert {params[f"size_{number}"] for params in drawn(Branches(), narrow(Branches(), fixes), 5)} == {5}
    assert narrow(Branches(), [f"size_{number}=5"]).narrowed.keys() == {f"size_{number}"}


def test_fixes_that_lead_to_a_parameter_are_followed_to_it():
    assert narrow(Branches(), ["rare=0.5"]).narrowed.keys() == {"rare"}
    assert narrow(Branches(), ["rarest=0.5", "size_7=3", "kind=7"]).narrowed.keys() == {"rarest", "size_7", "kind"}
    with pytest.raises(UsageError, match="unknown parameter 'rarer'; did you mean rare"):
        narrow(Branches(), ["rarer=0.5", "kind=7"])


def test_a_choice_may_be_written_in_several_ways():
    space = search_space(Choices())
    assert format_distribution(space["flag"]) == "True, False or None"
    for text in ("flag=true", "flag=True", 'flag="true"'):
        assert {params["flag"] for params in drawn(Choices(), narrow(Choices(), [text]))} == {True}
    assert {params["flag"] for params in drawn(Choices(), narrow(Choices(), ["flag=none"]))} == {None}


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,9}", fullmatch=True),
        st.one_of(
            st.integers(),
            st.booleans(),
            st.floats(allow_nan=False, allow_infinity=False),
            st.lists(st.floats(0, 1), max_size=3),
            st.sampled_from(["adam", "one_cycle"]),
        ),
    )
)
def test_a_table_comes_back_from_its_flags(table: dict[str, object]):
    assert dict(map(parse, read_table(table))) == table


@pytest.mark.parametrize(
    ("distribution", "inside", "outside"),
    [
        (IntDistribution(2, 8, step=3), [2, 5, 8, 5.0], [1, 3, 9, 11, 5.5, "5", None]),
        (IntDistribution(1, 64, log=True), [1, 33, 64], [0, 65]),
        (FloatDistribution(0.1, 0.5, step=0.1), [0.1, 0.1 + 2 * 0.1, 0.3, 0.5], [0.0, 0.25, 0.6, math.nan]),
        (FloatDistribution(-1.0, 1.0), [-1, 0.123, 1.0], [-1.1, math.inf, math.nan, "fast", None]),
        (CategoricalDistribution(["a", None, True]), ["a", None, True], ["b", False, 2]),
    ],
)
def test_a_distribution_contains_what_optuna_accepts(
    distribution: BaseDistribution, inside: list[ParamValue], outside: list[ParamValue]
):
    for value in inside:
        assert contains(distribution, value), value
        create_trial(value=0.0, params={"x": value}, distributions={"x": distribution})
    assert not [value for value in outside if contains(distribution, value)]


def test_a_configuration_has_one_key_however_its_values_were_computed():
    assert configuration_key({"x": 0.1 + 2 * 0.1, "n": 2}) == configuration_key({"n": 2, "x": 0.3})
    assert configuration_key({"x": 0.3}) != configuration_key({"x": 0.30001})


# Baselines ----------------------------------------------------------------------------------------------------------


def test_baselines_follow_a_fix_or_are_left_out_with_a_notice():
    space = narrow(DIGITS, ["batch_size=128", "optimizer=['adam', 'adamw']"])
    kept, notices = baselines(DIGITS, space, Limits())
    names = [baseline.name for baseline in kept]
    assert names == [
        "tutorial MLP, Adam (batch_size=128)",
        "tutorial CNN, Adam (batch_size=128)",
        "strong CNN, one cycle",
    ]
    assert [baseline.params["batch_size"] for baseline in kept] == [128, 128, 128]
    why = "its optimizer is sgd, and the search allows adam or adamw"
    assert f"baseline tutorial MLP, SGD is left out: {why}" in notices


def test_a_baseline_of_another_kind_is_left_out():
    kept, notices = baselines(DIGITS, narrow(DIGITS, ["family=cnn"]), Limits())
    assert [baseline.name for baseline in kept] == ["tutorial CNN, Adam", "strong CNN, one cycle"]
    assert len(notices) == 2
    assert notices[0] == "baseline tutorial MLP, Adam is left out: its family is mlp, and the search allows cnn"


def test_a_baseline_with_an_impossible_choice_is_an_error():
    class Wrong(Choices):
        def baselines(self) -> Mapping[str, Params]:
            return {"plain": {"flag": "yes"}}

    with pytest.raises(ObjectiveError, match="baseline 'plain': flag is 'yes', and suggest offers True, False or None"):
        baselines(Wrong(), Space(), Limits())


def test_a_baseline_above_a_limit_is_left_out():
    kept, notices = baselines(DIGITS, Space(), Limits(parameters=60_000))
    assert [baseline.name for baseline in kept] == ["strong CNN, one cycle"]
    assert notices[0] == "baseline tutorial MLP, Adam is left out: it has 167,178 parameters, too many"


def test_the_narrowed_space_is_another_space():
    whole, part = search_space(DIGITS), search_space(DIGITS, narrow(DIGITS, ["adam_lr=[1e-3,1e-2]"]))
    assert [name for name in whole if whole[name] != part[name]] == ["adam_lr"]
    assert json.loads(optuna.distributions.distribution_to_json(part["adam_lr"]))["attributes"]["high"] == 1e-2
