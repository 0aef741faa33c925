"""One worker process: its start, its socket, its printed output and its end."""

import contextlib
import math
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from objectives.worker.messages import WorkerReady, WorkerSettings
from search.common.system import module_command
from search.common.text import printable

LAST_LINES = 15
ENDING_S = 2.0  # how long a dying worker may take; if the coordinator ended it, its own exit status would be lost


class WorkerProcess:
    """One worker process, its socket and its printed output."""

    def __init__(
        self,
        settings: WorkerSettings,
        variables: Mapping[str, str],
        *,
        failed_starts: int = 0,
        worked_before: bool = False,
    ) -> None:
        """Start it.

        `variables`: more of its environment. `failed_starts`: how many workers of this slot have just died, one after
        the other, while they started. `worked_before`: whether an earlier worker of this slot was set up.
        """
        self.settings = settings
        self.failed_starts, self.worked_before = failed_starts, worked_before
        self.ready: WorkerReady | None = None
        self.started_at, self.ready_at = time.monotonic(), math.inf
        self.ended = ""
        """Why the coordinator ended it, so that its task is not to blame."""
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        ours, theirs = socket.socketpair()
        env = {**os.environ, **variables, "OMP_NUM_THREADS": str(settings.threads), "PYTHONUNBUFFERED": "1"}
        env["PYTHONIOENCODING"] = "utf-8:backslashreplace"  # of the file below, whatever the terminal shows
        with theirs:
            command, sockets = module_command("objectives.worker", str(theirs.fileno())), [theirs.fileno()]
            streams: Any = {"stdin": subprocess.PIPE, "stdout": self._output, "stderr": self._output}
            # In a session of its own: Ctrl-C in the terminal reaches only the coordinator.
            self.process = subprocess.Popen(command, pass_fds=sockets, env=env, start_new_session=True, **streams)
        self.connection = Connection(ours.detach())
        self.send(settings)

    def send(self, message: Any) -> None:
        """Send a command. Before the worker is set up, a large one would block."""
        with contextlib.suppress(OSError):  # the worker is dead; the next receive reports it
            self.connection.send(message)

    def kill(self, reason: str) -> None:
        """End it with the task that it may have."""
        self.ended = reason
        self.process.kill()

    def describe_end(self) -> str:
        """Wait until the process has ended; return how it ended and the last lines that it printed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(ENDING_S)
        self.end()
        status = self.process.wait()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - 8192))
        lines = printable(self._output.read().decode(errors="replace")).splitlines()[-LAST_LINES:]
        return "\n".join([f"its worker (pid {self.process.pid}) {how}", *lines])

    def end(self) -> None:
        """Ask the worker to end, by closing its socket and its standard input."""
        self.connection.close()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def reap(self, timeout_s: float) -> None:
        """Wait until the process has ended; kill it after the time."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._output.close()
