"""`forked.py STARTS FOLDER... -- WORDS`: as many searches at once in each folder, one folder after the other.

Prints a list with one object for each folder: every process's status and output, by its number.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path


def main() -> None:
    for name in ("mlflow", "optuna.importance", "search.commands.run", "search.cli.output", "torch"):
        importlib.import_module(name)  # once, for all children

    split = sys.argv.index("--")
    starts, folders, words = int(sys.argv[1]), sys.argv[2:split], sys.argv[split + 1 :]
    print(json.dumps([meet(Path(folder), starts, words) for folder in folders]))


def meet(folder: Path, starts: int, words: list[str]) -> dict[int, tuple[int, str]]:
    from search.cli.main import main as search

    os.chdir(folder)
    sys.path[0] = str(folder)
    gate_in, gate_out = os.pipe()
    pids = []
    for _ in range(starts):
        if (pid := os.fork()) == 0:
            output = os.open(f"output.{os.getpid()}", os.O_WRONLY | os.O_CREAT)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(gate_out)
            sys.argv = ["search", *words]
            os.read(gate_in, 1)  # its end is the signal to go
            search()
        pids.append(pid)
    os.close(gate_in)
    os.close(gate_out)
    ended = {pid: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids}
    return {pid: (status, Path(f"output.{pid}").read_text()) for pid, status in ended.items()}


if __name__ == "__main__":
    main()
