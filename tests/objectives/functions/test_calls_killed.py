"""A call that is abandoned ends, and its `finally` blocks run."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import pytest
from answering import asker

from objectives.functions import call as calls
from search.executors.base import Asked, Failed, Returned

SAID: list[str] = []


def tidy(trial: Any) -> float:
    from test_calls_killed import SAID

    try:
        trial.suggest_float("x", 0, 1)
        return 1.0
    except Exception:
        SAID.append("an exception")
        raise
    finally:
        SAID.append("tidied up")


def stubborn(trial: Any) -> float:
    for step in range(1000):
        with contextlib.suppress(BaseException):
            trial.report(0.0, step)
    return 1.0


def asks_at_its_end(trial: Any) -> float:
    try:
        trial.suggest_float("x", 0, 1)
    finally:
        trial.set_user_attr("ended", True)
    return 1.0


def raises_at_its_end(trial: Any) -> float:
    try:
        trial.suggest_float("x", 0, 1)
    finally:
        sys.exit("no way out")


def abandoned(function: Any, until: str) -> None:
    """Start the function, leave it at a question, and start the next call."""
    with asker(function) as here:
        here.run(until=until)
        assert calls.current is not None
        call = here.run(until=until)
        assert len(call.asked) == 1


def test_the_next_start_runs_the_finally_blocks():
    SAID.clear()
    abandoned(tidy, "suggest_float")
    assert SAID == ["tidied up", "tidied up"]  # the second one when the executor was closed
    assert calls.current is None


def test_a_call_that_swallows_everything_ends():
    abandoned(stubborn, "report")


def test_a_question_while_it_ends_is_not_asked():
    abandoned(asks_at_its_end, "suggest_float")


def test_an_error_while_it_ends_is_dropped():
    abandoned(raises_at_its_end, "suggest_float")


def test_a_worker_process_goes_on_after_an_abandoned_call():
    def objective(trial: Any) -> float:
        try:
            return float(trial.suggest_float("x", 0, 1))
        finally:
            print("tidied up")

    with asker(objective, "local") as here:
        here.run(until="suggest_float")
        call = here.run()
    assert isinstance(call.end, Returned)
    assert call.output == "tidied up\n"


def test_an_end_that_nobody_wants_is_dropped():
    def objective(trial: Any) -> float:
        raise ValueError("of the first") if trial.number == 0 else ValueError("of the second")

    with asker(objective) as here:
        here.run(until="output")
        call = here.run()
    assert isinstance(call.end, Failed)
    assert call.end.message == "ValueError: of the second"


def test_answers_reach_a_nested_greenlet():
    def objective(trial: Any) -> float:
        import greenlet

        inner = greenlet.greenlet(lambda: trial.suggest_float("x", 2, 2))
        return float(inner.switch())

    with asker(objective) as here:
        call = here.run()
    assert call.end == Returned(2.0)
    assert isinstance(call.asked[0], Asked)


def test_an_interruption_ends_more_than_the_trial():
    def objective(trial: Any) -> float:
        trial.suggest_float("x", 0, 1)
        raise KeyboardInterrupt

    with asker(objective) as here, pytest.raises(KeyboardInterrupt, match="^$"):
        here.run()
    assert calls.current is None


def test_a_function_that_reads_its_standard_input_does_not_wait():
    def objective(trial: Any) -> float:
        import subprocess

        subprocess.run(["cat"], check=True)
        input("How many? ")
        return 1.0

    with asker(objective, "local") as here:
        end = here.run().end
    assert isinstance(end, Failed)
    assert end.message.startswith("EOFError: ")
