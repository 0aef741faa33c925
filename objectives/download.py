"""How does a file get here from the network without anyone waiting for a dead mirror?

Every wait ends: for the first answer, and for each block of a transfer. A file is checked before it appears in its
folder, and appears whole, so several processes may fetch the same one at once.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import queue
import secrets
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from objectives.base import DatasetError

FIRST_ANSWER_S = 9.0
STALL_S = 10.0
MIRROR_VARIABLE = "SEARCH_DATA_MIRROR"

_MAX_DOWNLOAD_BYTES = 64 * 2**20


class DatasetUnavailableError(DatasetError):
    """The files of a dataset are neither there nor to be had."""


@dataclass(frozen=True)
class DownloadSpec:
    """What to fetch: base addresses in order of preference, and (name of the .gz file, its MD5)."""

    mirrors: tuple[str, ...]
    files: tuple[tuple[str, str], ...]


def download_files(
    spec: DownloadSpec, folder: Path, *, first_answer_s: float = FIRST_ANSWER_S, stall_s: float = STALL_S
) -> None:
    """Fetch, check and unpack files into `folder`, from the mirror in `SEARCH_DATA_MIRROR` first if that is set.

    Each file is given up when no mirror has answered after `first_answer_s` in all, or the one that did sends nothing
    for `stall_s`. Raises DatasetUnavailableError with every mirror's reason.
    """
    own = os.environ.get(MIRROR_VARIABLE)
    mirrors = [own, *spec.mirrors] if own else [*spec.mirrors]
    for name, md5 in spec.files:
        reasons = []
        give_up_at = time.monotonic() + first_answer_s
        for tried, mirror in enumerate(mirrors):
            wait_s = (give_up_at - time.monotonic()) / (len(mirrors) - tried)
            url = f"{mirror.rstrip('/')}/{name}"
            try:
                content = _fetch(url, max(wait_s, 0.1), stall_s)
                _check(content, md5)
                _write_whole(folder / name.removesuffix(".gz"), gzip.decompress(content))
            except (OSError, ValueError, EOFError) as error:
                reasons.append(f"{url}: {' '.join(str(error).split()) or type(error).__name__}")
                continue
            mirrors = [mirror, *(other for other in mirrors if other != mirror)]  # the next file asks it first
            break
        else:
            raise DatasetUnavailableError("; ".join(reasons) or "no mirror is known")


def _check(content: bytes, md5: str) -> None:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(f"got {len(content)} bytes with MD5 {found} instead of {md5}")


def _fetch(url: str, first_answer_s: float, stall_s: float) -> bytes:
    """The content of an address. Raises OSError, TimeoutError among them."""
    # A thread, because looking a name up cannot be timed out: the thread may hang, its caller does not.
    arrived: queue.Queue[bytes | Exception | None] = queue.Queue()
    threading.Thread(target=_pump, args=(url, first_answer_s + stall_s, arrived), daemon=True, name="download").start()
    content = bytearray()
    wait_s, silence = first_answer_s, f"no answer in {first_answer_s:.1f} s"
    while True:
        try:
            piece = arrived.get(timeout=wait_s)
        except queue.Empty:
            raise TimeoutError(silence) from None
        if piece is None:
            return bytes(content)
        if isinstance(piece, Exception):
            raise OSError(str(piece) or type(piece).__name__) from piece
        content += piece
        wait_s, silence = stall_s, f"the transfer stalled for {stall_s:.1f} s after {len(content)} bytes"


def _pump(url: str, timeout_s: float, arrived: queue.Queue[bytes | Exception | None]) -> None:
    """Put what an address sends into a queue: an empty piece for its answer, the content, then None or the error."""
    total = 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "python-search"})
        # urlopen would keep the proxies that the environment named at its first call in the process.
        with urllib.request.build_opener().open(request, timeout=timeout_s) as response:
            arrived.put(b"")
            # Blocks, not whatever is there: a server that sends a byte now and then counts as stalled.
            while piece := response.read(16384):
                arrived.put(piece)
                total += len(piece)
                if total > _MAX_DOWNLOAD_BYTES:
                    raise ValueError(f"more than {_MAX_DOWNLOAD_BYTES} bytes")
        arrived.put(None)
    except urllib.error.HTTPError as error:
        with error:  # it holds the connection
            arrived.put(OSError(f"the server says {error.code} {error.reason}"))
    except Exception as error:  # handed to the thread that waits
        arrived.put(error)


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
