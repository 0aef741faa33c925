"""Plain Optuna functions, searched by the real command: what a trial answers, how one ends, what is kept."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
from optuna.trial import FrozenTrial
from shell import TESTS, begin, end, environment, rows, search, wait_until

FUNCTIONS = TESTS / "fixtures" / "functions"
ALONE = ("--jobs", 1, "--confirm", 0, "--direction", "minimize")

pytestmark = pytest.mark.slow


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the functions, and databases that are made already."""
    monkeypatch.chdir(folder)  # MLflow keeps artifacts relative to it
    for script in FUNCTIONS.glob("*.py"):
        shutil.copy(script, folder)
    return folder


def study_in(folder: Path, name: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'optuna.db'}")


def states(folder: Path, name: str) -> list[str]:
    return [trial.state.name for trial in study_in(folder, name).trials]


def client(folder: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def runs(folder: Path, name: str, kind: str = "trial") -> dict[int, Any]:
    """MLflow's runs of a kind, by the number of their trial."""
    experiment = client(folder).get_experiment_by_name(name)
    found = client(folder).search_runs([experiment.experiment_id], f"tags.kind = '{kind}'", max_results=1000)
    return {int(run.data.tags["optuna.trial.number"]): run for run in found}


def refused(folder: Path, *words: object) -> str:
    """What a search says that cannot begin or go on, in one paragraph and without a traceback."""
    result = search("--objective", *words, cwd=folder)
    assert result.returncode in (1, 2), result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    return " ".join(result.stderr.split())


# What a trial answers ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")
@pytest.mark.parametrize("engine", ["local", "inline"])
def test_a_trial_answers_as_optunas_own(place: Path, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch):
    words = ("--objective", "probes.py:objective", *ALONE, "--trials", 3, "--pruner", "none", "--engine", engine)
    jobs = [word for word in words if engine == "local" or word not in ("--jobs", 1)]
    result = search(*jobs, cwd=place)
    assert result.returncode == 0, result.stdout + result.stderr
    plain = tmp_path / "plain"
    plain.mkdir()
    monkeypatch.chdir(plain)
    function = runpy.run_path(str(FUNCTIONS / "probes.py"))["objective"]
    study = optuna.create_study(storage="sqlite:///optuna.db", pruner=optuna.pruners.NopPruner())
    study.optimize(function, n_trials=3)
    for number in range(3):
        ours, theirs = (_probed(where / f"probes-{number}.json") for where in (place, plain))
        assert ours == theirs
    stored = study_in(place, "probes")
    assert stored.direction == optuna.study.StudyDirection.MINIMIZE
    assert [trial.value for trial in stored.trials] == [10, 9, 8]
    assert [_plain(trial) for trial in stored.trials] == [_plain(trial) for trial in study.trials]
    storage = f"sqlite:///{place / 'optuna.db'}"
    artifacts = optuna.artifacts.get_all_artifact_meta(stored.best_trial, storage=optuna.storages.RDBStorage(storage))
    assert [artifact.filename for artifact in artifacts] == ["probes.py"]
    assert stored.best_trial.system_attrs["terminator:cv_scores"] == [0.5, 0.75]


def _probed(path: Path) -> dict[str, Any]:
    """What was noted, without what differs on purpose: two messages, and choices that a study can store only here."""
    probed = json.loads(path.read_text())
    probed["distributions"]["answer"].pop("list")
    for name in ("what is not there", "set_user_attr of an object"):
        probed[name]["answer"] = probed[name]["answer"].partition(":")[0]
    choices = "Choices for a categorical distribution"
    return {name: (seen["answer"], [w for w in seen["warnings"] if choices not in w]) for name, seen in probed.items()}


def _plain(trial: FrozenTrial) -> tuple[Any, ...]:
    """What does not depend on the sampler, without the attributes of this project."""
    attrs = {name: trial.user_attrs.get(name) for name in ("note", "other")}
    distributions = {name: kind for name, kind in trial.distributions.items() if name != "list"}
    return trial.state, trial.value, str(trial.intermediate_values), distributions, attrs


def test_pruned_are_the_trials_that_optunas_median_pruner_prunes(place: Path):
    result = search("--objective", "pruned.py:objective", *ALONE, "--trials", 14, cwd=place)
    assert result.returncode == 0, result.stdout + result.stderr
    plain = optuna.create_study(pruner=optuna.pruners.MedianPruner())
    plain.optimize(runpy.run_path("pruned.py")["objective"], n_trials=14)
    told = [(trial.state, trial.intermediate_values) for trial in study_in(place, "pruned").trials]
    assert told == [(trial.state, trial.intermediate_values) for trial in plain.trials]
    n_pruned = [state for state, _ in told].count(optuna.trial.TrialState.PRUNED)
    assert 0 < n_pruned < 10
    assert len(re.findall(r"trial \d+ .*pruned at ", result.stdout)) == n_pruned


# What may be searched ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "study"),
    [
        ("Objective", "forms"),
        ("partial", "forms-partial"),
        ("small", "forms-small"),
        ("Study.objective", "forms-Study-objective"),
    ],
)
def test_every_callable_of_a_trial_is_searched_from_another_folder(place: Path, name: str, study: str):
    (place / "code").mkdir()
    for script in ("forms.py", "beside.py"):
        (place / script).rename(place / "code" / script)
    result = search("--objective", f"code/forms.py:{name}", *ALONE, "--trials", 3, "--quiet", cwd=place)
    assert result.returncode == 0, result.stdout + result.stderr
    best = study_in(place, study).best_trial
    factor = {"Objective": 1, "Study.objective": 3}.get(name, 2)
    assert best.value == pytest.approx(factor * best.params["x"] ** 2 + 1)


