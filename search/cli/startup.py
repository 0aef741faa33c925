"""A sign of life from the first moment, while a command imports its libraries, which takes seconds.

So nothing heavy is imported here.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing(plain_line: str | None = None, *, silent: bool = False) -> Iterator[None]:
    """Show in a terminal that libraries are imported, until the block ends.

    Anywhere else, print `plain_line` once. `silent`: show nothing, as for a program that reads JSON.
    """
    if silent:
        yield
    elif sys.stdout.isatty() and "CI" not in os.environ:
        print("importing the libraries ...", end="", flush=True)
        try:
            yield
        finally:
            print("\r\x1b[2K", end="", flush=True)  # erases the line
    else:
        if plain_line is not None:
            print(f"{plain_line}\n", end="", flush=True)
        yield
