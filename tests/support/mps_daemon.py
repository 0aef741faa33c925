"""A stand-in for nvidia-cuda-mps-control: a real program that starts a daemon, talks to it and ends it as that does.

`MPS_FAULT` in its environment makes it fail: `start`, it does not start; `quit`, the daemon does not end when told.
"""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = """#!{python} -IS
import json, os, sys, time

folder = os.environ["CUDA_MPS_PIPE_DIRECTORY"]
control, own = os.path.join(folder, "control"), os.path.join(folder, "nvidia-cuda-mps-control.pid")
fault = os.environ.get("MPS_FAULT")
if sys.argv[1:] == ["-d"]:
    if fault == "start":
        sys.exit("An instance of this daemon is already running")
    os.mkfifo(control)
    if pid := os.fork():
        with open(own, "w") as file:
            file.write(str(pid))
        with open({record!r}, "w") as file:
            json.dump({{"pid": pid, "environment": dict(os.environ)}}, file)
        os._exit(0)
    os.setsid()
    while fault == "quit" or not open(control).read().startswith("quit"):
        time.sleep(0.01)
    os.unlink(own)
else:
    command = sys.stdin.read()
    if fault == "quit":
        sys.exit("no answer")
    with open(control, "w") as file:
        file.write(command)
    while os.path.exists(own):
        time.sleep(0.01)
"""


def install(folder: Path) -> Path:
    """Put the program into `folder`. Returns the file in which a daemon writes its pid and environment."""
    record = folder / "daemon.json"
    program = folder / "nvidia-cuda-mps-control"
    program.write_text(PROGRAM.format(python=sys.executable, record=str(record)))
    program.chmod(0o755)
    return record
