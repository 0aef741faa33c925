"""Formats of figures and texts, the same in the terminal and on every page."""

import re

# Controls except tab and line feed, also those that turn the direction of writing; separators; lone surrogates.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, *, limit: int | None = None) -> str:
    r"""Make a text from outside safe to show and to store. Line breaks and tabs stay.

    Control characters, such as those of a terminal, and lone surrogates become escapes such as `\x1b`. A text longer
    than `limit` characters loses its middle.
    """
    text = _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))
    if limit is None or len(text) <= limit:
        return text
    return f"{text[: limit - limit // 3 - 5]} ... {text[len(text) - limit // 3 :]}"


def one_line(text: str, *, limit: int | None = None) -> str:
    """Like `printable`, with single spaces instead of line breaks, tabs and runs of spaces."""
    return printable(" ".join(text.split()), limit=limit)


def sentence(text: str) -> str:
    """End a text with a full stop, unless it has one."""
    text = text.rstrip()
    return text if text.endswith((".", "!", "?", ":")) else f"{text}."


def duration(seconds: float | None) -> str:
    """Format seconds, as in `4.2 s`, `3 min 10 s` or `2 h 5 min`; an en dash for None."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def readable(value: object, *, digits: int = 6) -> str:
    """Format a parameter, rounded for display."""
    return f"{value:.{digits}g}" if isinstance(value, float) else printable(str(value))
