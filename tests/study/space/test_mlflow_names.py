"""Names of parameters and metrics in MLflow: it takes them all, and different ones stay different."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name, _validate_param_name

from search.study.space.mlflow_names import MlflowNames, mlflow_name

NAMES = st.one_of(st.text(), st.text(alphabet="a./[]:- ", max_size=6), st.text(min_size=240, max_size=300))


@given(st.lists(NAMES, unique=True))
@example(["lr (log)", "lr [log]", "lr _log_", "layers[0].units", "..", ".", "", "/a", "a//b", "a/../b", "a/", "../x"])
@example(["a" * 300, "a" * 299 + "b", "...", "..x", "x\n", "\ud800"])
def test_mlflow_takes_every_name_and_keeps_different_ones_apart(names: list[str]):
    mapped = MlflowNames("parameter").of(names)
    assert mapped.keys() == set(names)
    assert len(set(mapped.values())) == len(names)
    for name in mapped.values():
        assert len(name) <= MAX_ENTITY_KEY_LENGTH
        _validate_param_name(name)
        _validate_metric_name(name)


@pytest.mark.parametrize("name", ["lr", "val/accuracy", "größe 2", "学习率", "a.b-c:d", "layers/0/units"])
def test_a_name_that_mlflow_takes_stays(name: str):
    assert mlflow_name(name) == name
    assert list(MlflowNames("metric").changes([name])) == []


def test_a_change_is_told_and_a_name_that_needs_none_keeps_its_own():
    names = MlflowNames("parameter")
    assert names.of(["a(b", "a_b"])["a_b"] == "a_b"
    (told,) = names.changes(["a(b"])
    assert told == f"MLflow does not take the name of parameter 'a(b'; it is {names.of(['a(b'])['a(b']!r} there"
    assert names.of(["a[b"])["a[b"] not in ("a_b", names.of(["a(b"])["a(b"])
