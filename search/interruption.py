"""Ctrl-C, SIGTERM and a closed terminal, turned into an end after which the same command goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Raised where the signal arrived. Not an Exception, so that nothing takes it for a failure.

    Every write is whole by itself, so any point is a safe one to stop at.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interruption:
    """Listens while its block runs.

    Inside `graceful` the first signal is only noted, for a loop that ends by itself and saves its work; anywhere else
    it raises `Interrupted`. A second Ctrl-C ends the process at once: its trainers end with it.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._graceful = False
        self._before: dict[int, Any] = {}
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def __enter__(self) -> Self:
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup, or a script's background, asked for that
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def graceful(self) -> Iterator[None]:
        """Only note a signal during this block."""
        self._graceful = True
        try:
            yield
        finally:
            self._graceful = False

    def pause(self, seconds: float) -> None:
        """Sleep; raises Interrupted as soon as a signal has come, also inside `graceful`."""
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
            self._let_go()
        if not self._graceful:
            raise Interrupted(number)

    def _let_go(self) -> None:
        """Write to nobody from now on: the terminal is gone, and a write to it would end the process as a failure."""
        nobody = os.open(os.devnull, os.O_WRONLY)
        for descriptor in self._terminals:
            os.dup2(nobody, descriptor)
