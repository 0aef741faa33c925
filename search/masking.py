"""Passwords in URLs: taken out of whatever people, logs and stores are shown."""

from __future__ import annotations

import re

PASSWORD = re.compile(
    r"(//[^/@:\s]*:)"  # the user; `//` alone, since a mistyped address is quoted to whoever typed it
    r"(?:\S+@"  # up to the last @ of the word: a raw @ or / in a password belongs to it
    r"|(?!\d{1,5}(?:[/?#\s'\",;)]|$))[^@\n]+@)"  # raw spaces, too; but a port is no password
)
IN_QUERY = re.compile(r"([?&]\w*passw(?:or)?d=)[^&#\s'\"]+")


def mask(text: str) -> str:
    """`text` without the passwords of URLs in it, whether before the host or in the query."""
    return IN_QUERY.sub(r"\1***", PASSWORD.sub(r"\1***@", text))


def bare(url: str) -> str:
    """A URL without user and password: what it leads to, whoever goes there."""
    return re.sub(r"(?<=://)[^/\s]*@", "", mask(url))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, which is the part for people; without passwords."""
    return mask((str(error).strip().splitlines() or [type(error).__name__])[0])
