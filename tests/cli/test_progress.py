"""Displays of a running search: plain lines in a pipe, a live table in a terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState
from rich.console import Console
from shell import environment

from search.cli.progress import SPARK_CHARACTERS, LiveDisplay, PlainDisplay, describe_end, sparkline
from search.common.direction import Direction
from search.coordinator.progress import RunningTrial, SearchProgress, Standing
from search.study.records import TrialRecord

BEGIN = datetime(2026, 1, 1)


def a_trial(number: int, state: TrialState, value: float | None, **other: Any) -> TrialRecord:
    values: dict[str, Any] = {
        "number": number,
        "state": state,
        "value": value,
        "params": {},
        "label": "mlp-64 adam 1.0e-3",
        "baseline": None,
        "failure": None,
        "failure_message": None,
        "metrics": {"epochs": 1.5},
        "slot": 0,
        "started": BEGIN,
        "ended": BEGIN + timedelta(seconds=4.25),
        "run_id": None,
        "intermediate": {},
    }
    return TrialRecord(**{**values, **other})


COMPLETE = a_trial(0, TrialState.COMPLETE, 0.91, baseline="tutorial")
BETTER = a_trial(1, TrialState.COMPLETE, 0.95)
PRUNED = a_trial(2, TrialState.PRUNED, 0.5)
FAILED = a_trial(3, TrialState.FAIL, None, failure="diverged", failure_message="the loss became nan\nat epoch 2")


def standing(*ended: TrialRecord, maximize: bool = True, **other: Any) -> Standing:
    return Standing(10, ended, Direction.of(maximize=maximize), **other)


def a_snapshot(*ended: TrialRecord, running: Sequence[RunningTrial] = (), trouble: str | None = None) -> SearchProgress:
    return SearchProgress(standing(*ended), running, "val_accuracy", trouble)


RUNNING = RunningTrial(7, "cnn-2x16 sgd 1.0e-1", 3.0, 20, (0.1, 0.5, 0.8))


# Plain lines --------------------------------------------------------------------------------------------------------


def plain() -> tuple[PlainDisplay, io.StringIO]:
    written = io.StringIO()
    return PlainDisplay(Console(highlight=False, emoji=False, file=written, width=40)), written


def test_names_are_printed_without_markup_or_emoji():
    display, written = plain()
    display.notice("python -m search predict folder:ok:0-3 [red]")
    assert written.getvalue() == "python -m search predict folder:ok:0-3 [red]\n"


def test_each_trial_is_one_line_even_in_a_narrow_pipe():
    display, written = plain()
    display.begin("study mnist", 10, 0)
    ended: list[TrialRecord] = []
    for trial in (COMPLETE, BETTER, PRUNED, FAILED):
        ended.append(trial)
        display.trial_ended(trial, standing(*ended))
    display.end()
    assert written.getvalue().splitlines() == [
        "study mnist: 0 of 10 trials done",
        "[1/10]  trial 0  mlp-64 adam 1.0e-3  0.9100 in 4.2 s [tutorial]  best 0.9100 (trial 0)",
        "[2/10]  trial 1  mlp-64 adam 1.0e-3  0.9500 in 4.2 s  best 0.9500 (trial 1)",
        "[3/10]  trial 2  mlp-64 adam 1.0e-3  pruned at 0.5000 after 1.5 epochs in 4.2 s  best 0.9500 (trial 1)",
        "[4/10]  trial 3  mlp-64 adam 1.0e-3  failed (diverged): the loss became nan  best 0.9500 (trial 1)",
    ]


def test_a_line_says_how_long_the_whole_search_still_takes():
    display, written = plain()
    counts = standing(COMPLETE)
    counts.left_s = 3700.0
    display.trial_ended(COMPLETE, counts)
    assert written.getvalue().endswith("best 0.9100 (trial 0)  about 1 h 1 min left\n")


def test_confirmations_and_refits_are_called_trainings():
    display, written = plain()
    display.begin("confirming the best on fresh seeds", 2, 0, "trainings")
    display.trial_ended(COMPLETE, standing(COMPLETE, unit="trainings"))
    display.begin("training the winner", 1, 0, "trainings")
    display.trial_ended(a_trial(0, TrialState.COMPLETE, None), standing(unit="trainings"))
    assert written.getvalue().splitlines() == [
        "confirming the best on fresh seeds: 0 of 2 trainings done",
        "[1/10]  trial 0  mlp-64 adam 1.0e-3  0.9100 in 4.2 s [tutorial]",
        "training the winner",
        "[0/10]  trial 0  mlp-64 adam 1.0e-3  trained in 4.2 s",
    ]


def test_a_tracking_outage_is_reported_once_and_so_is_its_end():
    display, written = plain()
    for trouble in (None, "refused", "refused", "timed out", None, None):
        display.refresh(a_snapshot(trouble=trouble))
    lines = written.getvalue().splitlines()
    assert [line.split(";")[0] for line in lines] == ["tracking is out of reach (refused)", "tracking is back"]


def test_a_name_with_brackets_is_printed_as_it_is():
    display, written = plain()
    display.notice("[red]folder[/red] [1/2]")
    assert written.getvalue() == "[red]folder[/red] [1/2]\n"


def test_the_best_follows_the_direction_and_counts_completed_trials_only():
    assert standing(COMPLETE, BETTER, PRUNED).best == BETTER
    assert standing(COMPLETE, BETTER, PRUNED, maximize=False).best == COMPLETE
    assert standing(PRUNED, FAILED).best is None
    assert standing(BETTER, a_trial(5, TrialState.COMPLETE, 0.95)).best == BETTER
    assert standing(COMPLETE, a_trial(5, TrialState.COMPLETE, 0.99, constraints={"parameters": 0.1})).best == COMPLETE
    mixed = standing(COMPLETE, PRUNED, FAILED, a_trial(4, TrialState.RUNNING, None))
    assert (mixed.finished, mixed.counts[TrialState.PRUNED]) == (3, 1)


def test_a_trial_without_times_has_none():
    assert describe_end(a_trial(0, TrialState.COMPLETE, 0.5, started=None)) == "0.5000"


# Small things -------------------------------------------------------------------------------------------------------


def test_a_sparkline_rises_with_its_curve():
    assert sparkline([]) == ""
    assert sparkline([0.5]) == sparkline([0.7]) == SPARK_CHARACTERS[0]
    assert sparkline([0, 1]) == SPARK_CHARACTERS[0] + SPARK_CHARACTERS[-1]
    assert sparkline(range(8)) == SPARK_CHARACTERS
    assert sparkline(range(100), width=8) == SPARK_CHARACTERS


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.integers(1, 30))
def test_a_sparkline_is_as_long_as_its_curve_and_no_longer_than_its_width(curve: list[float], width: int):
    line = sparkline(curve, width)
    assert len(line) == min(len(curve), width)
    assert set(line) <= set(SPARK_CHARACTERS)
    shown = curve[-width:]
    assert line[shown.index(min(shown))] == SPARK_CHARACTERS[0]


# A terminal ---------------------------------------------------------------------------------------------------------


def test_the_table_shows_progress():
    written = io.StringIO()
    console = Console(file=written, width=110, force_terminal=True, color_system=None)
    display = LiveDisplay(console)
    display.begin("study mnist", 10, 0)
    snapshot = a_snapshot(COMPLETE, PRUNED, FAILED, running=[RUNNING], trouble="refused")
    display.refresh(snapshot)
    snapshot.standing.left_s = 125.0
    display.refresh(snapshot)
    display.trial_ended(BETTER, standing(COMPLETE, BETTER))
    display.trial_ended(PRUNED, standing(COMPLETE, PRUNED))
    display.trial_ended(FAILED, standing(COMPLETE, FAILED))
    display.end()
    text = written.getvalue()
    for part in (
        "study mnist",
        "3/10 trials",
        "1 pruned",
        "1 failed",
        "best 0.9100 (#000)",
        "#007",
        "cnn-2x16 sgd 1.0e-1",
        "3/20",
        "0.8000",
        sparkline(RUNNING.curve),
        "tracking is out of reach",
        "★ #001",
        "✕ #003 mlp-64 adam 1.0e-3  failed (diverged): the loss became nan",
    ):
        assert part in text, part
    assert "#002" not in text  # only the count of pruned trials
    assert re.search(r"\d s so far, estimating the time left", text)
    assert "about 2 min 5 s left" in text


def test_the_table_of_the_next_phase_erases_nothing():
    written = io.StringIO()
    display = LiveDisplay(Console(file=written, width=110, force_terminal=True, color_system=None))
    display.begin("study mnist", 10, 0)
    display.refresh(a_snapshot(COMPLETE, running=[RUNNING]))
    display.trial_ended(BETTER, standing(COMPLETE, BETTER))
    display.end()
    end = len(written.getvalue())
    display.begin("confirming", 3, 0)
    display.end()
    up = "\x1b[1A"
    assert up in written.getvalue()[:end]
    assert written.getvalue()[end:].count(up) <= 1  # to the line that the table's own end began


def through_a_terminal(program: str) -> str:
    """Return what a program writes to a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    env = environment({"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"})
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    written = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other side was closed
                break
            if not part:
                break
            written += part
    os.close(ours)
    assert process.wait(10) == 0, written.decode()
    return written.decode()


def test_a_terminal_shows_the_table_and_restores_the_cursor():
    program = """
        from search.cli import output
        from search.common.direction import Direction
        from search.coordinator.progress import RunningTrial, SearchProgress, Standing
        from search.cli.progress import LiveDisplay

        display = output.choose_display()
        assert isinstance(display, LiveDisplay), display
        display.begin("study mnist", 10, 0)
        trial = RunningTrial(7, "cnn-2x16 sgd", 3.0, 20, (0.1, 0.8))
        display.refresh(SearchProgress(Standing(10, (), Direction.MAXIMIZE), (trial,), "val_accuracy"))
        display.notice("something worth a line")
        display.end()
    """
    text = through_a_terminal(program)
    assert "0/10 trials" in text
    assert "cnn-2x16 sgd" in text
    assert "something worth a line" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0  # hidden, then shown again


def test_a_pipe_gets_plain_lines():
    program = "from search.cli import output; print(type(output.choose_display()).__name__)"
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True
    )
    assert result.stdout == "PlainDisplay\n"
