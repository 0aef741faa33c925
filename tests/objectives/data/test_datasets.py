"""Datasets: named plainly, the right pictures, and a test split that loading never opens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from shell import mnist_folder

from objectives.base import DatasetError
from objectives.data.datasets import default_data_dir, framing, load_dataset, load_test_split
from objectives.data.files.image_files import Framing
from objectives.data.names import dataset_slug, is_same_dataset, parse_name

ROOT = Path(__file__).parents[3]


@pytest.fixture
def real_data() -> Path:
    return mnist_folder() or pytest.skip("the real MNIST files are not here; name their folder with SEARCH_DATA_DIR")


def test_mnist_is_mapped_split_and_verified(real_data: Path) -> None:
    data = load_dataset("mnist", real_data)
    assert isinstance(data.images, np.memmap)
    assert not data.images.flags.writeable
    assert data.images.shape == (60_000, 1, 28, 28)
    assert (data.channels, data.size, len(data.classes)) == (1, (28, 28), 10)
    assert (len(data.train), len(data.validation)) == (50_000, 10_000)
    assert data.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.digest == "7bb8e06b610fb37c3e3e437f4f5cc407"  # studies keep it
    assert data.digest == load_dataset("mnist", real_data, verify=False).digest
    images, labels = load_test_split("mnist", real_data)
    assert images.shape == (10_000, 1, 28, 28)
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_loading_opens_no_test_file_and_imports_nothing_slow(real_data: Path) -> None:
    program = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from pathlib import Path
import objectives.data.datasets
data = objectives.data.datasets.load_dataset("mnist", Path(sys.argv[1]))
data.digest
assert any("pool-images" in name for name in opened)
assert not any("t10k" in name or "test-" in name for name in opened), opened
assert not {"torch", "torchvision", "sklearn", "search"} & set(sys.modules)
"""
    load_dataset("mnist", real_data)
    subprocess.run([sys.executable, "-c", program, str(real_data)], check=True, cwd=ROOT, timeout=60)


@pytest.mark.slow
def test_preparing_opens_no_test_file(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from pathlib import Path
import objectives.data.datasets
objectives.data.datasets.load_dataset("mnist", Path(sys.argv[1]))
assert any("train-images" in name for name in opened)
assert not any("t10k" in name for name in opened), opened
"""
    closed = tmp_path / "data"
    (closed / "MNIST").mkdir(parents=True)
    (closed / "MNIST" / "raw").symlink_to(real_data / "MNIST" / "raw")
    subprocess.run([sys.executable, "-c", program, str(closed)], check=True, cwd=ROOT, timeout=60)


def test_digits_need_no_download(tmp_path: Path) -> None:
    data = load_dataset("digits", tmp_path, download=False)
    images, labels = load_test_split("digits", tmp_path)
    assert data.digest == "5c42d4b1c21c286eef82bc32f7e91642"  # studies keep it
    assert data.images.shape == (1438, 1, 8, 8)
    assert images.shape == (359, 1, 8, 8)
    assert (images.dtype, labels.dtype) == (np.dtype(np.uint8), np.dtype(np.int64))
    assert int(data.images.max()) == 255
    assert len(data.train) + len(data.validation) == 1438
    counts = np.bincount(np.concatenate([data.labels, labels]))
    assert framing(data) == Framing(1, (8, 8), 1.0, dark_background=True)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cifar-10", "Did you mean cifar10\\? Type --dataset cifar10$"),
        ("CIFAR", "Did you mean cifar10 or cifar100\\? Type --dataset cifar10$"),
        ("emnist", "Did you mean emnist-letters or emnist-balanced or .*\\? Type --dataset emnist-letters$"),
        ("pets.npz", "Did you mean npz:pets.npz\\? Type --dataset npz:pets.npz$"),
        ("npz:", "lacks a file name; .* type for example --dataset npz:images.npz$"),
        ("mnits", "no dataset 'mnits'; allowed: mnist, .*npz:FILE. Did you mean mnist\\? Type --dataset mnist$"),
        ("MNIST", "Did you mean mnist\\? Type --dataset mnist$"),
        ("folder:", "lacks a folder name"),
        (
            "imagenet-21k",
            "allowed: mnist, fashion-mnist, kmnist, cifar10, .*, usps, qmnist, digits, folder:PATH, npz:FILE$",
        ),
        (str(ROOT), "Did you mean folder:"),
    ],
)
def test_unknown_names_list_what_is_allowed(name: str, says: str) -> None:
    with pytest.raises(DatasetError, match=says):
        parse_name(name)


def test_a_built_in_dataset_has_other_sizes(tmp_path: Path) -> None:
    data = load_dataset("digits", tmp_path, image_size=12)
    assert data.images.shape == (1438, 1, 12, 12)
    assert (data.original_size, data.image_size) == ((8, 8), 12)
    assert data.origins["test"] == "a fifth of the digits, each class in proportion"
    assert framing(data) == Framing(1, (12, 12), 1.0, dark_background=True)
    plain = load_dataset("digits", tmp_path)
    assert plain.digest == "5c42d4b1c21c286eef82bc32f7e91642"
    assert np.array_equal(plain.labels, data.labels)
    assert load_test_split("digits", tmp_path, 12)[0].shape == (359, 1, 12, 12)


def test_slug_fits_names_of_studies() -> None:
    assert dataset_slug("fashion-mnist") == "fashion-mnist"
    assert dataset_slug("folder:/data/my pets") == "folder-my-pets"


@pytest.mark.parametrize(
    ("depth", "slug"), [(1, "folder-my-pets"), (2, "folder-data-my-pets"), (3, "folder-x-data-my-pets")]
)
def test_slug_may_name_the_folders_above(depth: int, slug: str) -> None:
    assert dataset_slug("folder:/x/data/my pets", depth) == slug
    assert dataset_slug("folder:/", depth) == "folder-pictures"
    assert dataset_slug("mnist", depth) == "mnist"


@pytest.mark.parametrize(
    ("name", "other", "same"),
    [
        ("folder:pets", "folder:./pets/", True),
        ("folder:pets", "folder:a/../pets", True),
        ("folder:pets", "folder:cats", False),
        ("mnist", "mnist", True),
        ("mnist", "folder:mnist", False),
        ("own set", "own set", True),
    ],
)
def test_a_dataset_may_be_typed_in_several_ways(name: str, other: str, same: bool) -> None:
    assert is_same_dataset(name, other) is same


def test_data_dir_comes_from_the_environment_or_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_DATA_DIR", "/somewhere")
    assert default_data_dir() == Path("/somewhere")
    monkeypatch.delenv("SEARCH_DATA_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert default_data_dir() == tmp_path / "search-data"
