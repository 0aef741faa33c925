"""Ctrl-C, SIGTERM and a closed terminal stop a search so that the same command resumes it."""

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
    """A signal arrived. This is not an `Exception`, so no handler takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def is_interruption(error: BaseException) -> bool:
    """True if a signal raised it. With our handlers, a KeyboardInterrupt comes from an objective, not from Ctrl-C."""
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(error, Interrupted) or (isinstance(error, KeyboardInterrupt) and is_default)


class Interruption:
    """Handles signals inside its `with` block. Outside the main thread, which gets no signals, it does nothing.

    Inside `graceful` the first signal only sets `number`. A loop checks it and saves its work. Elsewhere the signal
    raises `Interrupted`. A second Ctrl-C ends the process immediately, and its child processes end with it. Without
    `ends_process`, which counts for blocks inside this one as well, it raises `Interrupted`.
    """

    def __init__(self, *, ends_process: bool = True) -> None:
        self.number: int | None = None
        self.ends_process = ends_process
        self._graceful = False
        self._previous: dict[int, Any] = {}
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def __enter__(self) -> Self:
        for number in SIGNALS if threading.current_thread() is threading.main_thread() else ():
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP; a script's background job, SIGINT
                outer = getattr(signal.getsignal(number), "__self__", None)
                self.ends_process &= not isinstance(outer, Interruption) or outer.ends_process
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def graceful(self) -> Iterator[None]:
        """Make signals in this block set `number` instead of raising."""
        self._graceful = True
        try:
            yield
        finally:
            self._graceful = False

    def pause(self, seconds: float) -> None:
        """Sleep. Raises Interrupted as soon as a signal arrives, even inside `graceful`."""
        deadline = time.monotonic() + seconds
        while self.number is None and (remaining := deadline - time.monotonic()) > 0:
            time.sleep(min(remaining, 0.1))
        self.check()

    def check(self) -> None:
        """Raise Interrupted if a signal has arrived, also if a library swallowed what it raised at first."""
        if self.number is not None:
            raise Interrupted(self.number)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            if number != signal.SIGINT:
                return
            if self.ends_process:
                os._exit(128 + number)
            raise Interrupted(number)
        self.number = number
        if number == signal.SIGHUP:  # the terminal is closed, so a write to it would fail
            null = os.open(os.devnull, os.O_WRONLY)
            for descriptor in self._terminals:
                os.dup2(null, descriptor)
        if not self._graceful:
            raise Interrupted(number)
