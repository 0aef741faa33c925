"""Ctrl-C, SIGTERM and a closed terminal: stop in a state from which the same command resumes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Raised where the signal arrived. It is not an `Exception`, so that no handler takes it for a failure.

    Every write is atomic, so it is safe to stop anywhere.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interruption:
    """Handles signals while its block runs; outside the main thread, which gets no signals, it does nothing.

    Inside `graceful` the first signal only sets `number`, for a loop that checks it and saves its work. Elsewhere it
    raises `Interrupted`. A second Ctrl-C ends the process immediately, and its child processes end with it.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._graceful = False
        self._before: dict[int, Any] = {}
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def __enter__(self) -> Self:
        for number in SIGNALS if threading.current_thread() is threading.main_thread() else ():
            if signal.getsignal(number) != signal.SIG_IGN:  # set by nohup or by a script's background job
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def graceful(self) -> Iterator[None]:
        """Only set `number` when a signal arrives during this block."""
        self._graceful = True
        try:
            yield
        finally:
            self._graceful = False

    def pause(self, seconds: float) -> None:
        """Sleep. Raises Interrupted as soon as a signal arrives, even inside `graceful`."""
        deadline = time.monotonic() + seconds
        while self.number is None and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        if self.number is not None:
            raise Interrupted(self.number)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            if number == signal.SIGINT:
                os._exit(128 + number)
            return
        self.number = number
        if number == signal.SIGHUP:
            self._silence_terminal()
        if not self._graceful:
            raise Interrupted(number)

    def _silence_terminal(self) -> None:
        """Redirect output to nowhere: a write to a closed terminal would fail."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in self._terminals:
            os.dup2(nowhere, descriptor)
