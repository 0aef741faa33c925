"""Datasets: the right pictures, an honest split, and clear words when something is missing or damaged."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from objectives import datasets
from objectives.base import DatasetError
from objectives.datasets import (
    DatasetUnavailableError,
    DownloadSpec,
    dataset_slug,
    default_data_dir,
    download_files,
    framing,
    load_dataset,
    load_test_split,
    parse_name,
    read_idx,
    stratified,
)

ROOT = Path(__file__).parents[1]
RAW_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing that a test does may reach the user's cache or a real mirror by accident."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SEARCH_DATA_MIRROR", raising=False)
    return tmp_path / "cache" / "search-data"


@pytest.fixture
def real_data() -> Path:
    for place in (os.environ.get("SEARCH_DATA_DIR"), ROOT.parent / "shared" / "data"):
        if place and (Path(place) / "MNIST" / "raw" / RAW_FILES[0]).is_file():
            return Path(place)
    pytest.skip("the real MNIST files are not here; name their folder with SEARCH_DATA_DIR")


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


def make_folder(root: Path, classes: dict[str, int], size: tuple[int, int] = (30, 30), mode: str = "RGB") -> Path:
    random = np.random.RandomState(1)
    for name, number in classes.items():
        (root / name).mkdir(parents=True)
        for at in range(number):
            pixels = random.randint(0, 256, (*size[::-1], 3)).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{at}.png")
    return root


# --- MNIST and its relatives ---


def test_mnist_is_mapped_split_and_verified(real_data: Path) -> None:
    data = load_dataset("mnist", real_data)
    assert isinstance(data.images, np.memmap)
    assert not data.images.flags.writeable
    assert data.images.shape == (60_000, 1, 28, 28)
    assert (data.channels, data.size, data.n_classes) == (1, (28, 28), 10)
    assert (len(data.train), len(data.validation)) == (50_000, 10_000)
    assert data.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert len(data.digest) <= 36
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
import objectives.datasets
assert not {"numpy", "PIL"} & set(sys.modules)
data = objectives.datasets.load_dataset("mnist", Path(sys.argv[1]))
data.digest
assert any("train-images" in name for name in opened)
assert not any("t10k" in name for name in opened), opened
assert not {"torch", "torchvision", "sklearn", "search"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program, str(real_data)], check=True, cwd=ROOT, timeout=60)


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


def test_missing_files_say_what_to_do(fashion: Path) -> None:
    (fashion / RAW_FILES[3]).unlink()
    with pytest.raises(DatasetUnavailableError, match=r"t10k-labels-idx1-ubyte missing.*--data-dir, or .*digits"):
        load_dataset("fashion-mnist", fashion.parents[1], download=False)


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


# --- digits, names, splits ---


def test_digits_need_no_files() -> None:
    data = load_dataset("digits", None)
    images, labels = load_test_split("digits", None)
    assert data.images.shape == (1438, 1, 8, 8)
    assert (images.shape, images.dtype, labels.dtype) == ((359, 1, 8, 8), np.uint8, np.int64)
    assert int(data.images.max()) == 255
    assert len(data.train) + len(data.validation) == 1438
    counts = np.bincount(np.concatenate([data.labels, labels]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mnits", "no dataset 'mnits'; allowed: mnist, .*folder:PATH. Did you mean --dataset mnist"),
        ("MNIST", "Did you mean --dataset mnist"),
        ("folder:", "names no folder"),
        ("imagenet-21k", "allowed: mnist, fashion-mnist, kmnist, digits, folder:PATH$"),
        (str(ROOT), "Did you mean --dataset folder:"),
    ],
)
def test_unknown_names_list_what_is_allowed(name: str, says: str) -> None:
    with pytest.raises(DatasetError, match=says):
        parse_name(name)


def test_slug_fits_names_of_studies() -> None:
    assert dataset_slug("fashion-mnist") == "fashion-mnist"
    assert dataset_slug("folder:/data/my pets") == "folder-my-pets"


def test_data_dir_comes_from_the_environment_or_the_cache(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    monkeypatch.setenv("SEARCH_DATA_DIR", "/somewhere")
    assert default_data_dir() == Path("/somewhere")
    monkeypatch.delenv("SEARCH_DATA_DIR")
    if sys.platform == "linux":
        assert default_data_dir() == own_cache


@given(st.lists(st.integers(2, 60), min_size=2, max_size=12), st.sampled_from([5, 6]))
def test_split_is_disjoint_complete_stratified_and_repeatable(counts: list[int], share: int) -> None:
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    held_out = round(len(labels) / share)
    kept, held = stratified(labels, held_out)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    per_class = np.bincount(labels[held], minlength=len(counts))
    assert np.all(per_class >= 1)
    assert np.all(per_class < counts)
    assert np.all(np.abs(per_class - np.array(counts) * held_out / len(labels)) <= 1)
    again = stratified(labels, held_out)
    assert np.array_equal(again[0], kept)
    assert np.array_equal(again[1], held)


# --- download ---


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: its address, and the folder that it serves."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", folder
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


def serve(folder: Path) -> tuple[tuple[str, str], ...]:
    files = []
    for name, content in raw_files(60, 20).items():
        packed = gzip.compress(content, mtime=0)
        (folder / f"{name}.gz").write_bytes(packed)
        files.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    return tuple(files)


def test_download_leaves_the_four_files_and_nothing_else(mirror: tuple[str, Path], tmp_path: Path) -> None:
    files = serve(mirror[1])
    download_files(DownloadSpec((mirror[0],), files), tmp_path / "raw")
    assert {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()} == raw_files(60, 20)


def test_next_mirror_is_tried_after_a_bad_one(mirror: tuple[str, Path], tmp_path: Path) -> None:
    files = serve(mirror[1])
    download_files(DownloadSpec(("http://127.0.0.1:9/", mirror[0] + "nothing/", mirror[0]), files), tmp_path / "raw")
    assert len(list((tmp_path / "raw").iterdir())) == 4


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda path: path.write_bytes(b"<html>please log in</html>"), "got 26 bytes with MD5"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "got 100 bytes with MD5"),
        (lambda path: path.unlink(), "404"),
    ],
    ids=["captive portal", "truncated", "absent"],
)
def test_bad_downloads_are_refused(
    mirror: tuple[str, Path], tmp_path: Path, harm: Callable[[Path], object], says: str
) -> None:
    files = serve(mirror[1])
    harm(mirror[1] / files[0][0])
    with pytest.raises(DatasetUnavailableError, match=says):
        download_files(DownloadSpec((mirror[0],), files), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("first", [b"", b"HTTP/1.0 200 OK\r\nContent-Length: 9999\r\n\r\nabc"], ids=["dumb", "stalls"])
def test_a_silent_mirror_is_given_up(silent_server: Callable[[bytes], str], tmp_path: Path, first: bytes) -> None:
    spec = DownloadSpec((silent_server(first), silent_server(first)), (("x.gz", "0"),))
    began = time.monotonic()
    with pytest.raises(DatasetUnavailableError, match=r"no answer in 0\.\d s|stalled for 0\.3 s"):
        download_files(spec, tmp_path, first_answer_s=0.6, stall_s=0.3)
    assert time.monotonic() - began < 3
    assert datasets.FIRST_ANSWER_S <= 10
    assert datasets.STALL_S <= 10


def test_own_mirror_is_asked_first(mirror: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    monkeypatch.setenv("SEARCH_DATA_MIRROR", mirror[0])
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # so that the public mirrors cannot be reached
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    serve(mirror[1])
    with pytest.raises(DatasetUnavailableError, match=rf"cannot be downloaded: {mirror[0]}train-images.*MD5.*instead"):
        load_dataset("mnist", tmp_path / "empty")


# --- folders ---


def test_folder_of_colour_pictures(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets", {"dog": 20, "cat": 10})
    data = load_dataset(f"folder:{folder}", tmp_path / "data")
    images, labels = load_test_split(f"folder:{folder}", tmp_path / "data")
    assert data.classes == ("cat", "dog")
    assert isinstance(data.images, np.memmap)
    assert data.images.shape == (24, 3, 32, 32)
    assert (len(images), np.bincount(labels).tolist()) == (6, [2, 4])
    assert (len(data.train), len(data.validation)) == (19, 5)
    assert framing(data).content_fraction is None


def test_folder_is_decoded_once(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets", {"dog": 9, "cat": 9}, mode="L", size=(28, 28))
    first = load_dataset(f"folder:{folder}", tmp_path / "data")
    for picture in folder.rglob("*.png"):  # same name, size and time, so the cache must answer
        about = picture.stat()
        picture.write_bytes(b"x" * about.st_size)
        os.utime(picture, ns=(about.st_atime_ns, about.st_mtime_ns))
    again = load_dataset(f"folder:{folder}", tmp_path / "data", verify=False)
    assert first.images.shape[1:] == (1, 28, 28)
    assert np.array_equal(first.images, again.images)
    assert first.digest == again.digest


def test_changed_folder_is_not_split_anew_behind_a_search(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets", {"dog": 9, "cat": 9})
    load_dataset(f"folder:{folder}", tmp_path / "data")
    (folder / "dog" / "3.png").unlink()
    with pytest.raises(DatasetError, match="changed after the search began"):
        load_test_split(f"folder:{folder}", tmp_path / "data")
    with pytest.raises(DatasetError, match="changed after the search began"):
        load_dataset(f"folder:{folder}", tmp_path / "data", verify=False)


def test_folder_cache_leaves_a_read_only_data_dir_alone(tmp_path: Path, own_cache: Path) -> None:
    folder = make_folder(tmp_path / "pets", {"dog": 9, "cat": 9})
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    load_dataset(f"folder:{folder}", closed)
    assert list(closed.iterdir()) == []
    if sys.platform == "linux":
        assert len(list((own_cache / "folders").iterdir())) == 1


def test_unreadable_pictures_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_folder(tmp_path / "my 'pets' é\n", {"dog": 30, "ca\nt 'ü\"": 30})
    dogs = folder / "dog"
    (dogs / "cut.png").write_bytes((dogs / "1.png").read_bytes()[:200])
    (dogs / "text.PNG").write_text("no picture")
    (dogs / "link.png").symlink_to(tmp_path / "nowhere")
    (dogs / "folder.png").mkdir()
    (dogs / ".hidden.png").write_text("no picture")
    (dogs / "notes.txt").write_text("no picture")
    (folder / ".git").mkdir()
    with caplog.at_level(logging.WARNING):
        data = load_dataset(f"folder:{folder}", tmp_path / "data")
    assert data.n_classes == 2
    assert "skipped 4 files ('dog/cut.png', 'dog/folder.png', 'dog/link.png', ...)" in caplog.text
    assert len(data.images) + len(load_test_split(f"folder:{folder}", tmp_path / "data")[0]) == 60


def test_unusable_folders_say_why(tmp_path: Path) -> None:
    make_folder(tmp_path / "one", {"dog": 6})
    make_folder(tmp_path / "few", {"dog": 6, "cat": 4})
    (make_folder(tmp_path / "bad", {"dog": 6, "cat": 6}) / "cat" / "a.png").write_text("x")
    (tmp_path / "bad" / "dog" / "b.png").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, says in {
        "none": "does not exist",
        "file": "is a file, not a folder",
        "empty": "holds no folders",
        "one": "only one class, 'dog'",
        "few": "class 'cat' has 4 pictures, and every class needs 5",
        "bad": r"has 2 files \('cat/a.png', 'dog/b.png'\) out of 14 .* more than a tenth",
    }.items():
        with pytest.raises(DatasetError, match=says):
            load_dataset(f"folder:{tmp_path / name}", tmp_path / "data")


def test_drawings_on_black_are_framed_so(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for at in range(6):
            picture = Image.new("L", (28, 28), 0)
            picture.paste(200 + at, (10, 10, 16, 16))
            picture.save(tmp_path / "set" / name / f"{at}.jpg")
    data = load_dataset(f"folder:{tmp_path / 'set'}", tmp_path / "data")
    assert data.channels == 1
    assert framing(data).dark_background
