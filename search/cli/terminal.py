"""Standard output and standard error: any text can be shown, and a stream that breaks ends no search."""

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

PLAIN = "search.plain"  # name of the error handler
PLAIN_ASCII = "search_plain_ascii"  # ASCII under another name: click writes UTF-8 to a stream that is called ASCII
SUBSTITUTES = dict(zip("–—·•★×…’“”━╸▁▂▃▄▅▆▇█", '--.**x.\'""--12345678', strict=True)) | {"±": "+-", "→": "->"}


def prepare_streams() -> None:
    """Replace standard output and error by streams that take any text and survive the end of their reader."""
    codecs.register_error(PLAIN, _substitute)
    codecs.register(_plain_ascii)
    for descriptor in (0, 1, 2):  # a closed one would be given to the next file, such as a database
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = _stream(1, sys.stdout), _stream(2, sys.stderr)


def keep_going_without_output() -> None:
    """From now on, a broken standard output no longer ends the process."""
    if (outlet := _outlet(sys.stdout)) is not None:
        outlet.ends_process = False


def is_terminal() -> bool:
    """Return whether standard output is a terminal that can redraw lines."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


@contextmanager
def importing(plain_line: str | None = None, *, silent: bool = False) -> Iterator[None]:
    """Show in a terminal that libraries are imported, until the block ends.

    Anywhere else, print `plain_line` once. `silent`: show nothing, as for a program that reads JSON.
    """
    if silent:
        yield
    elif is_terminal() and "CI" not in os.environ:
        print("importing the libraries ...", end="", flush=True)
        try:
            yield
        finally:
            print("\r\x1b[2K", end="", flush=True)  # erases the line
    else:
        if plain_line is not None:
            print(f"{plain_line}\n", end="", flush=True)
        yield


class Outlet(io.RawIOBase):
    """A descriptor to write to. When that fails, what follows goes nowhere.

    Then standard output ends the process, with the status that a shell gives a command whose reader ended. With
    `ends_process` unset, it prints one line on standard error.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.ends_process = descriptor == 1

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # another program made the terminal or the pipe non-blocking
                select.select([], [self._descriptor], [])
            except OSError as error:
                self._break(error)
                return len(data)

    def _break(self, error: OSError) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._descriptor)
        os.close(nowhere)
        if self._descriptor != 1:
            return
        is_closed = error.errno in (errno.EPIPE, errno.EIO)
        problem = "the output is closed" if is_closed else f"the output cannot be written ({error.strerror})"
        if not self.ends_process:
            _say(f"{problem}; the search continues")
        elif is_closed:
            raise SystemExit(141)  # 128 + SIGPIPE
        else:
            _say(f"Error: {problem}")
            raise SystemExit(1)


def _say(text: str) -> None:
    """Write a line to standard error itself: a live table catches what is printed, and writes it to the output."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode(errors="replace"))


def _outlet(stream: TextIO) -> Outlet | None:
    outlet = getattr(getattr(stream, "buffer", None), "raw", None)
    return outlet if isinstance(outlet, Outlet) else None


def _stream(descriptor: int, before: TextIO | None) -> TextIO:
    encoding = "utf-8"
    if before is not None:
        with suppress(OSError, ValueError):  # it was broken before anything was written
            before.flush()
        encoding = before.encoding
    if codecs.lookup(encoding).name == "ascii":
        encoding = PLAIN_ASCII
    outlet = Outlet(descriptor)
    interactive = outlet.isatty() or descriptor == 2
    return io.TextIOWrapper(io.BufferedWriter(outlet), encoding=encoding, errors=PLAIN, line_buffering=interactive)


def _substitute(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks as a similar character, or as a backslash escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    if "\u2800" <= character <= "\u28ff":  # the dots of a spinner
        return "*"
    return SUBSTITUTES.get(character) or character.encode("ascii", "backslashreplace").decode("ascii")


def _plain_ascii(name: str) -> codecs.CodecInfo | None:
    if name != PLAIN_ASCII:
        return None
    ascii_ = codecs.lookup("ascii")
    return codecs.CodecInfo(
        ascii_.encode,
        ascii_.decode,
        incrementalencoder=ascii_.incrementalencoder,
        incrementaldecoder=ascii_.incrementaldecoder,
        name=PLAIN_ASCII,
    )
