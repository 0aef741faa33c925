"""Signals during a search."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from search.common.signals import Interrupted, Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_library_swallows_still_ends_the_search(number: int):
    with Interruption() as interruption:
        interruption.check()  # nothing has arrived
        with contextlib.suppress(BaseException):  # as an import does that tries one library after another
            os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=rf"^{number:d}$"):
            interruption.check()


def test_a_second_ctrl_c_spares_a_process_that_must_live():
    """The block inside another one, as a search has it, does not end the process either."""
    with Interruption(ends_process=False), Interruption() as inner, inner.graceful():
        signal.raise_signal(signal.SIGINT)
        assert inner.number == signal.SIGINT
        with pytest.raises(Interrupted, match=rf"^{signal.SIGINT:d}$"):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
