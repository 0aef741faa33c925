"""What a function prints is collected, bounded and handed over before its end; what others print is not."""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import closing
from typing import Any

import optuna
import pytest
from answering import EVENTS, Asker, asker, function_spec

from objectives.functions.output import MAX_BYTES
from search.executors.base import Failed, Lost, Returned
from search.executors.ray import RayExecutor

ENGINES = ["inline", "local"]


@pytest.mark.parametrize("engine", ENGINES)
def test_each_call_gives_what_it_printed(engine: str):
    def objective(trial: Any) -> float:
        print("begins", trial.number)
        trial.suggest_float("x", 0, 1)
        print("müde", file=sys.stderr)
        return 1.0

    with asker(objective, engine) as here:
        assert [here.run().output, here.run().output] == ["begins 0\nmüde\n", "begins 1\nmüde\n"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_failed_call_gives_it_too(engine: str):
    def objective(trial: Any) -> float:
        print("before the end")
        raise ValueError("bad")

    with asker(objective, engine) as here:
        call = here.run()
    assert call.output == "before the end\n"
    assert isinstance(call.end, Failed)
    assert "in objective" in call.end.traceback


@pytest.mark.parametrize("engine", ENGINES)
def test_a_long_output_loses_its_middle(engine: str):
    def objective(trial: Any) -> float:
        print("first line")
        for step in range(30):
            for _ in range(1000):
                print(f"{step:5}" + "x" * 94)
            trial.report(0.0, step)
        print("last line")
        return 1.0

    with asker(objective, engine) as here:
        output = here.run().output
        assert "first line" not in here.run().output[20:]
    printed = 30 * 1000 * 100 + len("first line\nlast line\n")
    assert output.startswith("first line\n")
    assert output.endswith("last line\n")
    assert f"\n... {printed - MAX_BYTES:,} bytes are left out ...\n" in output
    assert len(output) < MAX_BYTES + 100


def test_in_a_worker_process_it_includes_child_processes_and_c_code():
    def objective(trial: Any) -> float:
        import ctypes
        import subprocess

        subprocess.run(["echo", "from a child"], check=True)
        ctypes.CDLL(None).puts(b"from C")
        return 1.0

    with asker(objective, "local") as here:
        assert sorted(here.run().output.splitlines()) == ["from C", "from a child"]


def test_a_dead_worker_leaves_its_last_lines():
    def objective(trial: Any) -> float:
        import os

        print("about to die")
        trial.suggest_float("x", 0, 1)
        os._exit(5)

    with asker(objective, "local") as here:
        end = here.run().end
    assert isinstance(end, Lost)
    assert "exited with status 5\nabout to die" in end.reason


def test_in_this_process_others_print_as_before(capsys: pytest.CaptureFixture[str]):
    go, done = threading.Event(), threading.Event()

    def print_aside() -> None:
        go.wait(10)
        print("from the display")
        done.set()

    other = threading.Thread(target=print_aside)
    other.start()

    def objective(trial: Any) -> float:
        from answering import EVENTS

        thread = threading.Thread(target=print, args=("from a thread of the function",))
        thread.start()
        thread.join()
        EVENTS["go"].set()
        EVENTS["done"].wait(10)
        return 1.0

    EVENTS.update(go=go, done=done)
    with asker(objective) as here:
        call = here.start()
        assert capsys.readouterr().out == ""
        print("between")
        event = here.event()
        assert getattr(event, "arguments", None) == ("from a thread of the function\n",)
    other.join()
    assert capsys.readouterr().out == "between\nfrom the display\n"
    assert call.trial.number == 0


def test_in_this_process_a_kept_stream_stays_usable(capsys: pytest.CaptureFixture[str]):
    def objective(trial: Any) -> float:
        import logging

        logger = logging.getLogger("of the function")
        if not logger.handlers:
            logger.addHandler(logging.StreamHandler())
        logger.warning("in call %d", trial.number)
        return 1.0

    with asker(objective) as here:
        assert [here.run().output, here.run().output] == ["in call 0\n", "in call 1\n"]
    logging.getLogger("of the function").warning("after the calls")
    assert capsys.readouterr().err == "after the calls\n"
    logging.getLogger("of the function").handlers.clear()


def test_in_this_process_a_function_may_redirect_its_output():
    def objective(trial: Any) -> float:
        import contextlib
        import io

        with contextlib.redirect_stdout(io.StringIO()) as text:
            print("kept")
            trial.suggest_float("x", 0, 1)
            print("kept, too")
        print("shown")
        trial.set_user_attr("kept", text.getvalue())
        return 1.0

    before = sys.stdout
    with asker(objective) as here:
        call = here.run()
    assert (call.end, call.output) == (Returned(1.0), "shown\n")
    assert call.trial.user_attrs == {"kept": "kept\nkept, too\n"}
    assert sys.stdout is before


def test_printing_without_end_fills_no_disk():
    def objective(trial: Any) -> float:
        import os

        sizes = []
        for step in range(40):
            print("x" * 100_000)
            trial.report(0.0, step)
            sizes.append(os.fstat(1).st_size)
        return max(sizes)

    with asker(objective, "local") as here:
        end = here.run().end
    assert isinstance(end, Returned)
    assert 0 < (end.value or 0) < 6 * MAX_BYTES


@pytest.mark.slow
def test_in_an_actor_of_ray_nothing_is_left_in_its_log():
    def objective(trial: Any) -> float:
        import os
        import sys

        print("in", trial.number, sys.argv[1:])
        os.system("echo from a child")
        trial.suggest_float("x", 0, 1)
        if trial.number == 1:
            os._exit(5)
        return 1.0

    executor = RayExecutor(function_spec(objective), "cpu", 1, notice=print)
    with closing(executor):
        here = Asker(executor, optuna.create_study())
        first, second = here.run(), here.run()
    assert (first.end, first.output) == (Returned(1.0), "in 0 []\nfrom a child\n")
    assert isinstance(second.end, Lost)
    assert second.end.reason.endswith("\nin 1 []\nfrom a child")
