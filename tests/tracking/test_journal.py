"""The journal loses no write, delivers none twice, and never lowers a step."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shell import environment

from search.tracking.journal import Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal" / "study.db"


def test_writes_come_back_in_order_until_they_are_delivered(path: Path):
    journal = Journal(path)
    journal.append("trial-0", "run", {"name": "one"})
    journal.append("study", "file", {"path": "a"}, b"\0\xff")
    journal.append("trial-0", "end", {"status": "FINISHED"})
    writes = journal.pending(limit=2)
    assert [(write.run, write.kind, write.body, write.content) for write in writes] == [
        ("trial-0", "run", {"name": "one"}, None),
        ("study", "file", {"path": "a"}, b"\0\xff"),
    ]
    journal.delivered(*(write.id for write in writes))
    assert [write.kind for write in journal.pending(limit=9)] == ["end"]
    assert journal.n_pending() == 1


def test_ids_and_steps_of_a_run_outlive_its_writes(path: Path):
    journal = Journal(path)
    assert (journal.knows("trial-0"), journal.mlflow_id("trial-0"), journal.last_step("trial-0")) == (False, None, 0)
    journal.append("trial-0", "metrics", {}, step=4)
    journal.append("trial-0", "metrics", {}, step=2)
    journal.set_mlflow_id("trial-0", "abc")
    journal.delivered(*(write.id for write in journal.pending(9)))
    journal.close()
    again = Journal(path)
    assert (again.knows("trial-0"), again.mlflow_id("trial-0"), again.last_step("trial-0")) == (True, "abc", 4)
    assert again.n_pending() == 0


def test_ids_are_never_reused(path: Path):
    """A late acknowledgement must not delete a later write."""
    journal = Journal(path)
    journal.append("a", "tags", {"n": 1})
    (first,) = journal.pending(9)
    journal.delivered(first.id)
    journal.append("a", "tags", {"n": 2})
    journal.delivered(first.id)
    assert [write.body for write in journal.pending(9)] == [{"n": 2}]


def test_the_file_shrinks_when_large_files_have_passed(path: Path):
    journal = Journal(path)
    for number in range(20):
        journal.append(f"trial-{number}", "file", {}, bytes(1_000_000))
    journal.delivered(*(write.id for write in journal.pending(99)))
    journal.close()
    assert sum(file.stat().st_size for file in path.parent.iterdir()) < 2_000_000


def test_writes_survive_a_kill(path: Path):
    program = f"""
        import os, signal
        from pathlib import Path
        from search.tracking.journal import Journal

        journal = Journal(Path({str(path)!r}))
        for number in range(50):
            journal.append("trial-0", "metrics", {{"number": number}}, step=number)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=environment(), check=False)
    assert killed.returncode == -signal.SIGKILL
    journal = Journal(path)
    assert [write.body["number"] for write in journal.pending(99)] == list(range(50))
    assert journal.last_step("trial-0") == 49


BODIES = st.dictionaries(
    st.text(), st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False), st.text(), st.none())
)


@given(st.lists(st.tuples(st.text(), BODIES, st.one_of(st.none(), st.binary())), max_size=8))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_write_can_be_read_back(tmp_path: Path, writes: list[tuple[str, dict[str, object], bytes | None]]):
    path = tmp_path / "any.db"
    path.unlink(missing_ok=True)
    journal = Journal(path)
    for run, body, content in writes:
        journal.append(run, "tags", body, content)
    assert [(write.run, write.body, write.content) for write in journal.pending(99)] == writes
    journal.close()
