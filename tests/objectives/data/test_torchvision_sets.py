"""Datasets of torchvision: read from its files without running any of them, test files last, framed for photographs."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import os
import pickle
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from set_files import (
    N_TEST,
    N_TRAIN,
    idx,
    images,
    write_cifar,
    write_emnist,
    write_qmnist,
    write_svhn,
    write_usps,
)
from shell import CHECKOUT, environment

from objectives.base import DatasetError, DatasetUnavailableError
from objectives.data.datasets import framing, load_dataset, load_test_split, load_test_split_of
from objectives.data.files.image_files import Framing
from objectives.data.formats.torchvision_files import EMNIST_CLASSES
from objectives.data.torchvision_sets import SETS

pytestmark = pytest.mark.usefixtures("own_cache")

WRITERS: dict[str, Callable[[Path], object]] = {
    "cifar10": write_cifar,
    "cifar100": lambda data: write_cifar(data, "cifar100"),
    "svhn": write_svhn,
    "emnist-letters": lambda data: write_emnist(data, "letters", 26, first=1),
    "emnist-balanced": lambda data: write_emnist(data, "balanced", 47, packed=True),
    "emnist-byclass": lambda data: write_emnist(data, "byclass", 62),
    "usps": write_usps,
    "qmnist": write_qmnist,
}
PIXELS: dict[str, tuple[int, ...]] = {"cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "svhn": (32, 32, 3)}


def expected(name: str, n: int, seed: int = 0) -> np.ndarray:
    shape = (16, 16) if name == "usps" else PIXELS.get(name, (28, 28))
    pixels, _ = images(n, shape, len(EMNIST_CLASSES[name[7:]]) if name.startswith("emnist") else 10, seed)
    if name == "svhn":
        return pixels.transpose(0, 3, 1, 2)
    if name.startswith("emnist"):
        pixels[:, 0, :] = 255
    return pixels if pixels.ndim == 4 else pixels[:, None]


@pytest.mark.parametrize("name", ["svhn", "emnist-letters", "emnist-balanced", "emnist-byclass", "qmnist"])
def test_images_come_as_they_are_and_upright(data_dir: Path, name: str) -> None:
    WRITERS[name](data_dir)
    data = load_dataset(name, data_dir, download=False)
    assert np.array_equal(data.images, expected(name, N_TRAIN))
    assert data.labels.tolist() == [n % len(data.classes) for n in range(N_TRAIN)]
    pixels, labels = load_test_split(name, data_dir)
    assert np.array_equal(pixels, expected(name, N_TEST, seed=1 if name == "svhn" else 0))
    assert labels.tolist() == [n % len(data.classes) for n in range(N_TEST)]
    assert (data.source, data.name) == (str(data_dir / SETS[name].folder), name)


def test_usps_is_scaled(data_dir: Path) -> None:
    write_usps(data_dir)
    data = load_dataset("usps", data_dir, download=False)
    assert data.images.shape == (N_TRAIN, 1, 16, 16)
    assert np.abs(data.images.astype(int) - expected("usps", N_TRAIN)).max() <= 1
    assert data.labels[:3].tolist() == [0, 1, 2]
    assert len(load_test_split("usps", data_dir)[1]) == N_TEST


@pytest.mark.parametrize(("name", "n_classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_has_the_names_of_its_file(data_dir: Path, name: str, n_classes: int) -> None:
    WRITERS[name](data_dir)
    data = load_dataset(name, data_dir, download=False)
    assert data.images.shape == (N_TRAIN, 3, 32, 32)
    assert data.classes == tuple(f"class {n}" for n in range(n_classes))
    first = 60 if name == "cifar10" else N_TRAIN  # of a batch
    assert np.array_equal(data.images[:first], images(first, (3, 32, 32), n_classes)[0])
    pixels, labels = load_test_split(name, data_dir)
    assert np.array_equal(pixels, images(N_TEST, (3, 32, 32), n_classes, seed=5 if name == "cifar10" else 1)[0])
    assert labels.tolist() == [n % n_classes for n in range(N_TEST)]


def test_cifar_is_read_as_python_2_wrote_it(data_dir: Path) -> None:
    folder = write_cifar(data_dir)
    pixels = bytes(range(256)) * 24  # two images
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R(K\x01K\x02M\0\x0c\x86"
    array += b"cnumpy\ndtype\nU\x02u1K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89T"
    array += len(pixels).to_bytes(4, "little") + pixels + b"tb"
    content = b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x03K\x04eu."
    (folder / "data_batch_1").write_bytes(content)
    data = load_dataset("cifar10", data_dir, download=False)
    assert data.images[:2].tobytes() == pixels
    assert data.labels[:2].tolist() == [3, 4]


@pytest.mark.parametrize("name", WRITERS)
def test_the_pool_is_split_and_says_where_from(data_dir: Path, name: str) -> None:
    WRITERS[name](data_dir)
    data = load_dataset(name, data_dir, download=False)
    share = 6 if "mnist" in name else 5
    assert len(data.train) + len(data.validation) == N_TRAIN
    if len(data.classes) < 30:  # else each class has too few images for more than one in the smaller split
        assert len(data.validation) == N_TRAIN // share
    one = {5: "a fifth", 6: "a sixth"}[share]
    assert data.origins["validation"] == f"{one} of the training files, each class in proportion"
    is_counted = name in ("emnist-letters", "emnist-byclass", "qmnist")  # by the sizes of unpacked files
    assert data.n_test == (N_TEST if is_counted else None)
    assert data.origins["test"] == "the test files" + ("" if is_counted else " (counted when they are read)")
    assert data.duplicates is None
    assert data.original_size is None


FRAMINGS = {"cifar10": (3, None, False), "svhn": (3, None, False), "usps": (1, 1.0, True), "qmnist": (1, 20 / 28, True)}


@pytest.mark.parametrize("name", FRAMINGS)
def test_files_are_framed_like_the_images(data_dir: Path, name: str) -> None:
    WRITERS[name](data_dir)
    channels, fraction, is_dark = FRAMINGS[name]
    data = load_dataset(name, data_dir, download=False)
    assert framing(data) == Framing(channels, data.size, fraction, is_dark)
    small = load_dataset(name, data_dir, download=False, image_size=12)
    assert framing(small) == Framing(channels, (12, 12), fraction, is_dark)


@pytest.mark.parametrize("name", ["cifar10", "qmnist", "usps"])
def test_another_size_has_arrays_of_its_own(data_dir: Path, name: str) -> None:
    WRITERS[name](data_dir)
    data, small = (load_dataset(name, data_dir, download=False, image_size=size) for size in (None, 20))
    assert small.images.shape == (N_TRAIN, data.channels, 20, 20)
    assert (small.original_size, small.image_size) == (data.size, 20)
    assert small.digest != data.digest
    assert abs(float(small.images.mean()) - float(data.images.mean())) < 1
    assert load_test_split(name, data_dir, 20)[0].shape == (N_TEST, data.channels, 20, 20)
    assert load_test_split_of(name, data_dir, small.digest, 20)[0][0].shape[2:] == (20, 20)
    with pytest.raises(DatasetError, match="holds other images than those of the model's training"):
        load_test_split_of(name, data_dir, small.digest)


TEST_FILES = {
    "cifar10": "test_batch",
    "svhn": "test_32x32.mat",
    "emnist-letters": "emnist-letters-test",
    "usps": "usps.t.bz2",
    "qmnist": "qmnist-test",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "svhn" else pytest.mark.slow) for name in TEST_FILES]
)
def test_loading_opens_no_test_file(data_dir: Path, name: str) -> None:
    program = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from pathlib import Path
import objectives.data.datasets
assert not {"torch", "torchvision", "scipy", "sklearn", "search"} & set(sys.modules)
objectives.data.datasets.load_dataset(sys.argv[1], Path(sys.argv[2])).digest
assert any("pool-images" in name for name in opened)
assert not any(sys.argv[3] in name or "test-images" in name or "test-labels" in name for name in opened), opened
"""
    WRITERS[name](data_dir)
    words = [sys.executable, "-c", program, name, str(data_dir), TEST_FILES[name]]
    subprocess.run(words, check=True, cwd=CHECKOUT, env=environment(), timeout=60)


