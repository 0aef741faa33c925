"""How this code compares with the ones it learns from: `python tests/tools/house.py`, from the repository's root."""

from __future__ import annotations

import ast
import io
import statistics
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
PARTS = {"search": ["search"], "objectives": ["objectives"], "tests": ["tests"], "product": ["search", "objectives"]}
LONG_FILE, LONG_FUNCTION = 350, 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class File:
    """One file of Python, read."""

    path: Path
    text: str
    tree: ast.Module

    @classmethod
    def read(cls, path: Path) -> File:
        """Raises SyntaxError for what is no Python."""
        text = path.read_text(encoding="utf-8")
        return cls(path, text, ast.parse(text))

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    @property
    def functions(self) -> list[Function]:
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    @property
    def comments(self) -> int:
        """Lines with a comment that is not for a tool."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        found = [token for token in tokens if token.type == tokenize.COMMENT]
        return sum(not token.string.startswith(("# type:", "# noqa", "# fmt:", "#!")) for token in found)

    @property
    def code(self) -> int:
        """Lines that hold more than a comment, a docstring or nothing."""
        quoted = {line for node in documented(self.tree) for line in span(node.body[0])}
        lines = enumerate(self.text.splitlines(), start=1)
        return sum(bool(line.strip()) and not line.lstrip().startswith("#") and n not in quoted for n, line in lines)


def documented(tree: ast.Module) -> Iterator[Function | ast.ClassDef | ast.Module]:
    """Whatever has a docstring."""
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef | ast.Module) and ast.get_docstring(node) is not None:
            yield node


def span(node: ast.stmt) -> range:
    """Its lines."""
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def length(function: Function) -> int:
    """Its lines, decorators not counted."""
    return len(span(function))


def annotated(functions: list[Function]) -> float:
    """The share of arguments that have a type, `self` and `cls` not counted."""
    arguments = [
        argument
        for function in functions
        for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
        if argument.arg not in ("self", "cls")
    ]
    return statistics.mean(argument.annotation is not None for argument in arguments)


def public(tree: ast.Module) -> list[Function | ast.ClassDef]:
    """Classes and functions of a module whose names are for others."""
    return [node for node in tree.body if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")]


def files(folders: list[str]) -> list[File]:
    """All of them."""
    return [File.read(path) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def figures(found: list[File]) -> dict[str, str]:
    """What the house style compares, in words."""
    lengths = [file.lines for file in found]
    functions = [function for file in found for function in file.functions]
    sizes = [length(function) for function in functions]
    offered = [node for file in found for node in public(file.tree)]
    docstrings = sum(ast.get_docstring(node) is not None for node in offered)
    return {
        "files": str(len(found)),
        "lines": f"{sum(lengths):,}",
        "file lines, median / max": f"{statistics.median(lengths):.0f} / {max(lengths)}",
        "function lines, median / p90 / max": (
            f"{statistics.median(sizes):.0f} / {statistics.quantiles(sizes, n=10)[-1]:.0f} / {max(sizes)}"
        ),
        "arguments annotated": f"{annotated(functions):.0%}",
        "public names with a docstring": f"{docstrings / max(1, len(offered)):.0%}",
        "comments per code line": f"{sum(file.comments for file in found) / sum(file.code for file in found):.1%}",
    }


def long_ones(found: list[File]) -> list[str]:
    """Files and functions that ask for a second look."""
    said = [f"{file.path.relative_to(ROOT)}: {file.lines} lines" for file in found if file.lines > LONG_FILE]
    return said + [
        f"{file.path.relative_to(ROOT)}:{function.lineno} {function.name}: {length(function)} lines"
        for file in found
        for function in file.functions
        if length(function) > LONG_FUNCTION
    ]


def main() -> None:
    """Print one column for each part, and what is longer than it should be."""
    console = Console(width=120, highlight=False)
    columns = {part: figures(files(folders)) for part, folders in PARTS.items()}
    table = Table("", *columns)
    for name in next(iter(columns.values())):
        table.add_row(name, *(column[name] for column in columns.values()))
    console.print(table)
    for line in long_ones(files(["search", "objectives", "tests"])):
        console.print(line)


if __name__ == "__main__":
    main()
