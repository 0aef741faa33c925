"""A search in which kernels fail, after which a worker cannot use its GPU: on a GPU, or simulated."""

from __future__ import annotations

import json
from pathlib import Path

from asserting import ALWAYS, ONCE
from shell import in_process, search

TRIALS = 12


def search_with_faults(folder: Path, device: str) -> str:
    """Run the command with two workers, and check how each trial ended. Returns what it said.

    With CUDA MPS a fault may take the other worker with it, whose trial goes on too.
    """
    starts = folder / "starts"
    words = ("--objective", "asserting:Asserting", "--device", device, "--jobs", 2, "--pruner", "none")
    goal = ("--trials", TRIALS, "--confirm", 0, "--no-register", "--checkpoint-interval", 0)
    result = search(*words, *goal, cwd=folder, env={"TOY_STARTS": str(starts), "TOY_PAUSE_S": "0.2"})
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    trials = json.loads(in_process("show", "toy", "--json", "--workspace", folder).stdout)["trials"]
    failures = {trial["number"]: trial["failure"] for trial in trials if trial["state"] != "COMPLETE"}
    assert (len(trials), failures) == (TRIALS, {ALWAYS: "crashed"}), said
    assert "tried 3 times; its worker (pid " in trials[ALWAYS]["failure_message"]
    assert "cannot use its GPU any more after" in said
    assert f"trial {ONCE} is tried again: " in said
    steps: dict[int, list[int]] = {}
    for line in starts.read_text().splitlines():
        number, step = map(int, line.split())
        steps.setdefault(number, []).append(step)
    # A second try goes on from the checkpoint of the step before the fault.
    assert steps[ONCE][:2] == [0, 1], steps
    assert steps[ALWAYS][:3] == [0, 1, 1], steps
    assert set(steps[ALWAYS]) == {0, 1}, steps
    return said
