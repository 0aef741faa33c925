"""Run one server of `ui`. The arguments are SCRIPT ARGUMENTS, where SCRIPT is a console script.

The server and every process that it starts end with its parent. It ignores Ctrl-C, which the parent handles.
"""

import os
import signal
import sys
from importlib.metadata import entry_points

from objectives.worker.lifeline import end_process_group, exit_with_parent

LAST_ARGUMENT = "SEARCH_UI_LAST_ARGUMENT"  # one more argument: on a command line, `ps` would show its password
FOLDER = "SEARCH_UI_FOLDER"  # where the server runs; code is imported as in the current folder


def main() -> None:
    """Run the console script."""
    exit_with_parent(end_process_group)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.argv = [*sys.argv[1:], *filter(None, [os.environ.pop(LAST_ARGUMENT, None)])]
    if folder := os.environ.pop(FOLDER, None):
        os.chdir(folder)
    script, *_ = entry_points(group="console_scripts", name=sys.argv[0])  # mlflow and mlflow-skinny name the same one
    script.load()()


if __name__ == "__main__":
    main()
