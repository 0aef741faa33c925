"""Remove passwords in URLs from messages, logs and stored texts."""

from __future__ import annotations

import re

PASSWORD = re.compile(
    r"(//[^/@:\s]*:)"  # the user; a scheme is not required, because error messages quote mistyped addresses
    r"(?:\S+@"  # up to the last @ of the word, because passwords may contain @ and /
    r"|(?!\d{1,5}(?:[/?#\s'\",;)]|$))[^@\n]+@)"  # or contain spaces; a port is not a password
)
IN_QUERY = re.compile(r"([?&]\w*passw(?:or)?d=)[^&#\s'\"]+")


def mask(text: str) -> str:
    """Replace the passwords of URLs in `text` with `***`, before the host and in the query."""
    return IN_QUERY.sub(r"\1***", PASSWORD.sub(r"\1***@", text))


def bare(url: str) -> str:
    """Return a URL without user and password."""
    return re.sub(r"(?<=://)[^/\s]*@", "", mask(url))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without passwords."""
    return mask((str(error).strip().splitlines() or [type(error).__name__])[0])
