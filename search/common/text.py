"""Formats of figures, the same in the terminal and on every page."""

import unicodedata


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
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def printable(text: str, *, limit: int | None = None) -> str:
    r"""Escape control characters and lone surrogates, as in `\x1b`; a newline becomes a space. `limit` cuts."""
    text = " ".join(text.splitlines())
    shown = "".join(_escaped(c) if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    return shown if limit is None or len(shown) <= limit else f"{shown[: limit - 3]}..."


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
