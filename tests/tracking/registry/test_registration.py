"""The registered winner: its description, and loading it without this project."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from shell import Finished, environment, rows, search

from objectives.images.models import InputSpec, Probabilities, Tempered, build_mlp
from objectives.images.objective import ImageClassification
from search.commands.load import load
from search.common.errors import ModelNotFoundError, TrackingError, UnpublishableError
from search.tracking.registry.loading import download
from search.tracking.registry.promotion import CHAMPION
from search.tracking.registry.registration import publish
from search.tracking.registry.version import versions
from search.tracking.store import connect_mlflow, default_store

FRAMING = {"channels": 1, "size": [8, 8], "content_fraction": None, "dark_background": True}
BARE = """
    import sys

    class NoProject:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("search", "objectives", "toy"):
                raise ModuleNotFoundError(f"{name} is not here")

    sys.meta_path.insert(0, NoProject())
    sys.path[:] = [entry for entry in sys.path if "tests" not in entry]
    import mlflow, numpy

    model = mlflow.pyfunc.load_model("models:/digits@champion")
    numpy.save(sys.argv[2], model.predict(numpy.load(sys.argv[1])))
    assert not {"search", "objectives", "toy"} & set(sys.modules)
"""


@pytest.mark.slow
def test_mlflow_alone_loads_the_trained_network(finished: Finished, tmp_path: Path):
    """In the search's folder, without pickle and without this project."""
    objective = ImageClassification("digits")
    images, _ = objective.validation_images()
    inputs = (images / 255).astype(np.float32)
    np.save(tmp_path / "in.npy", inputs)
    command = [sys.executable, "-c", textwrap.dedent(BARE), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    alone = environment({"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "PYTHONPATH": ""})
    subprocess.run(command, cwd=finished.folder, env=alone, check=True, capture_output=True, text=True)

    ((stored,),) = rows(
        finished.folder / "optuna.db", "SELECT value_json FROM study_user_attributes WHERE key='summary'"
    )
    winner = json.loads(stored)
    database = finished.folder / "mlflow.db"
    ((run,),) = rows(database, "SELECT run_uuid FROM tags WHERE key='kind' AND value='refit'")
    ((uri,),) = rows(database, "SELECT artifact_uri FROM runs WHERE run_uuid=?", run)
    weights = (finished.folder / uri / "weights.pt").read_bytes()
    temperature = winner["calibration"]["temperature"]
    assert temperature != 1
    network = Probabilities(Tempered(objective.load_weights(winner["params"], weights), temperature)).eval()
    with torch.no_grad():
        expected = network(torch.from_numpy(inputs)).numpy()
    loaded = np.load(tmp_path / "out.npy")
    assert loaded.shape == (len(images), 10)
    assert np.abs(loaded - expected).max() < 1e-5


def test_the_exported_program_has_the_temperature_in_it(finished: Finished):
    """With torch alone: its probabilities are those of logits / temperature, and its classes those of the logits."""
    (file,) = finished.folder.glob("mlruns/artifacts/digits/models/*/artifacts/data/model.pt2")
    program = torch.export.load(file)
    (temperature,) = (value for name, value in program.state_dict.items() if name.endswith("temperature"))
    (version,) = versions(connect_mlflow(f"sqlite:///{finished.folder}/mlflow.db"), "digits")
    assert version.tags["temperature"] == f"{float(temperature):.4f}"
    assert {"val_ece", "val_ece_uncalibrated", "test_ece", "test_ece_uncalibrated"} <= version.tags.keys()
    assert "- Probabilities: temperature " in version.description
    images, _ = ImageClassification("digits").validation_images()
    inputs = torch.from_numpy(images).float() / 255
    with torch.no_grad():
        calibrated = program.module()(inputs)
        temperature.fill_(1.0)  # the program's own buffer
        as_trained = program.module()(inputs)
    assert not torch.allclose(calibrated, as_trained, atol=1e-3)
    scaled = torch.softmax(as_trained.double().log() / float(version.tags["temperature"]), 1)
    assert torch.allclose(calibrated.double(), scaled, atol=1e-4)
    assert torch.equal(calibrated.argmax(1), as_trained.argmax(1))


@pytest.mark.slow
def test_every_page_tells_how_the_probabilities_were_calibrated(finished: Finished):
    """The terminal, `show`, the report and MLflow's notes have the same line."""
    line = next(row for row in finished.result.stdout.splitlines() if row.startswith("probabilities: "))
    assert re.fullmatch(
        r"probabilities: temperature [\d.]+, fitted on validation predictions of 4 folds; expected calibration "
        r"error [\d.]+% -> [\d.]+% on test images, [\d.]+% -> [\d.]+% on validation images",
        line,
    )
    assert line in search("show", "digits", cwd=finished.folder).stdout.splitlines()
    text = line.partition(": ")[2]
    assert text.replace(">", "&gt;") in (finished.folder / "mlruns/reports/digits.html").read_text()
    database = finished.folder / "mlflow.db"
    notes = rows(database, "SELECT value FROM tags WHERE key='mlflow.note.content'")
    assert sum(f"Probabilities: {text}." in note for (note,) in notes) == 3  # of the study, the winner and its refit
    tags = rows(database, "SELECT t.run_uuid FROM tags t WHERE t.key='test_ece_uncalibrated'")
    assert len(tags) == 2
    assert rows(database, "SELECT value FROM latest_metrics WHERE key='temperature'")


def test_a_model_describes_its_inputs_and_its_origin(finished: Finished):
    uri = f"sqlite:///{finished.folder}/mlflow.db"
    predictor = load(tracking_uri=uri)
    assert (predictor.uri, predictor.version) == (f"models:/digits@{CHAMPION}", "1")
    assert str(predictor) == f"models:/digits@{CHAMPION}, version 1"
    assert predictor.classes == tuple("0123456789")
    assert predictor.framing.size == (8, 8)
    one = predictor.predict(np.zeros((1, 1, 8, 8), np.float32)).probabilities
    assert one.shape == (1, 10)
    assert one.sum() == pytest.approx(1.0, abs=1e-5)
    info = predictor.model.metadata
    (output,), (input_,) = info.signature.outputs.inputs, info.signature.inputs.inputs
    assert (input_.shape, input_.type, output.shape) == ((-1, 1, 8, 8), np.dtype("float32"), (-1, 10))
    (version,) = versions(connect_mlflow(uri), "digits")
    assert {"network", "best_val_accuracy", "confirmed_val_accuracy", "test_accuracy"} <= version.tags.keys()
    protocol = {key.partition(".")[2]: text for key, text in version.tags.items() if key.startswith("protocol.")}
    assert protocol.pop("split").startswith("1150 and 288, ")
    assert protocol.pop("dataset") == version.tags["protocol.dataset"] != ""
    assert protocol == {
        "metric": "val_accuracy",
        "direction": "maximize",
        "epochs": "6",
        "fresh_seeds": "4 on 4 folds",
        "refit": "yes",
    }
    folder = Path(version.source.removeprefix("file://")) if version.source.startswith("file") else None
    requirements = next(finished.folder.glob("mlruns/artifacts/digits/models/*/artifacts/requirements.txt")).read_text()
    assert folder is None or folder.exists()
    assert {line.partition("==")[0] for line in requirements.split()} == {"mlflow", "torch", "numpy"}
    assert all("==" in line for line in requirements.split())


def test_a_missing_model_is_reported(finished: Finished):
    uri = f"sqlite:///{finished.folder}/mlflow.db"
    with pytest.raises(ModelNotFoundError, match=r"models:/mnits@champion cannot be loaded: .*Registered here: digits"):
        load("models:/mnits@champion", tracking_uri=uri)
    with pytest.raises(ModelNotFoundError, match=r"models:/digits/9 cannot be loaded"):
        load("models:/digits/9", tracking_uri=uri)


# Models that no search registered - --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pickle", "code"])
def test_a_model_that_could_run_code_here_is_not_loaded(folder: Path, store: mlflow.MlflowClient, kind: str):
    """Registered by hand under our name, with the metadata of a search's model."""
    uri = f"sqlite:///{folder}/mlflow.db"
    experiment = store.create_experiment("toy", (folder / "artifacts").as_uri())
    (folder / "brought.py").write_text("")
    options: dict[str, Any] = (
        {"serialization_format": "pickle"}
        if kind == "pickle"
        else {
            "serialization_format": "pt2",
            "code_paths": [str(folder / "brought.py")],
        }
    )
    with default_store(uri), mlflow.start_run(experiment_id=experiment):
        mlflow.pytorch.log_model(
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval(),
            name="model",
            pip_requirements=[],
            input_example=np.zeros((2, 1, 8, 8), np.float32),
            registered_model_name="toy",
            metadata={"classes": ["a", "b", "c"], "framing": FRAMING},
            **options,
        )
    before, path = dict(os.environ), list(sys.path)
    with pytest.raises(
        ModelNotFoundError, match="pickle is disallowed" if kind == "pickle" else "brings code of its own"
    ):
        load("models:/toy/1", tracking_uri=uri)
    assert dict(os.environ) == before
    assert sys.path == path


# Registration ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_publishing_twice_registers_once_and_a_worse_one_is_the_challenger(folder: Path, store: mlflow.MlflowClient):
    uri = f"sqlite:///{folder}/mlflow.db"
    experiment = store.create_experiment("toy", (folder / "artifacts").as_uri())
    torch.manual_seed(0)
    model = Probabilities(build_mlp(InputSpec(1, (8, 8), 3, (0.5,), (0.5,)), (8,))).eval()
    example = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
    metadata = {"classes": ["a", "b", "c"], "framing": FRAMING}

    def register(run: str, score: float) -> Any:
        run_id = store.create_run(experiment).info.run_id
        tags = {"search.run": run, "validation": repr(score), "protocol.epochs": "4"}
        return publish(
            uri,
            run_id=run_id,
            name="toy",
            model=lambda: model,
            example=example,
            metadata=metadata,
            tags=tags,
            card=lambda version: f"# toy {version}",
        )

    first = register("uid/trial-1", 0.9)
    assert (first.version, first.alias, first.why, first.uri) == ("1", "champion", None, "models:/toy/1")
    assert register("uid/trial-1", 0.9) == first
    worse = register("uid/trial-2", 0.8)
    assert (worse.version, worse.alias, worse.uri) == ("2", "challenger", "models:/toy/2")
    assert worse.why == "version 1 of toy stays champion: validation 0.8000 is behind its 0.9000"
    assert register("uid/trial-3", 0.95).alias == "champion"
    assert [version.description for version in versions(store, "toy")] == ["# toy 1", "# toy 2", "# toy 3"]
    expected = model(torch.from_numpy(example)).detach().numpy()
    for n in (1, 2, 4):
        predicted = load("models:/toy/2", tracking_uri=uri).predict(example[:n]).probabilities
        assert np.abs(predicted - expected[:n]).max() < 1e-5


class Fickle(torch.nn.Module):
    """Branches on the values of its input, which torch.export cannot follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.slow
def test_a_network_that_cannot_be_exported_is_reported(folder: Path, store: mlflow.MlflowClient):
    run_id = store.create_run(store.create_experiment("toy", (folder / "artifacts").as_uri())).info.run_id
    with pytest.raises(UnpublishableError, match=r"torch.export cannot export the network: \w+"):
        publish(
            f"sqlite:///{folder}/mlflow.db",
            run_id=run_id,
            name="toy",
            model=Fickle,
            example=np.ones((2, 3), np.float32),
            metadata={},
            tags={"search.run": "uid/trial-0"},
            card=str,
        )
    assert versions(store, "toy") == []


def test_a_model_that_does_not_fit_into_the_temporary_folder_is_not_begun(folder: Path, store: mlflow.MlflowClient):
    """Where the folder is full, torch ends the whole process in the middle of a file."""
    run_id = store.create_run(store.create_experiment("toy", (folder / "artifacts").as_uri())).info.run_id
    huge = torch.nn.Linear(20_000_000, 20_000_000, device="meta")
    with pytest.raises(TrackingError, match=r"the folder for temporary files, has .*set TMPDIR to another"):
        publish(
            f"sqlite:///{folder}/mlflow.db",
            run_id=run_id,
            name="toy",
            model=lambda: huge,
            example=np.ones((2, 3), np.float32),
            metadata={},
            tags={"search.run": "uid/trial-0"},
            card=str,
        )
    assert versions(store, "toy") == []


def test_a_store_that_does_not_answer_is_a_tracking_error():
    with pytest.raises(TrackingError, match=r"MLflow at http://127.0.0.1:9 does not answer"):
        load("models:/mnist@champion", tracking_uri="http://127.0.0.1:9")


def test_an_unknown_run_is_a_tracking_error(folder: Path, store: mlflow.MlflowClient):
    with pytest.raises(TrackingError, match=r"weights.pt of run nothing cannot be read"):
        download(f"sqlite:///{folder}/mlflow.db", "nothing", "weights.pt")
