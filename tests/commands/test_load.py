"""From Python: `search.load`, `search.load_trial`, and the errors for images of the wrong kind."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shell import Finished, environment, one_file, rows

import search
from objectives.images.objective import ImageClassification
from search.commands.load import as_input
from search.common.errors import ModelNotFoundError, StorageError, UsageError
from search.study import records
from search.tracking.registry.loading import download


def test_importing_search_loads_nothing_and_names_are_there():
    program = (
        "import sys; before = set(sys.modules); import search; "
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before} - {'__future__', 'typing'}), "
        "dir(search), all(callable(getattr(search, name)) for name in search.__all__))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True
    )
    names = ["Model", "Predictions", "Predictor", "Result", "SearchError", "checkpoint", "device", "load", "load_model"]
    names += ["load_trial", "log", "log_artifact", "log_model", "run", "seed"]
    assert done.stdout.strip().endswith(f"{names} True")
    loaded = done.stdout.partition("]")[0]
    assert not any(name in loaded for name in ("numpy", "torch", "mlflow", "optuna", "click")), loaded
    with pytest.raises(AttributeError, match="module 'search' has no attribute 'lode'"):
        _ = search.lode


# A finished search --------------------------------------------------------------------------------------------------


def test_the_champion_is_loaded_with_its_version_and_shape(finished: Finished):
    predictor = search.load("digits", workspace=finished.folder)
    assert (predictor.uri, predictor.version, predictor.shape) == ("models:/digits@champion", "1", (1, 8, 8))
    images, labels = ImageClassification("digits").validation_images()
    predicted, probabilities, names = predictor.predict(images)
    assert (predicted.shape, predicted.dtype) == ((len(images),), np.int64)
    assert probabilities.shape == (len(images), 10)
    assert (probabilities.argmax(1) == predicted).all()
    assert probabilities.sum(1) == pytest.approx(np.ones(len(images)), abs=1e-4)
    assert (predicted == labels).mean() > 0.9
    assert (names == np.array(predictor.classes)[labels]).mean() == (predicted == labels).mean()
    for same in (images[:, 0], images / 255, (images[:, 0] / 255).astype(np.float32), torch.from_numpy(images.copy())):
        assert np.abs(predictor.predict(same).probabilities - probabilities).max() < 1e-6
    by_number = search.load("digits/1", workspace=finished.folder)
    assert (by_number.uri, by_number.version, str(by_number)) == ("models:/digits/1", "1", "models:/digits/1")
    none = search.load(workspace=finished.folder).predict(images[:0])
    assert (none.labels.shape, none.probabilities.shape, none.names.shape) == ((0,), (0, 10), (0,))


NOTEBOOK = """
    import logging, os, sys
    import mlflow, search

    for wanted in sys.argv[2:]:
        getattr(mlflow, f"set_{wanted}_uri")("http://127.0.0.1:9")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    def state():
        ours = {name: value for name, value in os.environ.items() if "MLFLOW" in name or "GIT" in name}
        return ours, mlflow.get_tracking_uri(), mlflow.get_registry_uri()

    before = state()
    predictor = search.load("digits", workspace=sys.argv[1])
    search.load_trial("digits", 0, workspace=sys.argv[1])
    assert state() == before
    assert logging.getLogger("mlflow").level == logging.WARNING
    print(predictor)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stores", "variables"),
    [
        pytest.param(["registry"], {}, marks=pytest.mark.long),
        (["tracking", "registry"], {}),
        ([], {"MLFLOW_REGISTRY_URI": "sqlite:////nowhere/registry.db", "MLFLOW_RUN_ID": "0", "MLFLOW_WORKSPACE": "x"}),
        pytest.param([], {}, marks=pytest.mark.long),
    ],
)
def test_a_notebook_with_other_stores_loads_and_keeps_them(
    finished: Finished, tmp_path: Path, stores: list[str], variables: dict[str, str]
):
    command = [sys.executable, "-c", textwrap.dedent(NOTEBOOK), str(finished.folder), *stores]
    done = subprocess.run(command, env=environment(variables), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "models:/digits@champion, version 1"
    assert list(tmp_path.iterdir()) == []


def test_any_trial_is_loaded_with_its_weights(finished: Finished):
    images, labels = ImageClassification("digits").validation_images()
    inputs = torch.from_numpy((images / 255).astype(np.float32))
    ((run,),) = rows(
        finished.folder / "mlflow.db",
        """
        SELECT a.run_uuid FROM tags a JOIN tags b USING (run_uuid)
        WHERE a.key = 'kind' AND a.value = 'trial' AND b.key = 'optuna.trial.number' AND b.value = '1'
    """,
    )
    ((value,),) = rows(finished.folder / "optuna.db", "SELECT value FROM trial_values WHERE trial_id = 2")
    network = search.load_trial("digits", 1, workspace=finished.folder)
    assert not network.training
    with torch.no_grad():
        accuracy = (network(inputs).argmax(1).numpy() == labels).mean()
    assert accuracy == pytest.approx(value)
    stored = download(f"sqlite:///{finished.folder}/mlflow.db", run, "weights.pt")
    assert len(stored) > 10_000


@pytest.mark.parametrize("number", ["1", " 01 ", "#001", np.int64(1)], ids=repr)
def test_a_trials_number_may_be_written_as_the_pages_show_it(finished: Finished, number: Any):
    network = search.load_trial("digits", number, workspace=finished.folder)
    expected = search.load_trial("digits", 1, workspace=finished.folder)
    for name, weights in expected.state_dict().items():
        assert torch.equal(weights, network.state_dict()[name])


@pytest.mark.parametrize(("number", "shown"), [("best", "'best'"), (1.5, "1.5"), ("", "''"), (None, "None")])
def test_what_is_no_trial_number_is_explained(finished: Finished, number: Any, shown: str):
    with pytest.raises(UsageError, match=f"trial {shown} of study 'digits': give a whole number; it has 0 to 2"):
        search.load_trial("digits", number, workspace=finished.folder)


def test_missing_models_and_trials_are_reported(finished: Finished, tmp_path: Path):
    with pytest.raises(ModelNotFoundError, match=r"there is no mlflow.db in .*name the folder where one ran"):
        search.load("digits", workspace=tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"models:/mnist@champion cannot be loaded: .*Registered here: digits"):
        search.load("mnist", workspace=finished.folder)
    with pytest.raises(ModelNotFoundError, match="'digits/Production': a version is a number, as in digits/1"):
        search.load("digits/Production", workspace=finished.folder)
    with pytest.raises(UsageError, match="there is no study 'digitz'; did you mean digits"):
        search.load_trial("digitz", 0, workspace=finished.folder)
    with pytest.raises(UsageError, match="study 'digits' has no trial 3; it has 0 to 2"):
        search.load_trial("digits", 3, workspace=finished.folder)
    assert not list(tmp_path.iterdir())
    one_file(finished.folder / "optuna.db", tmp_path / "optuna.db")
    with pytest.raises(ModelNotFoundError, match=r"there is no mlflow.db in "):
        search.load_trial("digits", 0, workspace=tmp_path)
    with pytest.raises(UsageError, match=r"study 'digits': it is tracked here; leave out --tracking-uri"):
        search.load_trial("digits", 0, workspace=finished.folder, tracking_uri="http://127.0.0.1:9")


# Images -------------------------------------------------------------------------------------------------------------

GREY, COLOUR = (1, 4, 5), (3, 4, 5)
ZEROS = np.zeros((2, 1, 4, 5), np.float32)


@pytest.mark.parametrize(
    ("images", "shape", "message"),
    [
        (np.zeros((3, 4, 5)), COLOUR, r"shape \(3, 4, 5\), this network wants \(n, 3, 4, 5\); a single image"),
        (ZEROS[0, 0], GREY, r"shape \(4, 5\), .*a single image goes in as images\[None\]"),
        (np.zeros((2, 4, 5, 3)), COLOUR, r"wants \(n, 3, 4, 5\); channels come first: images.transpose\(0, 3, 1, 2\)"),
        (np.zeros((2, 20)), GREY, r"rows of pixels become images with images.reshape\(-1, 1, 4, 5\)"),
        (np.zeros((2, 4, 5)), COLOUR, r"shape \(2, 4, 5\), this network wants \(n, 3, 4, 5\)$"),
        (np.zeros((2, 5, 4)), GREY, r"shape \(2, 5, 4\), this network wants"),
        (0.5, GREY, r"shape \(\), this network wants"),
        ([np.zeros((4, 5)), np.zeros((5, 5))], GREY, r"images differ in shape; each must be \(n, 1, 4, 5\)"),
        (ZEROS.astype(int), GREY, r"images are int64; give uint8 \(0 to 255\), or floats.*astype\('uint8'\)"),
        (ZEROS.astype(bool), GREY, r"images are bool; give uint8"),
        (ZEROS + 255, GREY, r"floats from 255 to 255; give floats in \[0, 1\] \(divide by 255"),
        (ZEROS - 0.4, GREY, r"floats from -0.4 to -0.4; .*not normalised: the network does that itself"),
        (ZEROS + np.nan, GREY, r"values that are not finite"),
        ("digit.png", GREY, r"images hold no numbers; .*Image files are read by python -m search predict FILE"),
    ],
    ids=[
        "one",
        "one flat",
        "channels last",
        "rows",
        "no channels",
        "size",
        "number",
        "ragged",
        "int",
        "bool",
        "bytes",
        "normalised",
        "nan",
        "text",
    ],
)
def test_images_of_the_wrong_kind_are_explained(images: Any, shape: tuple[int, int, int], message: str):
    with pytest.raises(ValueError, match=message):
        as_input(images, shape)


@given(st.integers(0, 4), st.sampled_from([GREY, COLOUR]), st.booleans(), st.randoms(use_true_random=False))
def test_bytes_and_floats_are_the_same_images(n: int, shape: tuple[int, int, int], flat: bool, random: Any):
    images = np.random.default_rng(random.getrandbits(32)).integers(0, 256, (n, *shape), np.uint8)
    given = images[:, 0] if flat and shape[0] == 1 else images
    expected = (images / 255).astype(np.float32)
    for same in (given, given / 255, (given / 255).astype(np.float32)):
        converted = as_input(same, shape)
        assert (converted.dtype, converted.shape) == (np.float32, (n, *shape))
        assert np.array_equal(converted, expected)


def test_the_storage_does_not_choose_what_is_called_here(database: str):
    """A storage that others can write to could name any function with any arguments."""
    study = optuna.create_study(storage=database, study_name="theirs")
    study.set_user_attr(records.OBJECTIVE, {"target": "pathlib:Path.touch", "options": {"self": "x"}})
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(
        StorageError, match="the study's objective, pathlib:Path.touch, does not take its arguments: self; not made"
    ):
        search.load_trial("theirs", 0, storage=database)
