"""Measure this project beside its alternatives: `python -m tests.benchmarks`, from the repository's root."""

from __future__ import annotations

import importlib
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from objectives.files import write_atomic
from tests.benchmarks.measure import Line, Options, Sample, Skipped, header

ROWS = {
    1: "whole_searches:usual",
    2: "whole_searches:pruned",
    3: "whole_searches:example",
    4: "ray_tune:ray_tune",
    5: "loops:loops",
    6: "whole_searches:efficiency",
    7: "growth:growth",
    8: "gpu:gpu",
    9: "main_job:main_job",
    10: "functions:functions",
    11: "ablation:ablation",
    12: "results:results",
}
WIDTH = 150
MET = {True: "yes", False: "NO", None: ""}


def read_rows(ctx: click.Context, param: click.Parameter, text: str) -> list[int]:
    """`1,3,7` as numbers."""
    numbers = [part.strip() for part in text.split(",")]
    unknown = [number for number in numbers if not number.isdigit() or int(number) not in ROWS]
    if unknown:
        raise click.BadParameter(f"there is no row {', '.join(unknown)}; there are {', '.join(map(str, ROWS))}")
    return [int(number) for number in numbers]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", default=",".join(map(str, ROWS)), callback=read_rows, metavar="1,3,7", help="Rows to measure.")
@click.option("--repeats", type=click.IntRange(min=1), help="How often each side is measured.  [default: 3; quick: 1]")
@click.option("--quick", is_flag=True, help="Only show that every row works: a minute or two instead of hours.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Begin no measurement after so many minutes, and say what was not measured.  [default: no limit]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.json",
    help="Where all of it is written.  [default: benchmark-TIME.json]",
)
def main(only: list[int], repeats: int | None, quick: bool, minutes: float | None, output: Path | None) -> None:
    """Measure this project beside its alternatives, alternating, and show medians and spread.

    Each line is printed and written to the file as soon as it is known. A row that gives its lines all at once is one
    measurement, and --minutes does not cut it short.
    """
    ends_at = math.inf if minutes is None else time.monotonic() + 60 * minutes
    options = Options(repeats or (1 if quick else 3), quick, ends_at)
    output = output or Path(f"benchmark-{datetime.now():%Y%m%d-%H%M%S}.json")
    progress = Console(stderr=True)
    found: dict[str, Any] = {"header": header(options), "rows": [], "skipped": [], "seconds": {}}
    lines: list[Line] = []
    for row in only:
        progress.print(f"row {row}: {ROWS[row].partition(':')[2]}", highlight=False)
        begun = time.perf_counter()
        for line in measured(row, options):
            if isinstance(line, Skipped):
                found["skipped"].append({"row": row, "why": str(line)})
                print(f"row {row}: {line}", flush=True)
            else:
                lines.append(line)
                found["rows"].append(line.as_dict())
                print(short(line), flush=True)
            write_atomic(output, json.dumps(found, indent=2).encode())  # it may be killed while the next is measured
        found["seconds"][row] = time.perf_counter() - begun
    write_atomic(output, json.dumps(found, indent=2).encode())
    show(found["header"], lines, found["skipped"])
    print(f"written to {output}")


def measured(row: int, options: Options) -> Iterator[Line | Skipped]:
    """What a row finds, each as soon as it is known."""
    if options.left_s <= 0:
        yield Skipped("not measured, since no time was left")
        return
    module, _, name = ROWS[row].partition(":")
    try:
        yield from getattr(importlib.import_module(f"tests.benchmarks.{module}"), name)(options)
    except Skipped as skipped:
        yield skipped


def short(line: Line) -> str:
    """A line in few words."""
    theirs = "" if line.theirs is None else f" / {line.theirs.median:.4g}"
    ratio = "" if line.ratio is None else f", ratio {line.ratio:.3g}"
    target = "" if line.target is None else f", {line.target}: {MET[line.met]}"
    return f"row {line.row}: {line.name}: {line.ours.median:.4g}{theirs} {line.unit}{ratio}{target}"


def show(where: Mapping[str, Any], lines: Sequence[Line], skipped: Iterable[Mapping[str, Any]]) -> None:
    """Print header, table and notes."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    show_header(console, where)
    table = Table(*("row", "what", "unit", "ours (min-max)", "theirs (min-max)", "n", "ratio", "target", "met"))
    for line in lines:
        table.add_row(
            str(line.row),
            line.name,
            line.unit,
            figure(line.ours),
            figure(line.theirs),
            str(len(line.ours.values)),
            "" if line.ratio is None else f"{line.ratio:.3g}",
            str(line.target or ""),
            MET[line.met],
        )
    console.print(table)
    for line in lines:
        if line.notes:
            console.print(f"row {line.row}, {line.name}: {words(line.notes)}", markup=False)
    for row in skipped:
        console.print(f"row {row['row']} skipped: {row['why']}")


def show_header(console: Console, where: Mapping[str, Any]) -> None:
    """Print where and with what it was measured."""
    load = " ".join(f"{average:.2f}" for average in where["load_average"])
    console.print(f"{where['processor']}, {where['cores']} cores, load {load}, GPU: {where['gpu'] or 'none'}")
    console.print(", ".join(f"{name} {version}" for name, version in where["versions"].items()))
    quick = "; QUICK: sizes so small that the figures mean nothing" if where["quick"] else ""
    console.print(f"commit {where['git_commit']}, {where['started']}, repeats {where['repeats']}{quick}")


def figure(measured: Sample | None) -> str:
    """A median with its spread."""
    if measured is None:
        return ""
    return f"{measured.median:.4g} ({min(measured.values):.4g}-{max(measured.values):.4g})"


def words(value: Any) -> str:
    """A note as people read it: nested figures on one line, four digits of each."""
    match value:
        case float():
            return f"{value:.4g}"
        case dict():
            return "; ".join(
                f"{name}: {{{words(inner)}}}" if isinstance(inner, dict) else f"{name}: {words(inner)}"
                for name, inner in value.items()
            )
        case list() | tuple():
            return ", ".join(f"{{{words(each)}}}" if isinstance(each, dict) else words(each) for each in value)
    return str(value)


if __name__ == "__main__":
    main(prog_name="python -m tests.benchmarks")
