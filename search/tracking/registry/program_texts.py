"""Finds texts in a `torch.export` program that torch would run as code.

A program is a zip file with JSON. When torch 2.15 loads it, it evaluates the expressions of sizes, and makes Python
source of the guards and names. MLflow refuses pickles in a program and does not read its texts.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from objectives.functions.export import LOADABLE

EVALUATED = ("expr_str", "guards_code")
QUOTED = re.compile(r"'[\w.+-]*'")
CHARACTERS = re.compile(r"[\w\s()\[\],=<>!+\-*/%.&|~]*")
WORDS = re.compile(r"[A-Za-z_][\w.]*")
HARMLESS = re.compile(
    r"[A-Z][A-Za-z]*|[a-z]\d+|size|stride|and|or|not|math\.[a-z]+|torch\._?sym_[a-z]+"
    r"|precision|positive|negative|nonnegative|integer|real|finite"
)
"""Words of an expression: sympy's classes, symbols such as `s77`, sizes, and functions of numbers."""

NOT_RUN = ("stack_trace", "torch_fn", "nn_module_stack", "source_fn_stack", "custom", "from_node", "as_string")
"""Fields for readers, and a text that an operator gets as its argument."""
STRUCTURE = re.compile(r'(?:[\w\s"\[\]{},:.]|\\+")*')


def code_in(path: Path) -> str | None:
    """Return a text that torch would run as code, or None. Raises ValueError or BadZipFile for a damaged file."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():  # two of them may have the same name
            if "models/" in entry.filename or entry.filename.endswith(".json"):
                for key, text in _texts(json.loads(archive.read(entry))):
                    if not _is_harmless(key, text):
                        return text
    return None


def _texts(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text with the field that holds it, and the names of all fields."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield "", name
            yield from _texts(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, key)
    elif isinstance(value, str):
        yield key, value


def _is_harmless(key: str, text: str) -> bool:
    if key in NOT_RUN:
        return True
    if key in EVALUATED:
        if not text.isascii():  # Python reads a full-width letter in a name as the plain one
            return False
        bare = QUOTED.sub("", text)
        return bool(CHARACTERS.fullmatch(bare)) and all(HARMLESS.fullmatch(word) for word in WORDS.findall(bare))
    return bool((STRUCTURE if key in ("in_spec", "out_spec") else LOADABLE).fullmatch(text))
