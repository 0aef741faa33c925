"""The contract checks: a correct objective passes, and every mistake is named."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from regression import Curve, Fit
from shell import search
from torch import nn
from toy import Toy, ToyTraining

from objectives.base import Diverged, EpochResult, Outcome, Params, Suggest, Task, Training
from objectives.images.objective import ImageClassification
from objectives.spec import ObjectiveSpec
from search.cli.main import cli
from search.study.space.objective_calls import ContractError
from search.study.space.space import search_space
from search.testing.checks import CHECKS
from search.testing.findings import NotTried, examine
from search.testing.specimen import Specimen

README = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text(encoding="utf-8")


class Tidy(Toy):
    """A toy that trains for the given epochs and returns no weights."""

    def start(self, task: Task, device: str) -> ToyTraining:
        return Ending(task, Outcome({"noise": 0.5}))


@pytest.fixture(scope="module", params=["test_checks:Tidy", "regression:Curve", "digits"])
def good(request: pytest.FixtureRequest) -> Specimen:
    if request.param != "digits":
        return Specimen.of(request.param)
    spec = ObjectiveSpec("objectives.images:ImageClassification", {"dataset": "digits"})
    return Specimen(spec, spec.load())


@pytest.mark.parametrize("check", CHECKS)
def test_the_objectives_here_keep_the_contract(good: Specimen, check: Callable[[Specimen], None]):
    check(good)


class Slow(Toy):
    def suggest(self, trial: Suggest) -> Params:
        time.sleep(0.06)
        return super().suggest(trial)


class Forgetful(ToyTraining):
    """A training whose checkpoint lacks the random numbers."""

    def __init__(self, task: Task, **more: Any) -> None:
        super().__init__(task, steps=3, mode="fine")
        for name, value in more.items():
            setattr(self, name, value)
        self.random.seed(task.seed)


class Careless(ToyTraining):
    def __init__(self, task: Task) -> None:
        super().__init__(task, steps=3, mode="fine")
        self.random.seed()


class Renumbered(ToyTraining):
    def __next__(self) -> EpochResult:
        result = super().__next__()
        return EpochResult(result.step - 1, result.epoch - 1, result.value, result.metrics, 0.0)


class Unmeasured(ToyTraining):
    def __next__(self) -> EpochResult:
        return replace(super().__next__(), metrics={"val/loss": None})  # type: ignore[dict-item]


class Worded(ToyTraining):
    """A training that gives its values as texts."""

    def __next__(self) -> EpochResult:
        result = super().__next__()
        return replace(result, value=str(result.value))  # type: ignore[arg-type]


class Bare(ToyTraining):
    def __next__(self) -> Any:
        super().__next__()
        return self.value


class Ending(ToyTraining):
    def __init__(self, task: Task, outcome: Any) -> None:
        super().__init__(task, steps=task.epochs, mode="fine")
        self.last_outcome = outcome

    def outcome(self) -> Any:
        return self.last_outcome


class Changed(Toy):
    """A toy with some attributes replaced."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(steps=3)
        for name, change in changes.items():
            setattr(self, name, change)


class Unfitted(ImageClassification):
    """A classifier that lacks `refit_epochs` alone."""

    refit_epochs = None  # type: ignore[assignment]

    def __init__(self, **changes: Any) -> None:
        super().__init__("digits")
        for name, change in changes.items():
            setattr(self, name, change)

    def start(self, task: Task, device: str) -> Training:
        if task.refit:
            raise ValueError("refits are not supported")
        return super().start(task, device)


def classifier(**changes: Any) -> Unfitted:
    return Unfitted(refit_epochs=lambda epochs: epochs, **changes)


class Heavy(Curve):
    def n_parameters(self, params: Params) -> int:
        return 7


def of_training(make: Callable[[Task], object]) -> Changed:
    return Changed(start=lambda task, device: make(task))