def test_a_function_of_a_module_is_searched(place: Path):
    words = ("--objective", "forms:small", "--trials", 2, "--confirm", 0, "--quiet")
    result = search(*words, cwd=place, env={"PYTHONPATH": os.pathsep.join([environment()["PYTHONPATH"], str(place)])})
    assert result.returncode == 0, result.stdout + result.stderr
    assert states(place, "forms-small") == ["COMPLETE", "COMPLETE"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("forms.py:scaled", "call it in the file and name the result"),
        ("forms.py:nobody", "forms.py has no 'nobody'; it has scaled"),
        ("nowhere.py:objective", "there is no file nowhere.py"),
        ("ends.py:several", "the function returned 2 values"),
        ("ends.py:listed --direction best", "'best' is not one of 'maximize', 'minimize'"),
    ],
)
def test_what_cannot_be_searched_is_refused(place: Path, target: str, words: str):
    name, *more = target.split()
    assert words in refused(place, name, *more, "--trials", 2, "--jobs", 1)


# How a function ends -------------------------------------------------------------------------------------------------


def test_a_trial_ends_as_its_function_ends(place: Path):
    result = search("--objective", "ends.py:mixed", *ALONE, "--trials", 12, cwd=place)
    assert result.returncode == 0, result.stdout + result.stderr
    six = ["COMPLETE", "PRUNED", "FAIL", "FAIL", "PRUNED", "FAIL"]
    assert states(place, "ends-mixed") == six * 2
    tracked = runs(place, "ends-mixed")
    assert [tracked[number].data.tags["optuna.state"] for number in range(12)] == six * 2
    assert [run.info.status for _, run in sorted(tracked.items())] == [
        "FAILED" if state == "FAIL" else "FINISHED" for state in six * 2
    ]
    assert study_in(place, "ends-mixed").trials[4].value == 0.25
    for words in ("trial 2 has no luck", "The value nan is not acceptable", "MemoryError"):
        assert words in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    failed = client(place).list_artifacts(tracked[2].info.run_id)
    assert "traceback.txt" in [file.path for file in failed]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "KeyError: 'no column called False'"),
        ("nothing", "The value None could not be cast to float."),
        ("leaves", "SystemExit"),
    ],
)
def test_a_search_ends_with_the_reason_if_every_trial_fails(place: Path, name: str, message: str):
    assert message in refused(place, f"ends.py:{name}", *ALONE, "--trials", 30)
    assert states(place, f"ends-{name}") == ["FAIL"] * 10


