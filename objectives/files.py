"""Atomic writes of files."""

import os
import secrets
from pathlib import Path


def write_atomic(path: Path, content: bytes) -> Path:
    """Write a file so that readers see the old content or the new one, never a part; returns the path.

    Missing folders are made. Raises OSError and leaves no trace when the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")  # short, because the name may be as long as allowed
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