COUNTER = iter(range(10**6))
WRONG: list[tuple[object, str, str]] = [
    (Changed(name="a/b"), "check_names", r"name is 'a/b'; give a text of letters, digits"),
    (Changed(metric=None), "check_names", r"metric is None; give a text"),
    (Slow(), "check_suggest", r"suggest took 0\.\d\d s; .* keep it below 0.05 s"),
    (Changed(suggest=lambda trial: {"x": 1}), "check_suggest", r"asked the trial for nothing"),
    (Changed(suggest=lambda trial: {"x": [trial.suggest_int("x", 1, 2)]}), "check_suggest", r"parameters are numbers"),
    (Changed(suggest=lambda trial: trial.suggest_int("x", 1, 2)), "check_suggest", r"give a dict of parameters"),
    (Changed(suggest=lambda trial: trial.suggest_it("x")), "check_suggest", r"suggest used trial.suggest_it, which"),
    (
        Changed(suggest=lambda trial: {"x": trial.suggest_int("x", 1, 2), "n": next(COUNTER)}),
        "check_suggest",
        r"suggest made .* only the trial may decide",
    ),
    (Changed(known={"far": {"x": 9.0}}), "check_baselines", r"baseline 'far' has x = 9.0, which suggest does not"),
    (Changed(portfolio=lambda: 3), "check_baselines", r"portfolio gave 3; give a list of configurations"),
    (Changed(known={"odd": {"y": 9.0}}), "check_baselines", r"baseline 'odd' has 'y', which suggest does not ask for"),
    (Changed(describe=lambda params: "two\nlines"), "check_words", r"describe gave 'two\\nlines'"),
    (Changed(fingerprint=lambda: {"data": object()}), "check_words", r"fingerprint gave .* not plain data"),
    (Changed(fingerprint=lambda: {"data": "other"}), "check_words", r"fingerprint was .* made a second time"),
    (Changed(epochs=lambda device: 2.5), "check_schedule", r"epochs gave 2.5; give a whole number above 0"),
    (Changed(steps_per_epoch=lambda: 0), "check_schedule", r"steps_per_epoch gave 0"),
    (Changed(check=lambda params: params["z"]), "check_examples", r"check failed: KeyError: 'z'"),
    (of_training(lambda task: ToyTraining(task, 2, "fine")), "check_training", r"ended after 2 pulls, not after"),
    (of_training(lambda task: ToyTraining(task, 9, "fine")), "check_training", r"it went on after 3 pulls"),
    (of_training(lambda task: Worded(task, 3, "fine")), "check_training", r"was '[-\d.]+' at step 1; give a number"),
    (of_training(lambda task: Unmeasured(task, 3, "fine")), "check_training", r"was None at step 1; leave out what"),
    (of_training(lambda task: Renumbered(task, 3, "fine")), "check_training", r"pull 1 called itself step 0"),
    (of_training(lambda task: Bare(task, 3, "fine")), "check_training", r"a pull gave 0\.\d+; give an objectives"),
    (of_training(lambda task: ToyTraining(task, 3, "nan")), "check_training", r"score was nan at step 1; raise"),
    (of_training(lambda task: ToyTraining(task, 3, "error")), "check_training", r"failed: ValueError: the spoon"),
    (of_training(lambda task: ToyTraining(task, 3, "diverge")), "check_training", r"of 5 configurations all diverged"),
    (of_training(Careless), "check_repeats", r"step 1 gave .* for the same task"),
    (of_training(Forgetful), "check_resume", r"resumed after step 1, step 2 gave .* random numbers"),
    (
        of_training(lambda task: ToyTraining(Task(0, task.params, 1, 3), 3, "fine")),
        "check_resume",
        r"gave step 1; go on from task.checkpoint",
    ),
    (of_training(lambda task: Ending(task, None)), "check_outcome", r"outcome gave None; give an objectives.base"),
    (
        of_training(lambda task: Ending(task, Outcome({}, b"x"))),
        "check_outcome",
        r"weights cannot be read with torch",
    ),
    (of_training(lambda task: Ending(task, Outcome({"f": (lambda: 1)}))), "check_plain_data", r"cannot be sent"),
    (Unfitted(), "check_protocols", r"lacks refit_epochs, so it does not count as objectives.base.ImageClassifier"),
    (Changed(example_input=list), "check_protocols", r"has example_input and lacks load_weights, .*base.Exportable"),
    (classifier(), "check_images", r"start failed: ValueError: refits are not supported"),
    (classifier(class_names=lambda: ("a", "a")), "check_images", r"class_names gave \('a', 'a'\); give different"),
    (classifier(class_names=lambda: ("a", "b")), "check_images", r"labels go from 0 to 9; there are 2 classes"),
    (classifier(framing=lambda: {"channels": 1}), "check_images", r"framing failed: TypeError"),
    (classifier(load_weights=lambda *_: nn.Flatten()), "check_network", r"network made \(4, 64\), not \(4, 10\)"),
    (Heavy(), "check_cost", r"n_parameters says 7, and the trained network has \d+"),
]


