"""Removal of passwords in URLs from messages, logs and stored texts."""

import re

USER_PASSWORD = re.compile(
    r"(//[^/@:\s]*:)"  # the user; without a scheme, because error messages quote mistyped addresses
    r"(?:\S+@"  # the password, up to the last @ of the word: it may contain @ and /
    r"|(?!\d{1,5}(?:[/?#\s'\",;)]|$))[^@\n]+@)"  # or a password with spaces, but not a port
)
QUERY_PASSWORD = re.compile(r"([?&]\w*passw(?:or)?d=)[^&#\s'\"]+")


def mask(text: str) -> str:
    """Replace the passwords of URLs in `text` with `***`, before the host and in the query."""
    return QUERY_PASSWORD.sub(r"\1***", USER_PASSWORD.sub(r"\1***@", text))


def bare(url: str) -> str:
    """Return a URL without user and password."""
    return re.sub(r"(?<=://)[^/\s]*@", "", mask(url))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without passwords."""
    return mask((str(error).strip().splitlines() or [type(error).__name__])[0])
