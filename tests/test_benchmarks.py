from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from shell import TESTS, environment, wait_until

from objectives.base import DatasetError
from objectives.data.datasets import load_dataset
from tests.benchmarks import __main__ as table
from tests.benchmarks import gpu, gpu_bench, gpu_workers
from tests.benchmarks.commands import Ended, time_to_accuracy
from tests.benchmarks.measure import Line, Options, Sample, Skipped, Target, alternate, sample
from tests.benchmarks.objectives import Usual
from tests.benchmarks.settings import fixed
from tests.benchmarks.usual_loop import build


def needs_mnist() -> None:
    try:
        load_dataset("mnist", None, download=False, verify=False)
    except DatasetError as error:
        pytest.skip(f"MNIST is not here: {error}")


def quick(rows: str, output: Path) -> None:
    needs_mnist()
    data = {"SEARCH_DATA_DIR": os.environ["SEARCH_DATA_DIR"]} if "SEARCH_DATA_DIR" in os.environ else {}
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--quick", "--only", rows, "--output", str(output)],
        cwd=TESTS.parent,
        env=environment(data),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert f"written to {output}" in done.stdout
    found = json.loads(output.read_text())
    assert set(found) == {"header", "rows", "skipped", "seconds"}
    assert {"processor", "cores", "load_average", "versions", "git_commit", "repeats"} <= set(found["header"])
    assert {str(row["row"]) for row in found["rows"]} == set(rows.split(","))
    assert found["skipped"] == []
    for row in found["rows"]:
        assert set(row) == {"row", "name", "unit", "ours", "theirs", "ratio", "target", "met", "notes", "details"}
        for side in ("ours", "theirs") if row["theirs"] else ("ours",):
            assert row[side]["min"] <= row[side]["median"] <= row[side]["max"]
            assert row[side]["n"] == len(row[side]["values"]) >= 1
        assert row["ratio"] is None or row["ratio"] > 0


def test_benchmarks_say_their_flags_and_refuse_unknown_rows() -> None:
    command = [sys.executable, "-m", "tests.benchmarks"]
    helped = subprocess.run([*command, "--help"], cwd=TESTS.parent, env=environment(), capture_output=True, text=True)
    assert all(flag in helped.stdout for flag in ("--only", "--repeats", "--quick", "--minutes", "--output"))
    refused = subprocess.run(
        [*command, "--only", "1,13"], cwd=TESTS.parent, env=environment(), capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "there is no row 13" in refused.stderr


def a_line(ours: list[float], theirs: list[float] | None = None, **other: object) -> Line:
    return Line(1, "a line", "s", sample(ours), sample(theirs) if theirs else None, **other)  # type: ignore[arg-type]


def test_a_ratio_is_the_median_of_neighbours_and_more_is_better() -> None:
    assert a_line([10, 20, 90], [1, 2, 30]).ratio == 10
    assert a_line([2, 4], [1, 2], higher_is_better=False).ratio == 0.5
    assert a_line([1]).ratio is None


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (Target(2, "at least"), True),
        (Target(2.1, "at least"), False),
        (Target(4, "at most", of="ours"), True),
        (None, None),
    ],
)
def test_a_target_is_met_by_the_ratio_or_by_our_own_median(target: Target | None, met: bool | None) -> None:
    assert a_line([4, 4], [2, 2], target=target).met is met


def test_a_gain_is_not_lower_unless_its_whole_interval_is() -> None:
    target = Target(0, "at least", of="mean + 95%")
    assert a_line([-0.01, 0.008, -0.004], target=target).met is True
    assert a_line([-0.01, -0.011, -0.012], target=target).met is False
    assert a_line([-0.01], target=target).met is None
    # Student's t of two degrees of freedom at 97.5%: 4.3027; the deviation of 0, 1, 2 is 1.
    assert Sample((0.0, 1.0, 2.0)).highest_mean == pytest.approx(1 + 4.3027 / 3**0.5, abs=1e-4)


