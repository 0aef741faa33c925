"""Children that end when their parent does, however it ends.

The parent starts a child with a pipe as standard input and never writes to it. The operating system closes the pipe
when the parent ends, even after SIGKILL, and a thread in the child notices. This works on every POSIX system.
"""

import os
import signal
import threading
import time
from collections.abc import Callable

SIGKILL_DELAY_S = 3.0


def end_process_group() -> None:
    """End every process of this group: first with SIGTERM, then with SIGKILL."""
    os.killpg(0, signal.SIGTERM)
    time.sleep(SIGKILL_DELAY_S)
    os.killpg(0, signal.SIGKILL)


def exit_with_parent(end: Callable[[], None] = lambda: os._exit(0)) -> None:
    """Call `end`, by default an immediate exit, from a thread as soon as standard input is closed.

    This process and its children find an empty standard input. Reading from the pipe, they would wait for ever.
    """
    pipe = os.dup(0)
    with open(os.devnull, "rb") as empty:
        os.dup2(empty.fileno(), 0)

    def watch() -> None:
        os.read(pipe, 1)
        end()

    threading.Thread(target=watch, daemon=True).start()
