"""The output of a function: collected, bounded, and handed over at the end of its call."""

from __future__ import annotations

import ctypes
import io
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, Self

MAX_BYTES = 200_000
HALF = MAX_BYTES // 2
NAMES = ("stdout", "stderr")


class Output(Protocol):
    """Collects what is printed. The function runs inside the `with` block, which is entered for each of its pulls."""

    def start(self) -> None:
        """Forget what was printed before this call."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def take(self) -> str:
        """Give and forget what the call printed, with its middle left out if it is long."""


class Ends:
    """The first and the last part of a long text, and how much was between them."""

    def __init__(self) -> None:
        self.first, self.last, self.left_out = bytearray(), bytearray(), 0

    def add(self, data: bytes, left_out: int = 0) -> None:
        """Append what was printed next; `left_out`: bytes of it that nobody read, from its middle."""
        room = HALF - len(self.first)
        self.first += data[:room]
        self.last += data[max(room, 0) :]
        self.left_out += left_out
        if len(self.last) > 2 * HALF or left_out:
            self._shorten()

    def _shorten(self) -> None:
        surplus = max(0, len(self.last) - HALF)
        self.left_out += surplus
        del self.last[:surplus]

    def text(self) -> str:
        self._shorten()
        gap = f"\n... {self.left_out:,} bytes are left out ...\n" if self.left_out else ""
        return self.first.decode("utf-8", "replace") + gap + self.last.decode("utf-8", "replace")


class FileOutput:
    """Reads the file that a process prints to. So it includes what C code and child processes print.

    The file keeps the last lines, for the case that the process dies.
    """

    def __init__(self) -> None:
        self._left_out = 0

    def start(self) -> None:
        self.take()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        size = os.fstat(1).st_size
        if size > 4 * MAX_BYTES:
            data = self._read(size)
            self._left_out += size - len(data)
            self._empty()
            os.write(1, data)

    def take(self) -> str:
        _flush()
        size = os.fstat(1).st_size
        ends = Ends()
        data = self._read(size)
        ends.add(data, self._left_out + size - len(data))
        self._left_out = 0
        self._empty()
        return ends.text()

    def _read(self, size: int) -> bytes:
        """The whole file, or its first and last part."""
        return os.pread(1, size, 0) if size <= MAX_BYTES else os.pread(1, HALF, 0) + os.pread(1, HALF, size - HALF)

    def _empty(self) -> None:
        os.ftruncate(1, 0)
        os.lseek(1, 0, os.SEEK_SET)  # both descriptors and all child processes share the position


def redirected(path: str | None = None) -> FileOutput:
    """Let this process print to a file at `path`, or to one without a name, from now on."""
    import tempfile

    _flush()
    file: Any = open(path, "w+b", buffering=0) if path else tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
    with file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return FileOutput()


def _flush() -> None:
    """Write out what Python and the C library still hold."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # None, closed, or replaced by anything
            stream.flush()
    ctypes.CDLL(None).fflush(None)


class StreamOutput:
    """Collects what the function's thread and threads that it starts print. Others in this process print as before."""

    def __init__(self) -> None:
        self._ends, self._running = Ends(), False
        self._raw = {name: _Raw(self.collect) for name in NAMES}
        self._own: set[threading.Thread] = set()
        self._others: set[threading.Thread] = set()
        # They stay open, because the function's logging may keep them.
        self._streams = {
            name: io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)  # type: ignore[type-var, unused-ignore]
            for name, raw in self._raw.items()
        }
        self._inside: dict[str, Any] = {}  # the function's sys.stdout and sys.stderr, which it may replace

    def start(self) -> None:
        self._ends, self._own, self._others = Ends(), set(), set()
        self._inside = dict(self._streams)

    def __enter__(self) -> Self:
        self._others |= set(threading.enumerate()) - {threading.current_thread()} - self._own
        for name, stream in self._inside.items():
            self._raw[name].original = getattr(sys, name)
            setattr(sys, name, stream)
        self._running = True
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        for name, raw in self._raw.items():
            self._inside[name] = getattr(sys, name)
            setattr(sys, name, raw.original)
        self._own = set(threading.enumerate()) - self._others

    def collect(self, data: bytes) -> bool:
        """Keep what the function printed. False if another thread printed it."""
        if not self._running or threading.current_thread() in self._others:
            return False
        self._ends.add(data)
        return True

    def take(self) -> str:
        text, self._ends = self._ends.text(), Ends()
        return text


class _Raw(io.RawIOBase):
    """The lower end of a stream. What is not collected goes to the original stream."""

    def __init__(self, collect: Callable[[bytes], bool]) -> None:
        self._collect = collect
        self.original: Any = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        data = bytes(data)
        if not self._collect(data) and self.original is not None:
            self.original.write(data.decode("utf-8", "replace"))
        return len(data)

    def fileno(self) -> int:
        descriptor: int = self.original.fileno()  # for child processes
        return descriptor