def test_sides_take_turns() -> None:
    calls: list[str] = []
    found = alternate(2, lambda n: calls.append(f"a{n}") or n, lambda n: calls.append(f"b{n}") or -n)
    assert calls == ["a0", "b0", "a1", "b1"]
    assert found == [[0, 1], [0, -1]]


def test_notes_are_printed_under_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    where = {"processor": "some", "cores": 2, "load_average": [0.0], "gpu": None, "versions": {}, "git_commit": "abc"}
    notes = {"share of matmul": {"ours": 0.37588}, "pruned": [3, 4]}
    table.show({**where, "started": "now", "repeats": 1, "quick": False}, [a_line([1], notes=notes)], [])
    assert "row 1, a line: share of matmul: {ours: 0.3759}; pruned: 3, 4" in capsys.readouterr().out


def test_both_sides_of_the_usual_script_train_one_network() -> None:
    (setting,) = fixed(1)
    params = {"family": "mlp", "mlp_depth": 1, "mlp_width_1": setting["hidden"], "mlp_dropout": setting["dropout"]}
    ours, theirs = Usual("digits").build_model(params), build(setting)
    assert [type(layer).__name__ for layer in ours] == [type(layer).__name__ for layer in theirs]
    assert ours[1].out_features == theirs[1].out_features
    pixels = torch.rand(2, 1, 8, 8)
    assert torch.equal(ours[0](pixels), theirs[0](pixels))


LOGS = """
import sqlite3, time
for name, table in (("mlflow", "metrics (key, value, timestamp)"), ("optuna", "trials (state)")):
    db = sqlite3.connect(name + ".db")
    db.execute("CREATE TABLE " + table)
    if name == "optuna":
        db.execute("INSERT INTO trials VALUES ('PRUNED')")
    else:
        points = [("val_accuracy", 0.5, 0), ("train_loss", 0.99, 0), ("val/accuracy", 0.9, int(time.time() * 1000))]
        db.executemany("INSERT INTO metrics VALUES (?, ?, ?)", points)
    db.commit()
"""


