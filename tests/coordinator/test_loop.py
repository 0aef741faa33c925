"""The loop: what it stores of a trial, and that an interruption at any step repeats nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from optuna.trial import TrialState
from place import STEPS, Place, after
from toy import Toy

from objectives.base import Params, Suggest
from search.common.errors import SearchStoppedError
from search.study.sampling.sampling_study import SamplingStudy
from search.tracking.store import connect_mlflow


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [2, 3, 4, 5, 6])
def test_an_interruption_at_any_step_repeats_nothing(place: Place, rounds: int):
    """Rounds 1 to 4 end in the first trial, 3 between its last step and its end; later ones in the second."""
    place.search(2, interrupted=after(rounds))
    checkpoints = list((place.folder / "checkpoints").glob("*"))
    record = place.search(2)
    assert [trial.state for trial in record.trials] == [TrialState.COMPLETE] * 2, rounds
    assert [sorted(trial.intermediate) for trial in record.trials] == [[1, 2, 3, 4]] * 2
    assert [trial.value for trial in record.trials] == [trial.intermediate[4] for trial in record.trials]
    assert [trial.metrics["epochs"] for trial in record.trials] == [4, 4]
    curves = place.curves()
    for trial in record.trials:
        assert curves[f"#{trial.number:03d} {trial.label}"] == sorted(trial.intermediate.items())
    assert bool(checkpoints) == (rounds not in (4, 5))  # then the first trial has just ended
    assert not list((place.folder / "checkpoints").glob("*"))


@pytest.mark.parametrize(("mode", "state"), [("fine", TrialState.COMPLETE), ("error", TrialState.FAIL)])
def test_a_trial_killed_between_its_verdict_and_its_end_is_only_ended(
    place: Place, mode: str, state: TrialState, monkeypatch: pytest.MonkeyPatch
):
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed("between verdict and end")

    with monkeypatch.context() as patched:
        patched.setattr(SamplingStudy, "tell", killed)
        with pytest.raises(Killed, match="between verdict and end"):
            place.search(1, mode=mode)
    curves = place.curves()
    (trial,) = place.search(1, mode="hang").trials  # another training would hang
    assert trial.state == state
    assert trial.value == trial.intermediate.get(STEPS)
    assert trial.failure == (None if mode == "fine" else "error")
    assert place.curves() == curves


@pytest.mark.slow
def test_runs_are_closed_when_another_program_writes_to_the_study(place: Place, monkeypatch: pytest.MonkeyPatch):
    report = SamplingStudy.report

    def interfered(study: SamplingStudy, number: int, step: int, value: float, **options: bool) -> bool:
        if step == 2:
            raise SearchStoppedError("another program has ended trial 0")
        return report(study, number, step, value, **options)

    with monkeypatch.context() as patched:
        patched.setattr(SamplingStudy, "report", interfered)
        with pytest.raises(SearchStoppedError, match="another program"):
            place.search(1)
    assert [status for _, status, _ in place.runs("trial")] == ["KILLED"]
    (trial,) = place.search(1).trials
    assert trial.state == TrialState.COMPLETE


@pytest.mark.slow
def test_interrupted_or_not_the_values_are_the_same(place: Place):
    whole = Place(Path(shutil.copytree(place.folder, place.folder.with_name("whole"))))
    interrupted = place.search(3, interrupted=after(2))
    assert interrupted.trials[0].state == TrialState.RUNNING
    histories = []
    for folder in (place, whole):
        record = folder.search(3)
        histories.append([(dict(trial.params), dict(trial.intermediate), trial.value) for trial in record.trials])
    assert histories[0] == histories[1]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("diverge@2", "diverged"), ("nan@2", "diverged"), ("error", "error"), ("memory@1", "out_of_memory")],
)
def test_a_failed_trial_counts_and_the_search_goes_on(place: Place, mode: str, kind: str):
    record = place.search(3, mode=mode)
    assert [(trial.state, trial.failure) for trial in record.trials] == [(TrialState.FAIL, kind)] * 3
    assert len(place.curves()) == 4


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("endless", "the training went on to step 5, after its last, 4"),
        ("miscount@1", "after step 1 the training called itself 3; count one a pull"),
    ],
)
def test_a_training_that_counts_wrongly_fails(place: Place, mode: str, message: str):
    (trial,) = place.search(1, mode=mode).trials
    assert (trial.state, trial.failure) == (TrialState.FAIL, "error")
    assert message in (trial.failure_message or "")


def test_a_stray_figure_is_left_out_and_told_once(place: Place):
    record = place.search(2, mode="stray")
    assert [trial.state for trial in record.trials] == [TrialState.COMPLETE] * 2
    assert sorted(map(len, place.curves().values())) == [0, 4, 4]  # the other figures arrive
    lines = place.lines.getvalue()
    assert lines.count("metric 'train/loss' is left out where it is not a finite number") == 1
    assert lines.count("MLflow does not take the name of metric 'val/f1 (%)'; it is 'val/f1 ___' there") == 1


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("exit@1", "SystemExit: sys.exit(3) was called"),
        ("mute", "GeneratorExit"),
        ("wild@2", "ValueError: lone \\ud800, \\x1b[31mred, over\\rwritten"),
    ],
)
def test_what_a_training_raises_fails_its_trial_and_can_be_shown(place: Place, mode: str, message: str):
    record = place.search(2, mode=mode)
    assert [trial.failure_message for trial in record.trials] == [message] * 2
    assert place.lines.getvalue().count(f"failed (error): {message}") == 2
    assert len(place.curves()) == 3


class Named(Toy):
    """A toy with many parameters, of which MLflow takes no name as it is, and one called as a figure of ours."""

    NAMES = ("lr (log)", "lr [log]", "layers[0].units", "..", "/a", "x" * 260, *(f"p#{i}" for i in range(100)))

    def suggest(self, trial: Suggest) -> Params:
        odd = {name: trial.suggest_float(name, 0, 1) for name in self.NAMES}
        return {**super().suggest(trial), **odd, "epochs": 3, "text": "\x1b\x00" * 4_000}


def test_parameters_arrive_in_mlflow_whatever_their_number_and_names(place: Place):
    objective = Named(steps=STEPS)
    objective.metric = "score (%)"
    (trial,) = place.search(1, objective=objective).trials
    client = connect_mlflow(f"sqlite:///{place.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    params = run.data.params
    assert len(params) == len(Named.NAMES) + len(trial.params.keys() - {*Named.NAMES}) + len(("epochs", "text")) + 2
    assert (params["epochs"], params["task.epochs"]) == ("3", str(STEPS))
    assert float(params["layers_0_.units"]) == pytest.approx(trial.params["layers[0].units"], rel=1e-5)
    assert len({params[name] for name in params if name.startswith("lr _log_")}) == 2
    assert len(params["text"]) <= 6_000
    assert run.data.metrics["score ___"] == trial.value
    assert "MLflow does not take the name of parameter 'lr (log)'; it is 'lr _log_" in place.lines.getvalue()


def test_a_notice_is_shown_once(place: Place):
    place.search(2, mode="notice")
    assert place.lines.getvalue().count("a worker has something to say") == 1


def test_ten_failures_of_one_kind_stop_the_search(place: Place):
    with pytest.raises(SearchStoppedError, match=r"all 10 trials failed for the same reason \(error\).*the spoon"):
        place.search(50, mode="error")


def test_a_baseline_trains_to_its_end_and_others_may_be_pruned(place: Place):
    objective = Toy(steps=STEPS)
    objective.known = {"hopeless": {"kind": "deep", "x": -1.0, "depth": 1}}
    place.search(1)  # so that the baseline is not the first at the first rung
    record = place.search(14, pruner="halving", objective=objective)
    states = [trial.state for trial in record.trials]
    assert TrialState.PRUNED in states
    (baseline,) = [trial for trial in record.trials if trial.baseline]
    assert (baseline.state, sorted(baseline.intermediate)) == (TrialState.COMPLETE, [1, 2, 3, 4])
    assert all(len(trial.intermediate) < STEPS for trial in record.trials if trial.state == TrialState.PRUNED)


def test_more_trials_later_are_only_the_missing_ones(place: Place):
    assert len(place.search(2).trials) == 2
    assert len(place.search(3).trials) == 3
    assert len(place.search(3).trials) == 3
    assert len(place.search(2).trials) == 3
