"""What `study.optimize` does with a function, a worker does: values, parameters, states, errors and warnings."""

from __future__ import annotations

import asyncio
import copy
import enum
import inspect
import logging
import multiprocessing
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import plain_functions
import pytest
import torch
from answering import EVENTS, Call, asker, file_spec

from objectives.spec import ObjectiveSpec
from search.executors.base import Failed, Returned, Unusable

FILE = Path(plain_functions.__file__)
FUNCTIONS = [
    name
    for name, function in vars(plain_functions).items()
    if inspect.isfunction(function) and function.__module__ == plain_functions.__name__
]
TRIALS = 6


def study() -> optuna.Study:
    return optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=3, n_startup_trials=2),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=1),
    )


def facts(trial: optuna.trial.FrozenTrial) -> dict[str, object]:
    return {
        "state": trial.state.name,
        "values": trial.values,
        "params": trial.params,
        "distributions": trial.distributions,
        "intermediate_values": trial.intermediate_values,
        "user_attrs": trial.user_attrs,
        "constraints": trial.constraints,
    }


def called(name: str, engine: str, trials: int) -> tuple[optuna.Study, list[Call]]:
    with asker(ObjectiveSpec(f"{FILE}:{name}"), engine, study()) as here:
        return here.study, [here.run() for _ in range(trials)]


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gives_what_it_gives_in_optuna(name: str):
    function, raised = getattr(plain_functions, name), []

    def recorded(trial: optuna.Trial) -> object:
        try:
            return function(trial)
        except Exception as error:
            raised.append(error)
            raise

    expected = study()
    with warnings.catch_warnings(record=True) as expected_warnings:
        warnings.simplefilter("always")
        expected.optimize(recorded, n_trials=TRIALS, catch=(Exception,))
    with warnings.catch_warnings(record=True) as shown_warnings:
        warnings.simplefilter("always")
        found, calls = called(name, "inline", TRIALS)
    assert [facts(trial) for trial in found.trials] == [facts(trial) for trial in expected.trials]
    failed = [call.end for call in calls if isinstance(call.end, Failed)]
    errors = [error for error in raised if not isinstance(error, optuna.TrialPruned)]
    if errors:
        assert [end.message for end in failed] == [
            f"{type(error).__name__}: {error}".removesuffix(": ") for error in errors
        ]
    # What other tests have left open is found at any time.
    shown = [warning for warning in shown_warnings if warning.category is not ResourceWarning]
    wanted = [warning for warning in expected_warnings if warning.category is not ResourceWarning]
    assert [text(warning) for warning in shown] == [text(warning) for warning in wanted]
    assert {Path(warning.filename) for warning in shown} <= {FILE}
    assert all(call.asked[-1].method == "output" for call in calls)


def text(warning: warnings.WarningMessage) -> tuple[str, str]:
    return warning.category.__name__, str(warning.message)


@pytest.mark.parametrize("name", ["nothing", "not_a_number", "an_array"])
def test_an_unusable_value_has_the_text_of_optuna(name: str, caplog: pytest.LogCaptureFixture):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING, "optuna"):
            study().optimize(getattr(plain_functions, name), n_trials=1)
    finally:
        optuna.logging.disable_propagation()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
    _, (call,) = called(name, "inline", 1)
    assert isinstance(call.end, Failed)
    assert call.end.kind == "error"
    assert f"error: {call.end.message.removeprefix('ValueError: ')}" in caplog.text


@pytest.mark.parametrize("name", ["every_kind", "reports", "raises", "old_names", "about_itself"])
def test_a_worker_process_gives_the_same(name: str):
    with warnings.catch_warnings(action="ignore"):  # the other test compares them
        (inline, at_hand), (local, sent) = called(name, "inline", 4), called(name, "local", 4)
    assert [facts(trial) for trial in local.trials] == [facts(trial) for trial in inline.trials]
    assert [(call.asked[:-1], type(call.end)) for call in sent] == [
        (call.asked[:-1], type(call.end)) for call in at_hand
    ]


def test_a_pruned_function_returns_no_value():
    _, (call,) = called("pruned_at_once", "inline", 1)
    assert call.end == Returned(None)


def test_numbers_of_other_libraries_become_pythons():
    def objective(trial: Any) -> Any:
        x = trial.suggest_float("x", np.float32(0), np.float64(1), log=np.bool_(False))
        n = trial.suggest_int("n", np.int64(1), torch.tensor(5), step=np.int64(2))
        c = trial.suggest_categorical("c", np.array([1, 2, 4]))
        d = trial.suggest_float("d", Decimal("0.5"), 0.5)
        trial.report(np.float32(x), np.int64(3))
        return torch.tensor(x + n + int(c) + d)

    with asker(objective, study=study()) as here:
        calls = [here.run() for _ in range(4)]
    assert all(isinstance(call.end, Returned) for call in calls)
    values = [value for call in calls for asked in call.asked for value in (*asked.arguments, *asked.keywords.values())]
    plain = {value for value in values if not isinstance(value, list)} | {
        n for v in values if isinstance(v, list) for n in v
    }
    assert {type(value) for value in plain} <= {str, int, float, bool, type(None)}


@pytest.mark.parametrize("value", ["0.5", "5", "55", b"1", object(), ["1"]])
def test_a_value_that_is_no_number_fails_the_trial(value: object):
    with asker(lambda trial: value if value.__class__ is not object else object()) as here:
        end = here.run().end
    assert isinstance(end, Failed)
    assert "could not be cast to float" in end.message


