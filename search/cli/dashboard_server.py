"""Runs one server of `ui` in a process: `python -m search.cli.dashboard_server mlflow ARGUMENTS` or `... optuna PORT`.

The server, with every process that it starts, ends with its parent. Ctrl-C is left to the parent.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

from objectives.lifeline import end_process_group, exit_with_parent

STORAGE_VARIABLE = "SEARCH_UI_STORAGE"
"""Holds the address of Optuna's storage. It may contain a password, which a command line would show to `ps`."""


class ThreadingServer(ThreadingMixIn, WSGIServer):
    """A WSGI server that answers each request in a thread."""

    daemon_threads = True


def serve_mlflow(arguments: list[str]) -> None:
    """Run MLflow's command line."""
    sys.argv = ["mlflow", *arguments]
    runpy.run_module("mlflow", run_name="__main__")


def serve_optuna(port: int) -> None:
    """Serve optuna-dashboard on loopback."""
    from optuna_dashboard import wsgi  # type: ignore[import-untyped, unused-ignore]

    app = wsgi(os.environ.pop(STORAGE_VARIABLE))
    make_server("127.0.0.1", port, app, server_class=ThreadingServer).serve_forever()


def main() -> None:
    """Run the server that the first argument names."""
    exit_with_parent(end_process_group)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server, *arguments = sys.argv[1:]
    if server == "mlflow":
        serve_mlflow(arguments)
    else:
        serve_optuna(int(arguments[0]))


if __name__ == "__main__":
    main()
