from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from quick_benchmark import needs_mnist, quick
from shell import TESTS, environment

from tests.benchmarks import __main__ as table
from tests.benchmarks import gpu
from tests.benchmarks.commands import Ended, time_to_accuracy
from tests.benchmarks.measure import Line, Options, Sample, Target, alternate, sample
from tests.benchmarks.objectives import Usual
from tests.benchmarks.settings import fixed
from tests.benchmarks.usual_loop import build


def test_benchmarks_say_their_flags_and_refuse_unknown_rows() -> None:
    command = [sys.executable, "-m", "tests.benchmarks"]
    helped = subprocess.run([*command, "--help"], cwd=TESTS.parent, env=environment(), capture_output=True, text=True)
    assert all(flag in helped.stdout for flag in ("--only", "--repeats", "--quick", "--output"))
    refused = subprocess.run(
        [*command, "--only", "1,12"], cwd=TESTS.parent, env=environment(), capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "there is no row 12" in refused.stderr


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
@pytest.mark.parametrize("rows", ["1", "2", "3", "5", "6", "7", "10"])
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


@pytest.mark.slow
def test_the_gpus_loops_work_on_the_cpu() -> None:
    needs_mnist()
    lines = gpu.loops(Options(1, quick=True), "mlp", "cpu")
    assert [line.name.partition(" / ")[2] for line in lines] == [
        "the same called",
        "eager, DataLoader",
        "eager, data on the device",
        *gpu.VARIANTS,
        "the same called",
    ]
    assert all(line.ratio for line in lines)
