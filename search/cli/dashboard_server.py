"""Run one server of `ui`: `python -m search.cli.dashboard_server mlflow ARGUMENTS` or `... optuna PORT`.

The server and every process that it starts end with its parent. It ignores Ctrl-C, which the parent handles.
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
"""Holds the address of Optuna's storage. Its password would be visible to `ps` on a command line."""


class ThreadingServer(ThreadingMixIn, WSGIServer):
    """A WSGI server that answers each request in a thread."""

    daemon_threads = True


def main() -> None:
    """Run the server that the first argument names."""
    exit_with_parent(end_process_group)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.argv[1] == "mlflow":
        del sys.argv[0]
        runpy.run_module("mlflow", run_name="__main__")
    else:
        from optuna_dashboard import wsgi  # type: ignore[import-untyped, unused-ignore]

        app = wsgi(os.environ.pop(STORAGE_VARIABLE))
        make_server("127.0.0.1", int(sys.argv[2]), app, server_class=ThreadingServer).serve_forever()


if __name__ == "__main__":
    main()