@pytest.mark.parametrize(
    ("objective", "check", "message"), [pytest.param(*case, id=f"{case[1]}-{n}") for n, case in enumerate(WRONG)]
)
def test_a_broken_contract_is_named(objective: Any, check: str, message: str):
    specimen = Specimen(ObjectiveSpec("toy:Toy"), objective)
    with pytest.raises(ContractError, match=message):
        {check.__name__: check for check in CHECKS}[check](specimen)


def test_checks_of_a_failed_training_are_not_tried():
    specimen = Specimen(ObjectiveSpec("toy:Toy"), of_training(lambda task: ToyTraining(task, 3, "error")))
    findings = list(examine(specimen, CHECKS))
    assert [finding.wrong is not None for finding in findings].count(True) == 1
    assert [finding.not_tried for finding in findings].count("no training gets this far") == 5
    with pytest.raises(NotTried, match="no training gets this far"):
        specimen.sample()


def test_a_training_of_one_configuration_may_diverge():
    class SometimesDiverging(Ending):
        def __next__(self) -> EpochResult:
            if float(self.task.params["x"] or 0) > 0:
                raise Diverged("the loss became nan")
            return super().__next__()

    specimen = Specimen(ObjectiveSpec("toy:Toy"), of_training(lambda task: SometimesDiverging(task, Outcome())))
    assert all(finding.wrong is None for finding in examine(specimen, CHECKS))


def test_whole_epochs_are_trained_on_a_finer_schedule():
    specimen = Specimen.of("regression:Curve")
    assert isinstance(specimen.objective, Curve)
    assert [result.epoch for result in specimen.sample().results] == [0.25, 0.5, 0.75, 1.0]
    assert isinstance(specimen.objective.start(specimen.sample().task, "cpu"), Fit)
    assert set(search_space(specimen.objective)) == {"units", "lr"}


@pytest.mark.slow
def test_the_command_prints_every_mistake_and_the_result(tmp_path: Path):
    """As a user types it: it forks, and after a training in this process torch may refuse to train in a fork."""
    tidy = search("check-objective", "test_checks:Tidy", cwd=tmp_path)
    assert (tidy.returncode, tidy.stdout.splitlines()[-1]) == (0, "test_checks:Tidy: all checks passed")
    heavy = search("check-objective", "test_checks:Heavy", cwd=tmp_path)
    mistake = r"^wrong  Its number of parameters is true.*\n       n_parameters says 7"
    assert re.search(mistake, heavy.stdout, re.M), heavy.stdout
    assert (heavy.returncode, heavy.stdout.splitlines()[-1]) == (1, "test_checks:Heavy: 1 check failed")


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapping[str, str]]:
    block = next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "class Bowl" in block)
    (tmp_path / "bowl.py").write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return {"code": block}


