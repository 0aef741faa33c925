"""MNIST and its relatives: damaged files are named, missing ones are downloaded, and no mirror is waited for long."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import re
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from objectives.base import DatasetError, DatasetUnavailableError
from objectives.data import torchvision_sets
from objectives.data.datasets import load_dataset, load_test_split, load_test_split_of
from objectives.data.torchvision_sets import SETS

pytestmark = pytest.mark.usefixtures("own_cache")

TRAIN_FILES, TEST_FILES = SETS["mnist"].files["pool"], SETS["mnist"].files["test"]
RAW_FILES = (*TRAIN_FILES, *TEST_FILES)
NOBODY = "http://127.0.0.1:9/"


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


def test_small_files_scale_the_split(fashion: Path) -> None:
    data = load_dataset("fashion-mnist", fashion.parents[1])
    assert (len(data.train), len(data.validation)) == (500, 100)
    assert data.classes[0] == "T-shirt/top"
    assert idx(data.images[:, 0]) == (fashion / TRAIN_FILES[0]).read_bytes()
    images, labels = load_test_split("fashion-mnist", fashion.parents[1])
    assert idx(images[:, 0]) == (fashion / TEST_FILES[0]).read_bytes()
    assert idx(labels.astype(np.uint8)) == (fashion / TEST_FILES[1]).read_bytes()


def test_another_size_has_arrays_of_its_own(fashion: Path) -> None:
    data, small = (load_dataset("fashion-mnist", fashion.parents[1], image_size=size) for size in (None, 20))
    assert small.images.shape == (600, 1, 20, 20)
    assert (small.original_size, data.original_size) == ((28, 28), None)
    assert np.array_equal(small.train, data.train)
    assert load_test_split("fashion-mnist", fashion.parents[1], 20)[0].shape == (100, 1, 20, 20)
    assert data.origins == {
        "training": "five sixths of the training files",
        "validation": "a sixth of the training files, each class in proportion",
        "test": "the test files",
    }


def test_files_are_parsed_once(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_dataset("fashion-mnist", fashion.parents[1])
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    again = load_dataset("fashion-mnist", fashion.parents[1], verify=False)
    assert isinstance(again.images, np.memmap)
    assert not again.images.flags.writeable
    assert again.digest == first.digest


def test_a_read_only_data_dir_is_left_alone(fashion: Path, own_cache: Path) -> None:
    data_dir = fashion.parents[1]
    data_dir.chmod(0o555)
    load_dataset("fashion-mnist", data_dir)
    assert [path.name for path in data_dir.iterdir()] == ["FashionMNIST"]
    if sys.platform == "linux":
        assert len(list((own_cache / "arrays").iterdir())) == 1


def test_mnist_of_other_content_is_refused(fashion: Path) -> None:
    fashion.parent.rename(fashion.parents[1] / "MNIST")
    with pytest.raises(DatasetError, match=r"MNIST/raw/train-images-idx3-ubyte is damaged: expected MD5 6bbc9ace"):
        load_dataset("mnist", fashion.parents[1])
    with pytest.raises(DatasetError, match=r"MNIST/raw/t10k-images-idx3-ubyte is damaged: expected MD5 2646ac64"):
        load_test_split("mnist", fashion.parents[1])


def test_a_model_is_not_shown_other_files_of_the_same_name(fashion: Path) -> None:
    digest = load_dataset("fashion-mnist", fashion.parents[1]).digest
    assert len(load_test_split_of("fashion-mnist", fashion.parents[1], digest)[0][1]) == 100
    assert len(load_test_split_of("fashion-mnist", fashion.parents[1], None)[0][1]) == 100  # an early model
    (fashion / TRAIN_FILES[0]).write_bytes(idx(np.zeros((600, 28, 28), np.uint8)))
    with pytest.raises(DatasetError, match="holds other images than those of the model's training"):
        load_test_split_of("fashion-mnist", fashion.parents[1], digest)


@pytest.mark.parametrize("file", RAW_FILES)
@pytest.mark.parametrize("harm", [lambda content: content[:-7], lambda content: content + b"x", lambda content: b""])
def test_a_damaged_file_is_named_with_the_way_out(fashion: Path, file: str, harm: Callable[[bytes], bytes]) -> None:
    (fashion / file).write_bytes(harm((fashion / file).read_bytes()))
    with pytest.raises(DatasetError, match="; delete .* and run again, or name another folder with --data") as caught:
        load_dataset("fashion-mnist", fashion.parents[1])
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_out_of_range_are_refused(fashion: Path) -> None:
    (fashion / RAW_FILES[1]).write_bytes(idx(np.full(600, 10, np.uint8)))
    with pytest.raises(DatasetError, match="a label 10, expected 0 to 9"):
        load_dataset("fashion-mnist", fashion.parents[1])


def test_images_and_labels_must_be_as_many(fashion: Path) -> None:
    (fashion / RAW_FILES[1]).write_bytes(idx(np.zeros(599, np.uint8)))
    with pytest.raises(DatasetError, match="it holds 600 images, and train-labels-idx1-ubyte 599 labels"):
        load_dataset("fashion-mnist", fashion.parents[1])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=64) | st.binary(max_size=40).map(lambda rest: b"\0\0\x08\x03" + rest))
def test_any_bytes_are_named_as_damaged(fashion: Path, content: bytes) -> None:
    (fashion / RAW_FILES[0]).write_bytes(content)
    with pytest.raises(DatasetError, match="train-images-idx3-ubyte is damaged"):
        load_dataset("fashion-mnist", fashion.parents[1])


def test_missing_files_say_what_to_do(fashion: Path) -> None:
    (fashion / RAW_FILES[3]).unlink()
    with pytest.raises(DatasetUnavailableError, match=r"t10k-labels-idx1-ubyte missing.*--data-dir, or .*digits"):
        load_dataset("fashion-mnist", fashion.parents[1], download=False)


# --- downloads ---


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A web server with a small KMNIST, whose only other mirror is out of reach: its address and its folder."""
    kmnist = pytest.importorskip("torchvision").datasets.KMNIST
    folder = tmp_path / "mirror"
    folder.mkdir()
    resources = []
    for name, content in raw_files(60, 20).items():
        packed = gzip.compress(content, mtime=0)
        (folder / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(kmnist, "resources", resources)
    monkeypatch.setattr(kmnist, "mirrors", [NOBODY])
    urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


@pytest.fixture
def silent_server() -> Iterator[Callable[[bytes], str]]:
    """Start a server that sends the given bytes and then nothing more, without hanging up."""
    with contextlib.ExitStack() as at_end:

        def start(first: bytes) -> str:
            listener = at_end.enter_context(socket.create_server(("127.0.0.1", 0)))

            def answer() -> None:
                with contextlib.suppress(OSError), contextlib.ExitStack() as connections:
                    while True:
                        connections.enter_context(listener.accept()[0]).sendall(first)

            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            at_end.callback(thread.join, 5)
            at_end.callback(listener.shutdown, socket.SHUT_RDWR)
            return f"http://127.0.0.1:{listener.getsockname()[1]}/"

        yield start


def test_missing_files_are_downloaded(
    mirror: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kmnist = sys.modules["torchvision"].datasets.KMNIST
    monkeypatch.setattr(kmnist, "mirrors", [NOBODY, f"{mirror[0]}/nothing/", f"{mirror[0]}/"])
    data = load_dataset("kmnist", tmp_path / "data")
    assert data.images.shape == (60, 1, 28, 28)
    assert {path.name: path.read_bytes() for path in Path(data.source).iterdir()} == raw_files(60, 20)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["KMNIST", "arrays"]
    assert capsys.readouterr().out == ""  # it may be a log that a program reads


def test_own_mirror_is_asked_first(mirror: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_DATA_MIRROR", mirror[0])
    assert len(load_dataset("kmnist", tmp_path / "data").images) == 60
    monkeypatch.setenv("SEARCH_DATA_MIRROR", f"{mirror[0]}/nothing")
    with pytest.raises(
        DatasetUnavailableError, match=rf": {mirror[0]}/nothing: .*404.*; {NOBODY}: Connection refused\."
    ):
        load_dataset("kmnist", tmp_path / "other")


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(b"<html>please log in</html>"),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
    ],
    ids=["captive portal", "truncated"],
)
def test_bad_downloads_leave_nothing_behind(
    mirror: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], object]
) -> None:
    monkeypatch.setenv("SEARCH_DATA_MIRROR", mirror[0])
    harm(mirror[1] / f"{TRAIN_FILES[0]}.gz")
    with pytest.raises(DatasetUnavailableError, match=rf"{mirror[0]}: File not found or corrupted.*--dataset digits"):
        load_dataset("kmnist", tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(
    "first", [b"", b"HTTP/1.0 200 OK\r\nContent-Length: 9999\r\n\r\nabc"], ids=["never answers", "stalls"]
)
def test_a_silent_mirror_is_given_up(
    mirror: tuple[str, Path],
    silent_server: Callable[[bytes], str],
    tmp_path: Path,
    first: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert 2 * torchvision_sets.MIRROR_TIMEOUT_S <= 10  # MNIST has two mirrors
    monkeypatch.setattr(torchvision_sets, "MIRROR_TIMEOUT_S", 0.3)
    silent = silent_server(first)
    monkeypatch.setenv("SEARCH_DATA_MIRROR", silent)
    began = time.monotonic()
    with pytest.raises(DatasetUnavailableError, match=rf"{silent}: .*timed out; {re.escape(NOBODY)}"):
        load_dataset("kmnist", tmp_path / "data")
    assert time.monotonic() - began < 5
    assert socket.getdefaulttimeout() is None
