"""Trials that run out of memory, diverge or take their worker down: each says why, the others do not notice."""

from __future__ import annotations

import json

import pytest
from harness import BOWL, Place, say
from shell import rows

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

FAULTS = {
    "memory": [2, 7, 11, 16, 21, 27, 31, 36, 42, 47],
    "nan": [3, 9, 19, 29, 39],
    "infinity": [5, 14, 24, 34, 44],
    "segfault": [12],
}


def test_10_out_of_memory_and_10_diverged_of_50(place: Place):
    place.env = {"BOWL_FAULTS": json.dumps(FAULTS)}
    said = place.finish(*BOWL, "--trials", 50, "--jobs", 2, "--pruner", "none")
    counts = place.assert_whole(50)
    query = """
        SELECT t.number, max(CASE a.key WHEN 'failure' THEN a.value_json END),
               max(CASE a.key WHEN 'failure_message' THEN a.value_json END)
        FROM trials t JOIN trial_user_attributes a USING (trial_id) WHERE t.state = 'FAIL' GROUP BY 1
    """
    failed = {number: (json.loads(kind), json.loads(message)) for number, kind, message in rows(place.optuna_db, query)}
    by_kind = {kind: sorted(n for n, (k, _) in failed.items() if k == kind) for kind in {k for k, _ in failed.values()}}
    say(f"failed: {by_kind}; tried again: {said.count('is tried again')}")
    assert by_kind == {
        "out_of_memory": FAULTS["memory"],
        "diverged": sorted(FAULTS["nan"] + FAULTS["infinity"]),
        "crashed": FAULTS["segfault"],
    }
    assert counts["states"] == {"COMPLETE": 29, "FAIL": 21}
    assert counts["statuses"] == {"FINISHED": 30, "FAILED": 21}  # the parent is a run as well
    assert "12.00 GiB" in failed[2][1]
    assert failed[3][1] == "loss became nan at epoch 2"
    assert failed[5][1] == "loss became inf at epoch 2"
    assert "tried 3 times" in failed[12][1]
    assert "SIGSEGV" in failed[12][1]
    assert failed[12][1].endswith("about to read what is not there")
    say(f"the crash is told as: {failed[12][1]!r}")