@pytest.mark.parametrize("name", ["listed", "numpy"])
def test_values_that_optuna_takes_are_taken(place: Path, name: str):
    study = optuna.create_study()
    study.optimize(runpy.run_path(str(FUNCTIONS / "ends.py"))[name], n_trials=1, catch=(Exception,))
    result = search("--objective", f"ends.py:{name}", *ALONE, "--trials", 1, "--quiet", cwd=place)
    assert states(place, f"ends-{name}") == [study.trials[0].state.name], result.stdout + result.stderr


def test_choices_stay_those_of_the_study(place: Path):
    script, line = place / "choices.py", "def objective(trial):\n    return len(trial.suggest_categorical('x', {}))\n"
    words = ("--objective", "choices.py:objective", *ALONE)
    script.write_text(line.format(["a", "b"]))
    assert search(*words, "--trials", 2, "--quiet", cwd=place).returncode == 0
    script.write_text(line.format(["a", "b", "c"]))
    result = search(*words, "--trials", 4, cwd=place)
    assert result.stdout.count("ValueError: CategoricalDistribution does not support dynamic value space.") == 2
    assert states(place, "choices") == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]


# What is kept --------------------------------------------------------------------------------------------------------


def test_a_training_is_kept_whole(place: Path):
    """Curves, attributes, output and files of every trial. The function asks for a seed, so the winner is confirmed."""
    result = search("--objective", "training.py:objective", "--trials", 8, "--jobs", 2, cwd=place)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "this file is imported" not in result.stdout
    for printed in ("this goes to stderr", "this is a warning", "this comes from C", "this is logged"):
        assert printed not in result.stdout + result.stderr
    study = study_in(place, "training")
    assert len(study.trials) == 8
    tracked = runs(place, "training")
    for trial in study.trials:
        run = tracked[trial.number]
        own = {name: f"the user's own {name}" for name in ("label", "metrics", "kind", "winner", "failure")}
        stored = {name: trial.user_attrs.get(f"user:{name}", trial.user_attrs.get(name)) for name in own}
        assert stored == own
        assert trial.user_attrs["widths"] == [trial.params[f"width {i}"] for i in range(trial.params["layers"])]
        tags = run.data.tags
        assert {name: tags.get(f"user.{name}", tags.get(name)) for name in own} == own
        assert (tags["kind"], tags["optuna.trial.number"]) == ("trial", str(trial.number))
        assert {*trial.params, "search.seed"} == set(run.data.params)
        assert run.data.params["seed"] == str(trial.params["seed"])
        assert _curve(place, run, "intermediate/value") == sorted(trial.intermediate_values.items())
        assert [step for step, _ in _curve(place, run, "train/loss")] == list(range(len(trial.intermediate_values)))
        files = {file.path for file in client(place).list_artifacts(run.info.run_id)}
        assert (f"summary-{trial.number}.json" in files) == (trial.state.name == "COMPLETE")
        output = Path(client(place).download_artifacts(run.info.run_id, "output.txt", str(place))).read_text()
        assert output.startswith(f"trial {trial.number} has ")
        for printed in (
            "this goes to stderr",
            "this is logged",
            "this comes from C",
            "UserWarning: this is a warning of trial",
        ):
            assert output.count(printed) == 1, output
    confirmed = runs(place, "training", "confirm")
    assert confirmed
    assert "not confirmed" not in result.stdout


def _curve(folder: Path, run: Any, name: str) -> list[tuple[int, float]]:
    history = client(folder).get_metric_history(run.info.run_id, name)
    return sorted((point.step, point.value) for point in history)


