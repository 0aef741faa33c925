"""Passwords in URLs: taken out of whatever people, logs and stores are shown."""

from __future__ import annotations

import re


def mask(text: str) -> str:
    """`text` without the passwords of URLs in it, whether before the host or in the query.

    A raw `@` or `/` in a password belongs to it: up to the last `@` of the word, everything may be secret.
    """
    text = re.sub(r"(://[^/@:\s]*:)\S+@", r"\1***@", text)
    return re.sub(r"([?&]\w*passw(?:or)?d=)[^&#\s'\"]+", r"\1***", text)


def bare(url: str) -> str:
    """A URL without user and password: what it leads to, whoever goes there."""
    return re.sub(r"(?<=://)[^/\s]*@", "", mask(url))