@pytest.mark.parametrize(("accuracy", "reached"), [(0.8, True), (0.95, False)])
def test_time_to_accuracy_is_the_first_points_own(
    accuracy: float, reached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.benchmarks.commands.data_dir", lambda: Path())
    found = time_to_accuracy([sys.executable, "-c", LOGS], accuracy, limit_s=60)
    assert (found.seconds is not None) == reached
    assert found.seconds is None or 0 < found.seconds < 60
    assert found.states == {"PRUNED": 1}


def test_trials_last_from_the_first_start_to_the_last_end(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "optuna.db") as db:
        db.execute("CREATE TABLE trials (datetime_start, datetime_complete)")
        at = "2026-01-02 03:04:{}".format
        db.executemany("INSERT INTO trials VALUES (?, ?)", [(at("01"), at("03.5")), (at("02.25"), at("08.5"))])
    assert Ended(tmp_path, 10.0, "").trials_s() == 7.5


@pytest.mark.long
@pytest.mark.parametrize("rows", ["1", "2", "3", "5", "6", "7", "10", "12"])
def test_quick_benchmark_writes_its_table_as_json(rows: str, tmp_path: Path) -> None:
    quick(rows, tmp_path / "figures.json")


@pytest.mark.long
def test_quick_benchmark_of_scale(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.benchmarks.scale", "--quick", "--store", "sqlite", "--output", str(output)]
    done = subprocess.run(command, cwd=TESTS.parent, env=environment(), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found = [row["notes"]["found"][0] for row in json.loads(output.read_text())["rows"]]
    assert [0 < each["efficiency"] <= each["ideal"] for each in found] == [True, True]


@pytest.mark.long
def test_quick_benchmark_of_ray_tune(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    quick("4", tmp_path / "figures.json")


ROW = """
import sys, time, types
from tests.benchmarks import __main__ as table
from tests.benchmarks.gpu import Bench, in_turn
from tests.benchmarks.measure import Line, Skipped, sample

def part(name, then):
    def measure(bench):
        yield Line(1, name, "s", sample([1]))
        then()
    return name, 0.0, measure

def fail():
    raise ValueError("no such kernel")

def hours_pass():
    time.monotonic = lambda: 1e12

def made(options):
    return in_turn(Bench(options, "cpu", [1]), {parts})

module = sys.modules["tests.benchmarks.made"] = types.ModuleType("made")
module.made = made
table.ROWS.update({{1: "made:made", 2: "made:made"}})
table.main()
"""
"""The benchmark with other rows: each has some parts of one line, which then do something."""


def other_rows(parts: str, output: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ROW.format(parts=parts), "--output", str(output), *words]
    return subprocess.Popen(
        command, cwd=TESTS.parent, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_killed_benchmark_keeps_its_lines(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    parts = "[part('first', fail), part('second', lambda: time.sleep(600))]"
    with other_rows(parts, output, "--only", "1") as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        wait_until(lambda: len(json.loads(output.read_text())["rows"]) == 2, 10, "the second line in the file")
        process.kill()
    failed = "first failed: ValueError: no such kernel"
    assert said == ["row 1: first: 1 s\n", f"row 1: {failed}\n", "row 1: second: 1 s\n"]
    found = json.loads(output.read_text())
    assert [row["name"] for row in found["rows"]] == ["first", "second"]
    assert found["skipped"] == [{"row": 1, "why": failed}]


def test_a_benchmark_out_of_time_says_what_it_left_out(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    parts = "[part('first', hours_pass), part('second', fail)]"
    with other_rows(parts, output, "--only", "1,2", "--minutes", "60") as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found = json.loads(output.read_text())
    assert [row["name"] for row in found["rows"]] == ["first"]
    assert "row 1 skipped: second: not measured; it takes 0 s at least, and 0 were left" in out
    assert "row 2 skipped: not measured, since no time was left" in out


@pytest.mark.parametrize("minutes", ["0", "-1", "soon"])
def test_a_benchmark_takes_minutes_above_0(minutes: str) -> None:
    refused = CliRunner().invoke(table.main, ["--minutes", minutes])
    assert refused.exit_code == 2
    assert "Invalid value for '--minutes'" in refused.output


def on_the_cpu(part: Callable[[gpu_bench.Bench], gpu_bench.Lines]) -> dict[str, Line]:
    """The lines of one part of the GPU's row, by name; tiny sizes."""
    lines = list(gpu.in_turn(gpu_bench.Bench(Options(1, quick=True), "cpu", (1, 2)), [("part", 0.0, part)]))
    assert [line for line in lines if isinstance(line, Skipped)] == []
    assert all(line.ours.median > 0 and (line.ratio or 1) > 0 for line in lines if isinstance(line, Line))
    return {line.name: line for line in lines if isinstance(line, Line)}


def test_the_gpus_batches_structures_and_seeds_work_on_the_cpu() -> None:
    lines = on_the_cpu(gpu.batches)
    assert len(lines) == 3 * len(gpu_bench.SETTINGS)
    for label in gpu_bench.SETTINGS:
        assert lines[f"{label}: a batch WITHOUT A GRAPH / the same called"].ratio is not None
        assert lines[f"{label}: one seed twice gives the same weights"].met


def test_the_gpus_workers_work_on_the_cpu() -> None:
    lines = on_the_cpu(partial(gpu_workers.workers, mps=True))
    assert list(lines) == ["mlp: 1 worker", "mlp: 2 workers", "cnn: 1 worker", "cnn: 2 workers"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        *(pytest.param(part, marks=pytest.mark.long) for part in (gpu.command, gpu.main_job)),
        *(gpu.loader, gpu.eager, gpu_workers.start),
    ],
)
def test_the_gpus_other_parts_work_on_the_cpu(part: Callable[[gpu_bench.Bench], gpu_bench.Lines]) -> None:
    needs_mnist()
    assert on_the_cpu(part)
