"""Run as many searches at once as the first argument says; print each one's status and output as JSON, by process."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
    import search.run
    import search.terminal  # noqa: F401  # both are imported for their children
    from search import cli

    sys.path.insert(0, os.getcwd())
    gate_in, gate_out = os.pipe()
    pids = []
    for _ in range(int(sys.argv[1])):
        if (pid := os.fork()) == 0:
            output = os.open(f"output.{os.getpid()}", os.O_WRONLY | os.O_CREAT)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(gate_out)
            sys.argv = ["search", *sys.argv[2:]]
            os.read(gate_in, 1)  # its end is the signal to go
            cli.main()
        pids.append(pid)
    os.close(gate_out)
    ended = {pid: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids}
    print(json.dumps({pid: (status, Path(f"output.{pid}").read_text()) for pid, status in ended.items()}))


if __name__ == "__main__":
    main()
