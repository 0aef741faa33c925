"""MNIST's file format: read when whole, named with the way out when missing or damaged."""

from __future__ import annotations

import gzip
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from objectives.base import DatasetError
from objectives.datasets import load_dataset, load_test_split
from objectives.download import DatasetUnavailableError
from objectives.idx import TEST_FILES, TRAIN_FILES, read_idx

RAW_FILES = (*TRAIN_FILES, *TEST_FILES)


def idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.tobytes()


def raw_files(n_train: int = 600, n_test: int = 100) -> dict[str, bytes]:
    random = np.random.RandomState(0)
    contents = []
    for n in (n_train, n_test):
        contents.append(idx(random.randint(0, 256, (n, 28, 28)).astype(np.uint8)))
        contents.append(idx((np.arange(n) % 10).astype(np.uint8)))
    return dict(zip(RAW_FILES, contents, strict=True))


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """A data folder with a small FashionMNIST in the real format; returns its raw folder."""
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in raw_files().items():
        (raw / name).write_bytes(content)
    return raw


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of .gz files to name as a mirror, with every other mirror out of reach."""
    monkeypatch.delenv("SEARCH_DATA_MIRROR", raising=False)
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    folder = tmp_path / "mirror"
    folder.mkdir()
    for name, content in raw_files(60, 20).items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
    return folder


def test_small_files_scale_the_split(fashion: Path) -> None:
    data = load_dataset("fashion-mnist", fashion.parents[1])
    assert (len(data.train), len(data.validation)) == (500, 100)
    assert data.classes[0] == "T-shirt/top"
    assert len(load_test_split("fashion-mnist", fashion.parents[1])[0]) == 100


def test_mnist_of_other_content_is_refused_unless_trusted(fashion: Path) -> None:
    fashion.parent.rename(fashion.parents[1] / "MNIST")
    with pytest.raises(DatasetError, match=r"MNIST/raw/train-images-idx3-ubyte is damaged: expected MD5 6bbc9ace"):
        load_dataset("mnist", fashion.parents[1])
    assert len(load_dataset("mnist", fashion.parents[1], verify=False).images) == 600


@pytest.mark.parametrize("file", RAW_FILES)
@pytest.mark.parametrize("harm", [lambda content: content[:-7], lambda content: content + b"x", lambda content: b""])
def test_damaged_file_is_named_with_the_way_out(fashion: Path, file: str, harm: Callable[[bytes], bytes]) -> None:
    (fashion / file).write_bytes(harm((fashion / file).read_bytes()))
    with pytest.raises(
        DatasetError, match=rf"{file} is damaged: .*found.*; delete .*{file} and run again, or .*--data"
    ):
        load_dataset("fashion-mnist", fashion.parents[1])


def test_labels_out_of_range_are_refused(fashion: Path) -> None:
    (fashion / RAW_FILES[1]).write_bytes(idx(np.full(600, 10, np.uint8)))
    with pytest.raises(DatasetError, match="a label 10, expected 0 to 9"):
        load_dataset("fashion-mnist", fashion.parents[1])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=64) | st.binary(max_size=40).map(lambda rest: b"\0\0\x08\x03" + rest))
def test_any_bytes_are_an_idx_file_or_a_dataset_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some-idx3-ubyte"
    path.write_bytes(content)
    try:
        values = read_idx(path, dims=3)
    except DatasetError:
        return
    assert idx(np.asarray(values)) == content


def test_missing_files_say_what_to_do(fashion: Path) -> None:
    (fashion / RAW_FILES[3]).unlink()
    with pytest.raises(DatasetUnavailableError, match=r"t10k-labels-idx1-ubyte missing.*--data-dir, or .*digits"):
        load_dataset("fashion-mnist", fashion.parents[1], download=False)


def test_missing_files_are_fetched(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in packed.iterdir()]
    listed = SimpleNamespace(mirrors=[packed.as_uri()], resources=resources)
    stand_in = SimpleNamespace(datasets=SimpleNamespace(KMNIST=listed))  # torchvision itself takes seconds to import
    monkeypatch.setitem(sys.modules, "torchvision", stand_in)
    data = load_dataset("kmnist", tmp_path / "data")
    assert data.images.shape == (60, 1, 28, 28)
    assert {path.name: path.read_bytes() for path in Path(data.source).iterdir()} == raw_files(60, 20)


@pytest.mark.slow
def test_torchvision_lists_the_files_and_their_digests(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision")
    monkeypatch.setenv("SEARCH_DATA_MIRROR", packed.as_uri())
    with pytest.raises(
        DatasetUnavailableError,
        match=rf"cannot be downloaded: {packed.as_uri()}/train-images.*MD5.*instead.*; http.*/train-images",
    ):
        load_dataset("mnist", tmp_path / "data")
