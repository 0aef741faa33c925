"""Formats of figures, and texts from outside."""

from __future__ import annotations

import pytest

from search.common.text import duration, one_line, printable, sentence


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0.0 s"),
        (4.25, "4.2 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (190, "3 min 10 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_durations_are_short(seconds: float | None, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("lone \ud800", "lone \\ud800"),
        ("over\rwritten", "over\\rwritten"),
        ("two\r\nlines\tand a tab", "two\nlines\tand a tab"),
        ("bell \x07, C1 \x9b1m, NUL \x00", "bell \\x07, C1 \\x9b1m, NUL \\x00"),
        ("turned \u202e round", "turned \\u202e round"),
        ("größe 学习率 👩\u200d🔬", "größe 学习率 👩\u200d🔬"),
    ],
)
def test_a_text_from_outside_cannot_control_a_terminal(text: str, shown: str):
    assert printable(text) == shown
    printable(text).encode()


def test_a_long_text_loses_its_middle():
    shown = printable("a" * 500 + "the end", limit=100)
    assert len(shown) == 100
    assert shown.startswith("aaa")
    assert shown.endswith("the end")


def test_one_line_and_one_full_stop():
    assert one_line(" two\r\nlines\t here ") == "two lines here"
    assert [sentence(text) for text in ("it failed", "it failed.", "why?")] == ["it failed.", "it failed.", "why?"]
