"""The programs that functions log: registered, compared, loaded. The studies are made here, without workers."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from shell import in_process
from torch import nn

import search
from objectives.functions.export import export
from objectives.functions.objective import FunctionObjective
from search.commands.finish import Finish
from search.commands.promote import register_winner
from search.commands.setup import open_tracking, registered_name
from search.common.config import Config
from search.common.errors import ModelNotFoundError, UnpublishableError, UsageError
from search.common.system import provenance
from search.common.workspace import Workspace
from search.study import records
from search.study.storage.storage import open_storage
from search.study.study import open_study
from search.study.summary import Summary
from search.tracking.journal import PARENT, trial_run
from search.tracking.registry.programs import as_model, as_module, read_program
from search.tracking.registry.version import versions
from search.tracking.store import connect_mlflow

TARGET = "folder_that_is_gone/train.py:objective"
LINE = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


def objective(trial: optuna.Trial) -> float:
    """Never called here: the tests write what it would leave."""
    raise AssertionError


class Words(nn.Module):
    """From whole numbers to numbers, as in models of text."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(20, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.words(x).mean(1))  # type: ignore[no-any-return]


class Two(nn.Module):
    """Of two inputs."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


def network(seed: int = 0, inputs: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    parts = nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2)
    return nn.Sequential(*parts).eval()


@dataclass(frozen=True)
class Ended:
    """A search of a function whose trials have ended; `models` are the programs that they logged."""

    folder: Path
    values: Mapping[int, float]
    models: Mapping[int, bytes]
    study: str = "train"
    register: str | None = None
    direction: str = "minimize"

    @property
    def config(self) -> Config:
        wanted = {"study": self.study, "register": self.register, "direction": self.direction}
        return Config(objective=TARGET, workspace=self.folder, **wanted)  # type: ignore[arg-type]

    def finish(self, number: int) -> Summary:
        """Store the trials as a coordinator does, unless they are there, and finish with trial `number` as winner."""
        config = self.config
        function = FunctionObjective(objective, "train", self.direction)  # type: ignore[arg-type]
        study = open_study(open_storage(config.storage_url), self.study, function, TARGET, 1)
        files = Workspace(self.folder).training_files(self.study, study.uid)
        if is_new := records.PROVENANCE not in study.attrs():
            study.set_attr(records.OBJECTIVE, {"target": TARGET, "options": {}, "direction": self.direction})
            study.set_attr(records.PROVENANCE, provenance(0, None, "cpu"))
            study.set_attr(records.TRACKING, "")
            study.set_attr(records.TARGET, len(self.values))
        with closing(open_tracking(config, self.study, study.attrs(), study.direction)) as tracking:
            tracking.ready()
            for trial, value in self.values.items() if is_new else ():
                run = trial_run(trial)
                tracking.open_run(run, f"#{trial:03d}", tags={"kind": "trial", "optuna.trial.number": str(trial)})
                if (content := self.models.get(trial)) is not None:
                    tracking.file(run, "model.pt2", content)
                    files.weights.mkdir(parents=True, exist_ok=True)
                    files.weights_of(run).write_bytes(content)
                    study.set_attr(records.MODELS, True)
                tracking.end_run(run, "FINISHED", verdict={"state": "COMPLETE", "value": value, "attrs": {}})
                own = {records.LABEL: f"x={trial}", records.SLOT: 0, records.ORIGIN: f"{study.uid}/{trial}"}
                space = {"x": optuna.distributions.IntDistribution(0, 9)}
                study.optuna_study.add_trial(
                    optuna.trial.create_trial(params={"x": trial}, distributions=space, value=value, user_attrs=own)
                )
            tracking.open_run(PARENT, "search", tags={"kind": "study"})
            name = registered_name(config, function)
            winner = Summary(number, f"x={number}", self.values[number], {"x": number}, trial_run(number))
            return Finish(study, tracking, config, register_as=name, device="cpu", goal={}).run(winner)

    @property
    def weights(self) -> list[Path]:
        return sorted(self.folder.glob("mlruns/weights/*/*"))


def expected(module: nn.Module, inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return module(torch.from_numpy(inputs)).numpy()  # type: ignore[no-any-return]


# Registered and loaded ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_winners_program_is_registered_and_loads_for_any_number_of_rows(folder: Path):
    ended = Ended(folder, {0: 0.5, 1: 0.25}, {0: export(network(0), LINE), 1: export(network(1), LINE)})
    summary = ended.finish(1)
    assert summary.model == {"name": "train", "version": "1", **_alias("champion", summary)}
    assert (summary.standing, summary.has_no_model, ended.weights) == (None, False, [])
    model = search.load_model(workspace=folder)
    assert (model.version, model.shape, model.dtype) == ("1", (3,), np.float32)
    for rows in (LINE, LINE[:1], np.tile(LINE, (5, 1))):
        assert np.abs(model.predict(rows) - expected(network(1), rows)).max() < 1e-6
    assert np.array_equal(model.predict(LINE.tolist()), model.predict(LINE))
    (version,) = versions(connect_mlflow(f"sqlite:///{folder}/mlflow.db"), summary.model["name"])
    protocol = {key.partition(".")[2]: text for key, text in version.tags.items() if key.startswith("protocol.")}
    assert protocol == {
        "objective": TARGET,
        "input": "float32 (n, 3)",
        "metric": "value",
        "direction": "minimize",
        "epochs": "1",
        "fresh_seeds": "0",
        "refit": "no",
    }
    assert "model.predict(np.zeros((2, 3), dtype=np.float32))" in version.description
    assert "search.load_model(" in version.description


def _alias(alias: str, summary: Summary) -> dict[str, str]:
    assert summary.model is not None
    return {"alias": alias, "uri": f"models:/{summary.model['name']}/{summary.model['version']}"}


@pytest.mark.slow
def test_two_studies_of_a_function_compete_unless_their_inputs_differ(folder: Path):
    first = Ended(folder, {0: 0.5}, {0: export(network(0), LINE)}, register="net")
    assert first.finish(0).standing is None
    worse = replace(first, study="worse", values={0: 0.75}).finish(0)
    assert worse.standing == "version 1 of net stays champion: value 0.7500 is behind its 0.5000"
    better = replace(first, study="better", values={0: 0.25}).finish(0)
    assert (better.model or {})["alias"] == "champion"
    wide = {0: export(network(0, inputs=5), np.ones((4, 5), np.float32))}
    other = replace(first, study="wide", values={0: 0.125}, models=wide).finish(0)
    assert "differ in input (float32 (n, 3) there, float32 (n, 5) here)" in str(other.standing)
    turned = replace(first, study="turned", direction="maximize").finish(0)
    assert "differ in direction (minimize there, maximize here)" in str(turned.standing)


@pytest.mark.slow
def test_a_model_of_whole_numbers_takes_them_as_they_come(folder: Path):
    torch.manual_seed(0)
    module, sentences = Words().eval(), np.array([[1, 2, 3], [4, 5, 6]])
    Ended(folder, {0: 1.0}, {0: export(module, sentences)}, register="words").finish(0)
    model = search.load_model("words", workspace=folder)
    assert np.abs(model.predict(sentences.astype(np.int32)) - expected(module, sentences)).max() < 1e-6
    with pytest.raises(ValueError, match=r"inputs are float64, this model wants int64; convert them with .astype"):
        model.predict(sentences / 2)
    with pytest.raises(ValueError, match=r"shape \(3,\), this model wants \(n, 3\); a single input .* inputs\[None\]"):
        model.predict(sentences[0])
    with pytest.raises(ModelNotFoundError, match="words@champion is not a classifier of images .*search.load_model"):
        search.load("words", workspace=folder)
    with pytest.raises(ModelNotFoundError, match="is not a classifier of images"):
        in_process("predict", "digits:0", "--model", "words", "--workspace", folder)


# Nothing to register -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "net"])
def test_a_function_that_logs_no_model_is_told_so_only_if_it_was_to_be_registered(folder: Path, name: str | None):
    ended = Ended(folder, {0: 0.5}, {}, register=name)
    summary = ended.finish(0)
    assert (summary.model, summary.has_no_model) == (None, True)
    assert (summary.standing is None) == (name is None)
    if name is not None:
        assert summary.standing == (
            "nothing is registered: its function never called search.log_model(module, example)"
        )
    with pytest.raises(UsageError, match="no model of the study can be registered: its function never"):
        register_winner(ended.config, "train")
    with pytest.raises(ModelNotFoundError, match="'train' has no models: its function never called search.log_model"):
        search.load_trial("train", 0, workspace=folder)


@pytest.mark.slow
def test_a_winner_without_a_model_is_told_from_others_that_have_one(folder: Path):
    """Also once the files of the first finish are gone."""
    ended = Ended(folder, {0: 0.5, 1: 0.25}, {0: export(network(0), LINE)})
    summary = ended.finish(1)
    assert (summary.model, summary.has_no_model, ended.weights) == (None, True, [])
    assert str(summary.standing).startswith("the winner is not registered: its run trial-1 logged no model.")
    assert ended.finish(1) == summary
    record = register_winner(ended.config, "train")
    assert record.summary == summary
    assert ended.finish(0).model == {"name": "train", "version": "1", "alias": "champion", "uri": "models:/train/1"}
    client = connect_mlflow(f"sqlite:///{folder}/mlflow.db")
    client.delete_model_version("train", "1")
    assert register_winner(ended.config, "train").summary is not None  # without the function, from the run in MLflow
    assert [version.tags["trial"] for version in versions(client, "train")] == ["0"]
    with pytest.raises(
        ModelNotFoundError, match="trial 1 of 'train' .complete. has no model that can be read: its run"
    ):
        search.load_trial("train", 1, workspace=folder)
    module = search.load_trial("train", 0, workspace=folder)
    assert not module.training
    assert np.abs(expected(module, LINE) - expected(network(0), LINE)).max() < 1e-6
    assert module.state_dict().keys() == network(0).state_dict().keys()


@pytest.mark.slow
def test_a_program_that_cannot_be_registered_leaves_a_search_that_ended(folder: Path):
    summary = Ended(folder, {0: 0.5}, {0: b"no program"}).finish(0)
    assert summary.model is None
    assert "the winner cannot be registered: its program cannot be read (" in str(summary.standing)


# Programs ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_program_of_two_inputs_cannot_be_registered():
    tensor = torch.from_numpy(LINE)
    torch.export.save(torch.export.export(Two(), (tensor, tensor)), buffer := io.BytesIO())
    with pytest.raises(UnpublishableError, match="its program does not take one input. Log it again with search.log"):
        as_model(read_program(buffer.getvalue()))


def changed(content: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """A program with other contents; `change` gets the name and the content of each entry."""
    whole = zipfile.ZipFile(io.BytesIO(content))
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        for name in whole.namelist():
            archive.writestr(name, change(name, whole.read(name)))
    return buffer.getvalue()


@pytest.mark.slow
def test_a_program_with_a_pickle_is_not_unpickled(tmp_path: Path):
    """torch would unpickle weights that a program marks as such."""
    marker = tmp_path / "unpickled"
    torch.save(Trap(str(marker)), payload := io.BytesIO())

    def pickled(name: str, content: bytes) -> bytes:
        content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
        return payload.getvalue() if "weights/weight_" in name else content

    content = changed(export(network(), LINE), pickled)
    with pytest.raises(UnpublishableError, match="cannot be read .*pickle"):
        read_program(content)
    assert not marker.exists()
    with pytest.raises(Exception, match=r"."):  # what torch does with it
        torch.export.load(io.BytesIO(content))
    assert marker.exists()


def wide(code: str) -> str:
    """The same code for Python, with full-width letters and without quotes."""
    spelled = code.encode("unicode_escape")
    return "\uff45\uff58\uff45\uff43(" + "+".join(f"\uff43\uff48\uff52({byte})" for byte in spelled) + ")"


def with_code(field: str, code: str) -> bytes:
    """A program that has the code in a field which torch evaluates."""

    def coded(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        if field == "guards_code":
            return json.dumps({**json.loads(content), field: [code]}).encode()
        return re.sub(rb'"expr_str": "[^"]*"', f'"expr_str": "{code}"'.encode(), content)

    return changed(export(network(), LINE), coded)


@pytest.mark.parametrize("field", ["expr_str", "guards_code"])
def test_letters_that_python_reads_as_others_are_code(field: str):
    code = wide("exit()")
    with pytest.raises(UnpublishableError, match=f"{re.escape(code[:4])}.* in it would be run as code"):
        read_program(with_code(field, code))


@pytest.mark.slow
@pytest.mark.parametrize(("field", "spelled"), [("expr_str", str), ("guards_code", str), ("guards_code", wide)])
def test_a_program_with_code_is_not_run(folder: Path, tmp_path: Path, field: str, spelled: Callable[[str], str]):
    """torch would evaluate texts of a program, and MLflow does not look at them."""
    marker = tmp_path / "run"
    code = spelled(f"__import__('pathlib').Path('{marker}').touch()")
    content, start = with_code(field, code), re.escape(code[:4])
    with pytest.raises(UnpublishableError, match=f"{start}.* in it would be run as code"):
        read_program(content)
    ended = Ended(folder, {0: 0.5}, {0: export(network(), LINE)}, register="net")
    ended.finish(0)
    (stored,) = folder.glob("mlruns/**/artifacts/data/model.pt2")
    stored.write_bytes(content)
    with pytest.raises(ModelNotFoundError, match=f"brings code of its own, which is not run: .*{start}"):
        search.load_model("net", workspace=folder)
    assert not marker.exists()
    with suppress(Exception):  # what torch does with it
        torch.export.load(io.BytesIO(content)).module()(torch.from_numpy(LINE))
    assert marker.exists()


class Trap:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


def test_a_program_is_a_module_again():
    module = as_module(read_program(export(network(), LINE)))
    assert np.abs(expected(module, LINE[:1]) - expected(network(), LINE[:1])).max() < 1e-6
    assert not module.training
