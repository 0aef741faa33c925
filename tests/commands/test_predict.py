"""The predict command: images from files and datasets, and the errors for those that cannot be read."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from shell import Finished, in_process
from shell import search as run

import search
from objectives.base import PictureError
from objectives.data.datasets import load_dataset
from search.cli.main import cli
from search.commands.load import Predictor
from search.commands.predict import STORED_SPLIT, draw, predict, require_readable
from search.common.errors import ModelNotFoundError


def test_each_image_has_one_row(finished: Finished, tmp_path: Path):
    predictor = search.load("digits", workspace=finished.folder)
    Image.new("L", (20, 20), "white").save(tmp_path / "blank.png")
    missing, blank = str(tmp_path / "no.png"), str(tmp_path / "blank.png")
    rows = predict(predictor, ["digits:0-1", missing, blank, "digits:2-1", "mnist:0", "digits:9999", "digits:2"], None)
    assert [row.name for row in rows if row.error is None] == ["digits:0", "digits:1", "digits:2"]
    assert [row.label for row in rows if row.truth is not None] == [row.truth for row in rows if row.truth is not None]
    assert all(0.1 < row.probability <= 1 for row in rows if row.error is None)
    errors = [str(row.error) for row in rows if row.error is not None]
    assert "no.png' cannot be read as an image: the file does not exist" in errors[0]
    assert errors[1] == f"{blank}: nothing found in the image; is it blank?"
    assert errors[2:] == [
        "digits:2-1 ends before it begins; type digits:1-2",
        "mnist:0: this model knows digits; type digits:0, or name another model with --model",
        "digits has test images 0 to 358; type for example digits:0-24",
    ]
    png = draw(rows, predictor.classes)
    assert png is not None
    assert png.startswith(b"\x89PNG")
    assert draw([row for row in rows if row.error], predictor.classes) is None
    assert np.array_equal([row.pixels is None for row in rows], [row.error is not None for row in rows])


def test_unreadable_files_are_reported_before_a_model_is_loaded(finished: Finished, tmp_path: Path):
    words = ["predict", str(tmp_path / "a.png"), "--model", "digits/9", "--workspace", str(finished.folder)]
    with pytest.raises(PictureError, match=r"a.png' cannot be read as an image: the file does not exist"):
        CliRunner().invoke(cli, words, catch_exceptions=False)
    with pytest.raises(ModelNotFoundError, match="models:/digits/9 cannot be loaded"):
        CliRunner().invoke(cli, [*words, "digits:0"], catch_exceptions=False)


def test_one_readable_name_is_enough(tmp_path: Path):
    with pytest.raises(PictureError, match=r"(?s)a.png.*\n.*b.png"):
        require_readable([str(tmp_path / "a.png"), str(tmp_path / "b.png")])
    Image.new("L", (9, 9)).save(tmp_path / "b.png")
    require_readable([str(tmp_path / "a.png"), str(tmp_path / "b.png")])


def pictures(root: Path, size: int = 16) -> Path:
    random = np.random.RandomState(1)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(10):
            pixels = random.randint(0, 256, (size, size)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def trained_on(finished: Finished, dataset: str, digest: str) -> Predictor:
    """The digits' model, as if its metadata named another dataset. For what happens before it classifies anything."""
    predictor = search.load("digits", workspace=finished.folder)
    return replace(predictor, metadata={**predictor.metadata, "dataset": dataset, "dataset_digest": digest})


@pytest.mark.parametrize("typed", ["folder:{}:0-3", "folder:{}/:0-3", "folder:{}/../pets:0-3"])
def test_images_of_another_split_are_refused(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pets = pictures(tmp_path / "pets")
    digest = load_dataset(f"folder:{pets}", tmp_path / "data").digest
    predictor = trained_on(finished, f"folder:{pets}", digest)
    known = predict(predictor, [typed.format(pets).replace("0-3", "0-99")], tmp_path / "data")
    assert "has test images 0 to 3; type for example folder:" in str(known[0].error)
    (pets / "cat" / "0.png").unlink()
    shutil.rmtree(tmp_path / "data")
    rows = predict(predictor, [typed.format(pets)], tmp_path / "data")
    assert "has changed since the model's training, and the arrays of its split are gone" in str(rows[0].error)
    assert len(rows) == 1


def test_a_dataset_with_other_images_is_refused(finished: Finished, tmp_path: Path):
    rows = predict(trained_on(finished, "digits", "0" * 32), ["digits:0"], tmp_path / "data")
    assert [row.error for row in rows] == [
        f"digits in {tmp_path / 'data'} holds other images than those of the model's training; name the folder of the "
        "latter with --data-dir"
    ]


@pytest.mark.slow
def test_a_folder_from_the_search_to_the_end_of_its_arrays(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "SEARCH_DATA_DIR": str(tmp_path / "data")}
    words = ("--engine", "inline", "--epochs", 1, "--confirm", 0, "--no-refit", "--trials", 1)
    names = [f"folder:{pictures(tmp_path / place / 'pets', size)}" for place, size in (("a", 16), ("b", 20))]
    results = [run("--dataset", name, *words, cwd=folder, env=env) for name in names]
    assert [result.returncode for result in results] == [0, 0], results
    assert "study and model of" in results[1].stdout
    for variable, value in (*env.items(), ("COLUMNS", "400")):
        monkeypatch.setenv(variable, value)
    show = ("predict", f"{names[1]}:0-3", "--workspace", folder)
    shown = in_process(*show)
    assert "folder-b-pets@champion" in shown.output
    assert STORED_SPLIT not in shown.output
    (tmp_path / "b" / "pets" / "cat" / "0.png").unlink()
    stored = in_process(*show)
    assert stored.output.count(f"\nall images: {STORED_SPLIT}\n") == 1
    assert stored.output.replace(f"all images: {STORED_SPLIT}\n", "").split() == shown.output.split()
    assert "removed 1 of 1" in in_process("gc", "--delete").output
    refused = in_process(*show)
    assert refused.exit_code == 1
    assert "arrays of its split are gone" in refused.output
    other = in_process("predict", f"{names[0]}:0-3", "--model", "folder-pets", "--workspace", folder)
    assert other.exit_code == 0


def test_a_dataset_without_numbers_is_told_what_to_type():
    for name in ("digits", "folder:pets"):
        with pytest.raises(PictureError, match=f"{name} is a dataset; its test images have numbers: type {name}:0 or"):
            require_readable([name])
