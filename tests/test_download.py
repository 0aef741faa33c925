"""Downloads: whole files or none, the next mirror after a bad one, and no endless wait."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from objectives import download
from objectives.download import DatasetUnavailableError, DownloadSpec, download_files

CONTENTS = {"pictures": bytes(range(256)) * 300, "labels": b"0123456789"}
NOBODY = "http://127.0.0.1:9/"


@pytest.fixture(autouse=True)
def no_own_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEARCH_DATA_MIRROR", raising=False)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: its address, and the folder that it serves."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", folder
        server.shutdown()


@pytest.fixture
def silent_server() -> Iterator[Callable[[bytes], str]]:
    """Start a server that sends the given bytes and then nothing more, without hanging up."""
    with contextlib.ExitStack() as at_end:

        def start(first: bytes) -> str:
            listener = at_end.enter_context(socket.create_server(("127.0.0.1", 0)))

            def answer() -> None:
                with contextlib.suppress(OSError), contextlib.ExitStack() as connections:
                    while True:
                        connections.enter_context(listener.accept()[0]).sendall(first)

            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            at_end.callback(thread.join, 5)
            at_end.callback(listener.shutdown, socket.SHUT_RDWR)
            return f"http://127.0.0.1:{listener.getsockname()[1]}/"

        yield start


def serve(folder: Path) -> tuple[tuple[str, str], ...]:
    files = []
    for name, content in CONTENTS.items():
        packed = gzip.compress(content, mtime=0)
        (folder / f"{name}.gz").write_bytes(packed)
        files.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    return tuple(files)


def fetched(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_download_leaves_the_files_and_nothing_else(mirror: tuple[str, Path], tmp_path: Path) -> None:
    download_files(DownloadSpec((mirror[0],), serve(mirror[1])), tmp_path / "raw")
    assert fetched(tmp_path / "raw") == CONTENTS


def test_next_mirror_is_tried_after_a_bad_one(mirror: tuple[str, Path], tmp_path: Path) -> None:
    spec = DownloadSpec((NOBODY, mirror[0] + "nothing/", mirror[0]), serve(mirror[1]))
    download_files(spec, tmp_path / "raw")
    assert fetched(tmp_path / "raw") == CONTENTS


def test_own_mirror_is_asked_first(mirror: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = serve(mirror[1])
    monkeypatch.setenv("SEARCH_DATA_MIRROR", mirror[0])
    download_files(DownloadSpec((), files), tmp_path / "raw")
    assert fetched(tmp_path / "raw") == CONTENTS
    with pytest.raises(DatasetUnavailableError, match=rf"^{mirror[0]}x\.gz: .*404.*; {NOBODY}x\.gz: "):
        download_files(DownloadSpec((NOBODY,), (("x.gz", "0"),)), tmp_path / "raw")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda path: path.write_bytes(b"<html>please log in</html>"), "got 26 bytes with MD5"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "got 100 bytes with MD5"),
        (lambda path: path.unlink(), "404"),
    ],
    ids=["captive portal", "truncated", "absent"],
)
def test_bad_downloads_are_refused(
    mirror: tuple[str, Path], tmp_path: Path, harm: Callable[[Path], object], says: str
) -> None:
    files = serve(mirror[1])
    harm(mirror[1] / files[0][0])
    with pytest.raises(DatasetUnavailableError, match=says):
        download_files(DownloadSpec((mirror[0],), files), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("first", [b"", b"HTTP/1.0 200 OK\r\nContent-Length: 9999\r\n\r\nabc"], ids=["dumb", "stalls"])
def test_a_silent_mirror_is_given_up(silent_server: Callable[[bytes], str], tmp_path: Path, first: bytes) -> None:
    spec = DownloadSpec((silent_server(first), silent_server(first)), (("x.gz", "0"),))
    began = time.monotonic()
    with pytest.raises(DatasetUnavailableError, match=r"no answer in 0\.\d s|stalled for 0\.3 s"):
        download_files(spec, tmp_path, first_answer_s=0.6, stall_s=0.3)
    assert time.monotonic() - began < 3
    assert download.FIRST_ANSWER_S <= 10
    assert download.STALL_S <= 10