def test_the_readmes_example_keeps_the_contract_and_is_short(example: Mapping[str, str]):
    assert [finding.wrong or finding.not_tried for finding in examine(Specimen.of("bowl:Bowl"), CHECKS)] == [
        None
    ] * len(CHECKS)
    assert sum(bool(line.strip()) for line in example["code"].splitlines()) <= 40


class Leaving(Tidy):
    """An objective that ends its process where `LEAVE` says: in `made`, in `suggest` or in its training."""

    def __init__(self) -> None:
        super().__init__()
        self.leave("made")

    def leave(self, where: str) -> None:
        if os.environ.get("LEAVE") == where:
            os._exit(0) if where != "suggest" else os.kill(os.getpid(), signal.SIGKILL)

    def suggest(self, trial: Suggest) -> Params:
        self.leave("suggest")
        return super().suggest(trial)

    def start(self, task: Task, device: str) -> ToyTraining:
        self.leave("start")
        return super().start(task, device)


@pytest.mark.parametrize(
    ("where", "title", "how"),
    [
        ("made", "The objective is made", "exited with status 0"),
        ("suggest", "Its configurations are plain data", "was killed by SIGKILL"),
        ("start", "A training gives one result a pull", "exited with status 0"),
    ],
)
def test_an_objective_that_ends_its_process_is_named(where: str, title: str, how: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LEAVE", where)
    result = CliRunner().invoke(cli, ["check-objective", "test_checks:Leaving"])
    assert result.exit_code == 1
    assert re.search(rf"^wrong  {title}.*\n       the objective ended its process, which {how}\.", result.output, re.M)
    assert result.output.splitlines()[-1] == "test_checks:Leaving: 1 check failed"


def test_parts_that_an_objective_lacks_are_said_to_be_absent():
    absent = [finding.absent for finding in examine(Specimen.of("test_checks:Tidy"), CHECKS) if finding.absent]
    parts = ("no baselines", "no metric_range", "not an ImageClassifier", "no load_weights", "no n_parameters")
    assert [any(part in text for text in absent) for part in parts] == [True] * len(parts)
    assert [finding.absent for finding in examine(Specimen.of("regression:Curve"), CHECKS) if finding.absent] == [
        "it has no space_scales",
        "it has no check(params) of its own",
        "it has no metric_range, so an interval of its metric may go on beyond what is possible",
        "it is not an ImageClassifier of objectives.base",
    ]


@pytest.mark.parametrize(
    ("metric_range", "wrong"),
    [((-9, 9), None), ((None, 9.0), None), ((0.99, 1), "outside of metric_range"), ((1, 0), "give the smallest")]
    + [(7, "metric_range is 7; give the smallest and the largest value, such as (0, 1)")],
)
def test_the_range_of_the_metric_is_checked(metric_range: object, wrong: str | None):
    class Ranged(Tidy):
        pass

    objective = Ranged()
    objective.metric_range = metric_range  # type: ignore[attr-defined]
    found = {finding.title: finding for finding in examine(Specimen(ObjectiveSpec("toy:Toy"), objective), CHECKS)}
    finding = found["Its values lie within its metric_range"]
    assert (finding.wrong is None) == (wrong is None)
    assert wrong is None or wrong in (finding.wrong or "")
    assert finding.absent is None


@pytest.mark.parametrize("name", ["lr (log)", "layers[0].units", ".."])
def test_names_that_mlflow_does_not_take_are_told(name: str):
    suggest = lambda trial: {name: trial.suggest_float(name, 0, 1)}  # noqa: E731
    objective = Changed(suggest=suggest, describe=lambda params: "x", metric="f1 [%]")
    findings = examine(Specimen(ObjectiveSpec("toy:Toy"), objective), CHECKS)
    remarks = [finding.remark for finding in findings if finding.remark]
    assert remarks[0] == "MLflow does not take the name of metric 'f1 [%]'; it is 'f1 ___' there"
    assert remarks[1].startswith(f"MLflow does not take the name of parameter {name!r}; it is ")