def test_files_are_parsed_once(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(data_dir)
    first = load_dataset("svhn", data_dir, download=False)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    again = load_dataset("svhn", data_dir, verify=False, download=False)
    assert isinstance(again.images, np.memmap)
    assert again.digest == first.digest


# --- damaged and malicious files ---


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("file", ["data_batch_3", "batches.meta"])
def test_a_pickle_that_runs_code_is_refused(data_dir: Path, tmp_path: Path, file: str) -> None:
    folder = write_cifar(data_dir)
    content = pickle.loads((folder / file).read_bytes())
    (folder / file).write_bytes(pickle.dumps({**content, "x": Evil(tmp_path / "ran")}, protocol=2))
    with pytest.raises(DatasetError, match=r"is damaged: it names (posix|nt)\.system, which is not part of CIFAR"):
        load_dataset("cifar10", data_dir, download=False)
    assert not (tmp_path / "ran").exists()
    pickle.loads((folder / file).read_bytes())
    assert (tmp_path / "ran").exists()  # it would have


def test_a_codec_that_is_none_of_bytes_is_refused(data_dir: Path) -> None:
    folder = write_cifar(data_dir)
    program = b"\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00abcX\x06\x00\x00\x00base64\x86R."
    (folder / "data_batch_1").write_bytes(program)
    with pytest.raises(DatasetError, match="names the encoding 'base64'"):
        load_dataset("cifar10", data_dir, download=False)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"labels": [0]}, "is damaged: 'data'"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "it holds 242 images and 241 labels"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, "it has a label 10, expected 0 to 9"),
        ({"data": np.zeros((1, 3071), np.uint8), "labels": [1]}, "cannot reshape"),
        ([1, 2], "it holds a list, expected a dict"),
    ],
)
def test_a_damaged_batch_is_named(data_dir: Path, content: object, says: str) -> None:
    folder = write_cifar(data_dir)
    (folder / "data_batch_5").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DatasetError, match=f"cifar-10-batches-py.*{says}.*delete it and run again, or name another"):
        load_dataset("cifar10", data_dir, download=False)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar100", "cifar-100-python/train"),
        ("svhn", "train_32x32.mat"),
        ("usps", "usps.bz2"),
        ("qmnist", "QMNIST/raw/qmnist-train-labels-idx2-int"),
        ("emnist-letters", "EMNIST/raw/emnist-letters-train-images-idx3-ubyte"),
        ("emnist-balanced", "EMNIST/raw/emnist-balanced-train-images-idx3-ubyte.gz"),
    ],
)
@pytest.mark.parametrize("harm", [lambda content: content[:-70], lambda content: b"", lambda content: b"<html>"])
def test_a_damaged_file_is_named(data_dir: Path, name: str, file: str, harm: Callable[[bytes], bytes]) -> None:
    WRITERS[name](data_dir)
    (data_dir / file).write_bytes(harm((data_dir / file).read_bytes()))
    with pytest.raises(DatasetError, match=r"is damaged: .*delete it and run again") as caught:
        load_dataset(name, data_dir, download=False)
    assert Path(file).name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_letters_beyond_the_alphabet_are_refused(data_dir: Path) -> None:
    folder = write_emnist(data_dir, "letters", 26, first=1)
    labels = np.full(N_TRAIN, 27, np.uint8)
    (folder / "emnist-letters-train-labels-idx1-ubyte").write_bytes(idx(labels))
    with pytest.raises(DatasetError, match="it has a label 26, expected 0 to 25"):
        load_dataset("emnist-letters", data_dir, download=False)


