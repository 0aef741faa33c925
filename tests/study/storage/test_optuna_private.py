"""Optuna's private names that the search uses, in study/storage, study/sampling and common/sqlite, are those of 5.0.0.

Add a row for every new use. A failing row names the module to check.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import optuna
import pytest

RDB = "optuna.storages._rdb"
WRITER, RETRY, LOCK, STORAGE = (f"search/study/storage/{name}.py" for name in ("writer", "retry", "lock", "storage"))
SQLITE = "search/common/sqlite.py"

FUNCTIONS = [  # our module, Optuna's name, its parameters
    (WRITER, f"{RDB}.storage:_create_scoped_session", "scoped_session ignore_integrity_error"),
    (WRITER, f"{RDB}.models:StudyModel.find_or_raise_by_id", "study_id session for_update"),
    (WRITER, f"{RDB}.models:TrialIntermediateValueModel.intermediate_value_to_stored_repr", "value"),
    (WRITER, f"{RDB}.models:TrialValueModel.value_to_stored_repr", "value"),
    (RETRY, "optuna.storages:RDBStorage._get_trials", "self study_id states included_trial_ids trial_id_greater_than"),
    ("search/study/sampling/history.py", "optuna.storages:InMemoryStorage._set_trial", "self trial_id trial"),
]

ATTRIBUTES = [  # our module, the class of Optuna, its attribute that we read
    ("search/study/sampling/proposals.py", "optuna.study:Study", "_study_id"),
    ("search/study/sampling/proposals.py", "optuna.trial:Trial", "_trial_id"),
    ("search/study/sampling/sampling_study.py", "optuna.study:Study", "_study_id"),
    ("search/study/sampling/sampling_study.py", "optuna.trial:FrozenTrial", "_trial_id"),
]

TABLES = [  # our module, Optuna's model of the table, its columns, its key
    (WRITER, "TrialModel", "trial_id number study_id state datetime_start datetime_complete", "trial_id"),
    (WRITER, "TrialParamModel", "trial_id param_name param_value distribution_json", "trial_id param_name"),
    (WRITER, "TrialValueModel", "trial_id objective value value_type", "trial_id objective"),
    (
        WRITER,
        "TrialIntermediateValueModel",
        "trial_id step intermediate_value intermediate_value_type",
        "trial_id step",
    ),
    (WRITER, "TrialUserAttributeModel", "trial_id key value_json", "trial_id key"),
    (WRITER, "TrialSystemAttributeModel", "trial_id key value_json", "trial_id key"),
    (LOCK, "StudyUserAttributeModel", "study_id key value_json", "study_id key"),
    (SQLITE, "StudyModel", "study_id study_name", "study_id"),
]

NAMES_OF_TABLES = [  # our module, Optuna's model, the name in our SQL
    (LOCK, "StudyUserAttributeModel", "study_user_attributes"),
    (SQLITE, "StudyModel", "studies"),
]


def changed(name: str, module: str) -> str:
    return f"Optuna {optuna.__version__} changed {name}: look at {module}"


def resolve(path: str, module: str) -> Any:
    """Return the object `package.module:Name.attribute`."""
    where, _, name = path.partition(":")
    try:
        value: Any = importlib.import_module(where)
        for part in name.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError):
        pytest.fail(changed(path, module))
    return value


@pytest.mark.parametrize(("module", "path", "parameters"), FUNCTIONS)
def test_a_private_function_has_the_expected_parameters(module: str, path: str, parameters: str):
    assert list(inspect.signature(resolve(path, module)).parameters) == parameters.split(), changed(path, module)


@pytest.mark.parametrize(("module", "path", "attribute"), ATTRIBUTES)
def test_an_object_has_the_private_id_that_we_read(module: str, path: str, attribute: str):
    kind, storage = resolve(path, module), optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    value = next(value for value in (study, trial, study.trials[0]) if type(value) is kind)
    assert hasattr(value, attribute), changed(f"{path}.{attribute}", module)
    read = storage.get_study_name_from_id if attribute == "_study_id" else storage.get_trial
    assert read(getattr(value, attribute)), changed(f"{path}.{attribute}", module)


@pytest.mark.parametrize(("module", "model", "columns", "key"), TABLES)
def test_a_table_has_the_expected_columns(module: str, model: str, columns: str, key: str):
    table = resolve(f"{RDB}.models:{model}.__table__", module)
    surrogate = {column.name for column in table.primary_key}  # counted by the database
    assert {column.name for column in table.columns} - surrogate == set(columns.split()) - surrogate, changed(
        model, module
    )
    keys = [{column.name for column in constraint.columns} for constraint in table.constraints]
    assert set(key.split()) in keys, changed(f"the key of {model}", module)


@pytest.mark.parametrize(("module", "model", "name"), NAMES_OF_TABLES)
def test_a_table_has_the_expected_name(module: str, model: str, name: str):
    assert resolve(f"{RDB}.models:{model}.__tablename__", module) == name, changed(model, module)


def test_the_cache_around_a_storage_reads_through_a_call_with_retries():
    cache = resolve("optuna.storages:_CachedStorage", RETRY)
    assert "self._backend._get_trials(" in inspect.getsource(cache), changed("how its cache reads", RETRY)


def test_a_study_in_the_list_of_studies_has_an_id():
    frozen = resolve("optuna.study._frozen:FrozenStudy", STORAGE)
    assert "_study_id" in vars(frozen("name", optuna.study.StudyDirection.MAXIMIZE, {}, {}, 7)), changed(
        "FrozenStudy._study_id", STORAGE
    )


def test_a_study_in_memory_knows_its_distributions():
    study = resolve("optuna.storages._in_memory:_StudyInfo", "search/study/sampling/history.py")
    assert study("name", []).param_distribution == {}, changed("_StudyInfo", "search/study/sampling/history.py")


def test_tpe_calls_the_logarithm_that_we_replace():
    module, name = "search/study/sampling/samplers.py", "optuna.samplers._tpe:_truncnorm"
    source = inspect.getsource(resolve(name, module))  # the function itself may be replaced in this process
    assert "def _log_ndtr(a: np.ndarray)" in source, changed(f"{name}._log_ndtr", module)
    assert "_log_diff(_log_ndtr(b), _log_ndtr(a))" in source, changed(f"{name}._log_ndtr", module)
