"""A tracking server on this machine, where the environment names a proxy."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from search.tracking.store import connect_mlflow


class NoExperiments(BaseHTTPRequestHandler):
    """Answers as an empty tracking server."""

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), NoExperiments) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize(
    ("given", "kept"),
    [({}, ""), ({"NO_PROXY": ".example.org"}, ".example.org"), ({"no_proxy": "*"}, "*"), ({"no_proxy": "a,b"}, "a,b")],
)
def test_a_server_on_this_machine_is_reached_without_the_proxy(
    monkeypatch: pytest.MonkeyPatch, port: int, host: str, given: dict[str, str], kept: str
):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, given.get(name, ""))  # and restored, whatever the connection makes of it
    assert connect_mlflow(f"http://{host}:{port}").search_experiments() == []
    assert os.environ["no_proxy"].startswith(kept)


def test_other_servers_still_use_the_proxy(monkeypatch: pytest.MonkeyPatch, port: int):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    assert connect_mlflow("http://mlflow.example.org:5000").search_experiments() == []