def test_the_same_script_runs_by_itself(place: Path):
    command = [sys.executable, "training.py"]
    done = subprocess.run(command, cwd=place, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^best: \d", done.stdout, re.M)
    assert not (place / "mlruns").exists()


def test_a_winner_without_a_seed_is_not_confirmed(place: Path):
    result = search("--objective", "forms.py:small", "--trials", 3, "--jobs", 1, cwd=place)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the winner is not confirmed: the function never asks for a seed" in " ".join(result.stdout.split())
    assert runs(place, "forms-small", "confirm") == {}


# Interruptions -------------------------------------------------------------------------------------------------------


def test_a_killed_trial_resumes_from_its_checkpoint(place: Path):
    words = ("--objective", "training.py:objective", *ALONE, "--trials", 2, "--pruner", "none")
    slow = {"TRAINING_STEPS": "20", "TRAINING_STEP_S": "0.3"}
    process = begin(*words, cwd=place, env=slow)
    steps = place / "steps-0.txt"
    wait_until(lambda: steps.exists() and len(steps.read_text().splitlines()) >= 4, 60, "the fourth step")
    process.kill()
    end(process)
    result = search(*words, cwd=place, env={"TRAINING_STEPS": "20"})
    assert result.returncode == 0, result.stdout + result.stderr
    trained = [int(line) for line in steps.read_text().split()]
    assert sorted(set(trained)) == list(range(20))
    assert len(trained) <= 21  # the step during which it was killed may be there twice
    for trial in study_in(place, "training").trials:
        assert sorted(trial.intermediate_values) == list(range(20))
        run = runs(place, "training")[trial.number]
        assert [step for step, _ in _curve(place, run, "train/loss")] == list(range(20))


@pytest.mark.long
def test_ctrl_c_leaves_a_study_that_continues(place: Path):
    words = ("--objective", "training.py:objective", *ALONE, "--trials", 4, "--pruner", "none")
    process = begin(*words, cwd=place, env={"TRAINING_STEP_S": "0.3"})
    query = "SELECT count(*) FROM trial_intermediate_values"
    wait_until(lambda: rows(place / "optuna.db", query)[0][0] >= 8, 60, "the second trial")
    process.send_signal(signal.SIGINT)
    stopped = end(process)
    assert stopped.returncode == 130, stopped.stdout + stopped.stderr
    assert "Traceback" not in stopped.stdout + stopped.stderr
    params = [trial.params for trial in study_in(place, "training").trials]
    result = search(*words, cwd=place)
    assert result.returncode == 0, result.stdout + result.stderr
    study = study_in(place, "training")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    assert [trial.params for trial in study.trials][: len(params) - 1] == params[:-1]
    assert params[-1].items() <= study.trials[len(params) - 1].params.items()


# Other engines -------------------------------------------------------------------------------------------------------


def test_the_process_of_the_search_can_call_the_function(place: Path):
    words = ("--objective", "training.py:objective", "--trials", 3, "--engine", "inline", "--confirm", 0)
    result = search(*words, cwd=place)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "this goes to stderr" not in result.stdout + result.stderr
    run = runs(place, "training")[0]
    output = Path(client(place).download_artifacts(run.info.run_id, "output.txt", str(place))).read_text()
    assert "this goes to stderr" in output


@pytest.mark.long
def test_ray_calls_the_function(place: Path):
    pytest.importorskip("ray")
    words = ("--objective", "training.py:objective", "--trials", 4, "--engine", "ray", "--jobs", 2, "--confirm", 1)
    result = search(*words, cwd=place)
    assert result.returncode == 0, result.stdout + result.stderr
    assert set(states(place, "training")) <= {"COMPLETE", "PRUNED"}
    output = runs(place, "training")[0].info.run_id
    text = Path(client(place).download_artifacts(output, "output.txt", str(place))).read_text()
    assert text.startswith("trial 0 has ")
