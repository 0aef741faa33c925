"""Searches of arrays and of torchvision's datasets, from the first trial to the prediction of test images."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from set_files import write_cifar, write_medmnist, write_plain, write_svhn
from shell import in_process, search

from objectives.data.names import dataset_slug

SHORT = ("--engine", "inline", "--epochs", 1, "--confirm", 0, "--no-refit", "--trials", 2)


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    values = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "SEARCH_DATA_DIR": str(tmp_path / "data")}
    for variable, value in (*values.items(), ("COLUMNS", "400")):
        monkeypatch.setenv(variable, value)
    return values


WRITERS: dict[str, Callable[[Path], object]] = {
    "cifar10": lambda place: write_cifar(place / "data"),
    "svhn": lambda place: write_svhn(place / "data"),
    "npz:{}/med.npz": lambda place: write_medmnist(place / "med.npz"),
    "npz:{}/pets.npz": lambda place: write_plain(place / "pets.npz"),
    "npz:{}/wide.npz": lambda place: write_medmnist(place / "wide.npz", shape=(20, 40)),
}


def assert_predicts(folder: Path, name: str) -> None:
    """The model predicts four test images, each in a row of its own."""
    shown = in_process("predict", f"{name}:0-3", "--workspace", folder)
    assert shown.exit_code == 0, shown.output
    rows = re.findall(rf"^{re.escape(name)}:([0-3]) .*\d\.\d{{4}}", shown.output, re.MULTILINE)
    assert rows == ["0", "1", "2", "3"]
    assert re.search(r"^[0-4] of 4 are correct$", shown.output, re.MULTILINE)


@pytest.mark.parametrize(
    "template",
    [pytest.param(name, marks=pytest.mark.slow if n in (0, 2) else pytest.mark.long) for n, name in enumerate(WRITERS)],
)
def test_it_is_searched_registered_and_predicted(folder: Path, tmp_path: Path, env: dict[str, str], template: str):
    WRITERS[template](tmp_path)
    name = template.format(tmp_path)
    result = search("--dataset", name, *SHORT, cwd=folder, env=env)
    assert result.returncode == 0, result.stderr
    model = dataset_slug(name)
    assert f"registered: {model} version 1, alias champion (models:/{model}/1)" in result.stdout
    assert_predicts(folder, name)
    beyond = in_process("predict", f"{name}:99", "--workspace", folder)
    assert f"{name} has test images 0 to 59; type for example {name}:0-24" in beyond.output


@pytest.mark.long
@pytest.mark.parametrize(("name", "size"), [("digits", 12), ("cifar10", 16), ("npz:{}/pets.npz", 20)])
def test_a_model_of_another_size_predicts_images_of_its_size(
    folder: Path, tmp_path: Path, env: dict[str, str], name: str, size: int
):
    WRITERS.get(name, lambda place: None)(tmp_path)
    name = name.format(tmp_path)
    result = search("--dataset", name, "--image-size", size, *SHORT, cwd=folder, env=env)
    assert result.returncode == 0, result.stderr
    assert f"{size}x{size} pixels" in result.stdout
    assert_predicts(folder, name)
    stored = [np.load(path, mmap_mode="r") for path in (tmp_path / "data").rglob("*-images.npy")]
    assert [pixels.shape[2:] for pixels in stored] == [(size, size)] * 2


@pytest.mark.slow
def test_a_file_that_cannot_be_used_ends_in_one_line(folder: Path, tmp_path: Path, env: dict[str, str]):
    (tmp_path / "pets.npz").write_bytes(b"<html>")
    result = search("--dataset", f"npz:{tmp_path}/pets.npz", *SHORT, cwd=folder, env=env)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert "it is not an npz file of numpy" in result.stderr