@pytest.mark.parametrize(("value", "count"), [((0.1, 0.2), 2), ([1, 2, 3], 3), ([], 0)])
def test_several_values_can_never_be_searched(value: object, count: int):
    with asker(lambda trial: value) as here:
        end = here.run().end
    assert isinstance(end, Unusable)
    assert f"returned {count} values, {value}" in end.message
    assert "Return one number" in end.message


class Adam:
    pass


class Color(str, enum.Enum):  # noqa: UP042 - as most people write it
    RED = "red"


OBJECTS = [Adam, len, (1, 2), [3], Color.RED, np.float32(0.5), None]
STORED = ["Adam", "len", "(1, 2)", "[3]", "red", 0.5, None]


def test_a_function_gets_its_own_objects_back_and_the_study_plain_values():
    def objective(trial: Any) -> float:
        from answering import EVENTS

        choices = EVENTS["choices"]
        choice = trial.suggest_categorical("choice", choices)
        assert any(choice is given for given in choices)
        assert trial.params == {"choice": choice}
        return 1.0

    EVENTS["choices"] = OBJECTS
    with asker(objective) as here:
        calls = [here.run() for _ in range(3)]
    assert [call.end for call in calls] == [Returned(1.0)] * 3
    assert calls[0].asked[0].arguments == ("choice", STORED)


@pytest.mark.parametrize("choice", [Adam(), {1, 2}, torch.nn.ReLU(), (1, Adam)])
def test_a_choice_that_cannot_be_stored_is_refused_by_name(choice: object):
    with asker(lambda trial: trial.suggest_categorical("optimizer", ["sgd", choice])) as here:
        end = here.run().end
    assert isinstance(end, Failed)
    assert "suggest_categorical('optimizer'): a study cannot store the choice " in end.message
    assert "look the object up" in end.message


def test_what_a_trial_of_a_search_has_not_is_said():
    def objective(trial: Any) -> float:
        with pytest.raises(
            AttributeError, match=r"the trial has no 'suggest_text'; it has .*suggest_float.*user_attrs"
        ):
            trial.suggest_text("x")
        with pytest.raises(AttributeError, match=r"the study has no 'sampler'; it has best_params, .*stop"):
            _ = trial.study.sampler
        with pytest.raises(TypeError, match="cannot be sent to another process"):
            pickle.dumps(trial)
        assert copy.deepcopy(trial) is trial
        return 1.0

    with asker(objective) as here:
        assert here.run().end == Returned(1.0)


def test_the_study_can_be_stopped_and_marked():
    def objective(trial: Any) -> float:
        trial.study.set_user_attr("said", "enough")
        trial.study.stop()
        return 1.0

    with asker(objective) as here:
        call = here.run()
    assert [asked.method for asked in call.asked] == ["study.set_user_attr", "study.stop", "output"]
    assert here.study.user_attrs == {"said": "enough"}
    assert "RuntimeError" in str(call.end)  # of an optuna.Study that runs no search


def test_a_question_from_another_thread_says_what_to_do():
    def objective(trial: Any) -> float:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(trial.suggest_float, "x", 0, 1).result()
        return 1.0

    with asker(objective) as here:
        end = here.run().end
    assert isinstance(end, Failed)
    assert "suggest_float was called in another thread or process than the objective" in end.message


def test_a_forked_process_cannot_ask():
    def objective(trial: Any) -> float:
        queue = multiprocessing.get_context("fork").SimpleQueue()

        def child() -> None:
            try:
                trial.report(1.0, 0)
            except RuntimeError as error:
                queue.put(str(error))

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        trial.set_user_attr("said", queue.get())
        return 1.0

    with asker(objective, "local") as here:
        call = here.run()
    assert call.end == Returned(1.0)
    assert "report was called in another thread or process" in call.trial.user_attrs["said"]


def test_nested_searches_and_event_loops_run():
    def objective(trial: Any) -> float:
        async def ask() -> float:
            await asyncio.sleep(0)
            return trial.suggest_float("x", 0, 1)

        inner = optuna.create_study()
        inner.optimize(lambda other: other.suggest_float("y", 0, 1), n_trials=2)
        return asyncio.run(ask()) + inner.best_value

    with asker(objective) as here:
        assert isinstance(here.run().end, Returned)


def test_a_call_has_its_own_context_variables(tmp_path: Path):
    script = """
import contextvars
variable = contextvars.ContextVar("variable", default=0)

def objective(trial):
    variable.set(variable.get() + 1)
    trial.suggest_float("x", 0, 1)
    return variable.get()
"""
    with asker(file_spec(tmp_path, script)) as here:
        assert [here.run().end, here.run().end] == [Returned(1.0), Returned(1.0)]


def test_a_worker_loads_only_what_the_function_imports(tmp_path: Path):
    script = """
import sys

def objective(trial):
    trial.suggest_float("x", 0, 1)
    print(*({"torch", "optuna", "mlflow", "search"} & set(sys.modules)), sys.argv[1:])
    return 1.0
"""
    with asker(file_spec(tmp_path, script), "local") as here:
        assert here.run().output == "[]\n"
        (ready,) = here.executor.workers()
    assert (ready.device, bool(ready.name)) == ("cpu", True)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError("full")])
def test_what_ends_a_process_ends_only_the_trial(error: BaseException):
    def objective(trial: Any) -> float:
        print("last words")
        raise error

    with asker(objective, "local") as here:
        first, second = here.run(), here.run()
    assert isinstance(second.end, Failed)
    assert second.end.kind == ("out_of_memory" if isinstance(error, MemoryError) else "error")
    assert first.output == "last words\n"