@pytest.mark.parametrize("file", ["emnist-letters-test-labels-idx1-ubyte", "emnist-letters-test-images-idx3-ubyte"])
def test_test_files_of_other_sizes_are_damaged(data_dir: Path, file: str) -> None:
    path = write_emnist(data_dir, "letters", 26, first=1) / file
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DatasetError, match=rf"{file}.* is damaged: the sizes are those of .* images and .* labels; "):
        load_dataset("emnist-letters", data_dir, download=False)


def test_files_must_be_of_the_kind_that_their_names_say(data_dir: Path) -> None:
    folder = write_qmnist(data_dir)
    labels = folder / "qmnist-train-labels-idx2-int"
    labels.write_bytes((folder / "qmnist-train-images-idx3-ubyte").read_bytes())
    with pytest.raises(DatasetError, match=r"/qmnist-train-labels-idx2-int is damaged: it holds uint8 of shape"):
        load_dataset("qmnist", data_dir, download=False)


# --- missing files ---


def test_missing_files_say_what_to_do(data_dir: Path) -> None:
    (write_cifar(data_dir) / "test_batch").unlink()
    says = rf"cifar10 is not in {data_dir}/cifar-10-batches-py \(test_batch missing\) and cannot be downloaded: .*"
    says += "Put torchvision's files there, name the folder that holds cifar-10-batches-py with --data-dir, or type"
    with pytest.raises(DatasetUnavailableError, match=says):
        load_dataset("cifar10", data_dir, download=False)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a web server that torchvision downloads USPS from."""
    usps = pytest.importorskip("torchvision").datasets.USPS
    folder = tmp_path / "mirror"
    write_usps(folder)
    urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # torchvision shows progress there, and the server what it does
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        listed = {}
        for split, name in (("train", "usps.bz2"), ("test", "usps.t.bz2")):
            md5 = hashlib.md5((folder / name).read_bytes()).hexdigest()
            listed[split] = [f"http://127.0.0.1:{server.server_port}/{name}", name, md5]
        monkeypatch.setattr(usps, "split_list", listed)
        yield folder
        server.shutdown()


@pytest.mark.usefixtures("mirror")
def test_missing_files_are_downloaded(data_dir: Path) -> None:
    assert len(load_dataset("usps", data_dir).images) == N_TRAIN
    assert sorted(path.name for path in data_dir.iterdir()) == ["arrays", "usps.bz2", "usps.t.bz2"]


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda path: path.unlink(), "HTTP Error 404"),
        (lambda path: path.write_bytes(b"<html>"), "not found or corrupt"),
    ],
)
def test_a_failed_download_leaves_nothing_behind(
    data_dir: Path, mirror: Path, harm: Callable[[Path], object], says: str
) -> None:
    harm(mirror / "usps.t.bz2")
    with pytest.raises(DatasetUnavailableError, match=rf"usps is not in .*cannot be downloaded: .*{says}"):
        load_dataset("usps", data_dir)
    assert list(data_dir.iterdir()) == []


def test_only_sets_with_mirrors_of_their_own_ask_a_mirror(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qmnist = pytest.importorskip("torchvision").datasets.QMNIST  # it inherits MNIST's mirrors and has addresses
    monkeypatch.setattr(qmnist, "resources", {"train": [("http://127.0.0.1:9/train-images.gz", None)] * 2})
    monkeypatch.setenv("SEARCH_DATA_MIRROR", "http://127.0.0.1:9/mirror")
    with pytest.raises(DatasetUnavailableError, match=r"cannot be downloaded: Connection refused\. Put"):
        load_dataset("qmnist", data_dir)
