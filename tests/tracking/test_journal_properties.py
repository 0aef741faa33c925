"""The journal returns its writes in order, also after it was opened again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from search.tracking.delivery import batches
from search.tracking.journal import Journal, Write
from search.tracking.lengths import METRICS_PER_REQUEST

RUNS = st.sampled_from(["study", "trial-0", "trial-1", "trial-\n\u00e9"])
KINDS = st.sampled_from(["run", "metrics", "file", "pictures", "tags", "end"])
VALUES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=20)
BODIES = st.dictionaries(st.text(max_size=8), VALUES | st.lists(VALUES, max_size=3), max_size=4)


class JournalModel(RuleBasedStateMachine):
    """A journal beside a list of its expected writes, closed and opened again at random."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "journal.db"
        self.journal = Journal(self.path)
        self.writes: list[tuple[str, str, dict[str, Any], bytes | None]] = []
        self.steps: dict[str, int] = {}
        self.ids: dict[str, str] = {}

    def teardown(self) -> None:
        self.journal.close()
        self.folder.cleanup()

    @rule(run=RUNS, kind=KINDS, body=BODIES, content=st.none() | st.binary(max_size=50), step=st.integers(0, 1000))
    def append(self, run: str, kind: Any, body: dict[str, Any], content: bytes | None, step: int) -> None:
        self.journal.append(run, kind, body, content, step=step)
        self.writes.append((run, kind, body, content))
        self.steps[run] = max(step, self.steps.get(run, 0))

    @rule(count=st.integers(0, 5))
    def deliver(self, count: int) -> None:
        writes = self.journal.pending(limit=count)
        assert len(writes) == min(count, len(self.writes))
        self.journal.delivered(*(write.id for write in writes))
        del self.writes[: len(writes)]

    @rule(run=RUNS, mlflow_id=st.text("0123456789abcdef", min_size=1))
    def name(self, run: str, mlflow_id: str) -> None:
        self.journal.set_mlflow_id(run, mlflow_id)
        self.ids[run] = mlflow_id

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self.journal = Journal(self.path)

    @invariant()
    def holds_what_was_appended_and_not_delivered(self) -> None:
        pending = self.journal.pending(limit=1000)
        assert [(write.run, write.kind, write.body, write.content) for write in pending] == self.writes
        assert self.journal.n_pending() == len(self.writes)
        assert [write.id for write in pending] == sorted({write.id for write in pending})

    @invariant()
    def remembers_steps_and_ids_of_delivered_writes(self) -> None:
        for run in ("study", "trial-0", "trial-1", "trial-\n\u00e9"):
            assert self.journal.last_step(run) == self.steps.get(run, 0)
            assert self.journal.mlflow_id(run) == self.ids.get(run)
            assert self.journal.knows(run) == (run in self.steps or run in self.ids)


JournalModel.TestCase.settings = settings(max_examples=20, stateful_step_count=12)
TestJournal = JournalModel.TestCase


WRITES = st.lists(
    st.tuples(RUNS, KINDS, st.integers(0, METRICS_PER_REQUEST)).map(
        lambda drawn: (drawn[0], drawn[1], {"values": {str(i): 0.0 for i in range(drawn[2])}})
    ),
    max_size=12,
)


@given(WRITES)
@settings(max_examples=50)
def test_batches_keep_each_runs_order_and_fit_into_one_request(drawn: list[tuple[str, Any, dict[str, Any]]]):
    writes = [Write(number, run, kind, body, None) for number, (run, kind, body) in enumerate(drawn)]
    made = list(batches(writes))
    assert sorted(write.id for batch in made for write in batch) == list(range(len(writes)))
    for run in {write.run for write in writes}:
        ids = [write.id for batch in made for write in batch if write.run == run]
        assert ids == sorted(ids)
    for batch in made:
        assert len({(write.run, write.kind) for write in batch}) == 1
        if batch[0].kind == "metrics":
            assert sum(len(write.body["values"]) for write in batch) <= METRICS_PER_REQUEST
