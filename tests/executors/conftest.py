"""Workers that tests of several files train in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from shell import environment
from slots import TOY

from search.executors.local import LocalExecutor


@pytest.fixture(scope="module")
def local() -> Iterator[LocalExecutor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
        executor = LocalExecutor(TOY, "cpu", jobs=2)
        assert executor.ready() == ["cpu", "cpu"]
        yield executor
        executor.close()
