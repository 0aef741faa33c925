"""npz files and arrays that are not used: what is wrong with them, and what to type."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from set_files import N_TEST, N_TRAIN, images, load_npz, load_npz_test, write_medmnist, write_npz, write_plain
from shell import environment, write_protected

from objectives.base import DatasetError
from objectives.data.datasets import load_dataset

pytestmark = pytest.mark.usefixtures("own_cache")

PIXELS = images(N_TRAIN, (16, 16), 3)[0]
RANDOM = np.random.RandomState(0)
SAVE = r"numpy\.savez_compressed"


@pytest.mark.parametrize(
    ("replaced", "says"),
    [
        ({"images": RANDOM.randn(N_TRAIN, 8, 8) * 3}, r"holds values from -\d.* to 1\d.*\(\(images \+ \d.*astype"),
        ({"images": PIXELS / 2.0 + 0.5}, r"holds values from 0\.5 to 91, and pixels are whole numbers from 0 to 255"),
        ({"images": PIXELS.astype(int) - 9}, r"holds values from -9 to .*astype\('uint8'\)"),
        ({"images": PIXELS * 300.0}, r"holds values from 0 to 5"),
        ({"images": np.where(PIXELS > 90, np.nan, 0.5)}, r"images holds values that are not finite; save numpy.nan_to"),
        ({"images": np.full((N_TRAIN, 8, 8), np.inf)}, "not finite"),
        ({"images": PIXELS.astype(complex)}, "images holds complex128; save it as uint8"),
        ({"images": PIXELS.astype(str)}, "images holds <U3; save it as uint8"),
        ({"images": np.zeros((N_TRAIN, 8, 8, 4), np.uint8)}, r"four channels.*save images\[\.\.\., :3\] instead"),
        ({"images": np.zeros((N_TRAIN, 4, 8, 8), np.uint8)}, r"four channels.*save images\[:, :3\] instead"),
        ({"images": np.zeros((N_TRAIN, 784), np.uint8)}, r"save images\.reshape\(-1, 28, 28\)"),
        ({"images": np.zeros((N_TRAIN, 780), np.uint8)}, r"save images\.reshape\(-1, h, w\)"),
        ({"images": np.zeros((N_TRAIN, 8, 8, 8), np.uint8)}, r"not that of images; they must have the shape \(n, h, w"),
        ({"images": np.zeros((N_TRAIN, 8, 0), np.uint8)}, "its images are empty"),
        ({"images": np.zeros((0, 8, 8)), "labels": np.zeros(0)}, "labels holds no labels; a search needs"),
        ({"images": PIXELS[:9]}, r"images has the shape \(9, 16, 16\) and labels \(300,\); there must be one label"),
        ({"images": np.uint8(3)}, r"images has the shape \(\) and labels"),
        (
            {"labels": None},
            r"images \(300, 32, 32, 3\), but no images with labels to train on. Their names may be train_images",
        ),
        ({"images": None, "labels": None}, "has no arrays. Their names may be train_images"),
        ({"x": PIXELS}, r"holds images and x, and one of them is enough"),
        ({"labels": np.eye(3)[np.arange(N_TRAIN) % 3]}, r"one column for each class; save labels\.argmax\(1\)"),
        ({"labels": np.ones((N_TRAIN, 14))}, r"images with several labels cannot be searched; save one label"),
        ({"labels": np.zeros((N_TRAIN, 2, 2))}, "there must be one label for each image"),
        ({"labels": np.arange(N_TRAIN) % 3 - 1}, r"holds the label -1, .*images\[labels >= 0\], or save labels \+ 1"),
        ({"labels": np.arange(N_TRAIN) / 7}, r"labels holds the number 0\.1428.*numpy\.digitize\(labels, limits\)"),
        ({"labels": np.full(N_TRAIN, np.nan)}, "labels holds the number nan"),
        ({"labels": np.zeros(N_TRAIN, "datetime64[s]")}, "labels holds datetime64.*, and labels are whole numbers or"),
        ({"labels": np.zeros(N_TRAIN, int)}, "labels holds one class only, '0'; a search needs images of two classes"),
        (
            {"labels": np.arange(N_TRAIN)},
            "class '0' has 1 image, .* and 295 more classes have too few, and every class needs 5",
        ),
        ({"labels": np.arange(N_TRAIN) % 3, "classes": np.array(["a", "b"])}, "classes names 2 .* a label 2; add its"),
        ({"labels": np.arange(N_TRAIN) % 3, "classes": np.zeros((3, 2))}, "classes must hold different texts"),
        (
            {"labels": np.full(N_TRAIN, 1e30)},
            r"labels holds the number 1e\+30, .* whole numbers, as floats below 2\*\*53",
        ),
        ({"labels": np.full(N_TRAIN, -np.inf)}, "labels holds the number -inf"),
        ({"labels": np.arange(N_TRAIN) % 3, "classes": np.array(["a", "a", "b"])}, "classes must hold different texts"),
    ],
)
def test_what_cannot_be_used_is_said_with_the_way_out(file: Path, replaced: dict[str, object], says: str) -> None:
    write_plain(file, **replaced)
    with pytest.raises(DatasetError, match=says) as caught:
        load_npz(file)
    assert f"npz:{file}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("replaced", "says"),
    [
        (
            {"test_images": images(N_TEST, (28, 28, 3))[0]},
            r"test_images have 28x28 pixels and 3 channels, those of trai",
        ),
        (
            {"val_images": images(N_TEST, (30, 28))[0]},
            r"val_images have 28x30 pixels and 1 channel, those of train_ima",
        ),
        (
            {"test_images": np.full((N_TEST, 28, 28), 0.5)},
            r"test_images holds values from 0\.5 to 0\.5.* whole numbers",
        ),
        ({"test_images": np.full((N_TEST, 28, 28), 300)}, r"test_images holds values from 300 to 300"),
        (
            {
                "train_images": np.full((N_TRAIN, 28, 28), 999),
                "val_images": None,
                "test_images": np.full((N_TEST, 28, 28), -1),
            },
            r"from -1 to -1, but train_images holds whole numbers from 0; scale both alike",
        ),
        ({"test_images": np.full((N_TEST, 28, 28), np.nan)}, r"test_images holds values that are not finite"),
        ({"test_labels": np.full(N_TEST, 8)}, r"no label of test_labels occurs in train_labels"),
        ({"test_labels": np.full(N_TEST, "cat")}, r"test_labels and train_labels must both hold texts"),
        ({"train_labels": None}, r"has train_images \(300, 28, 28\), val_images"),
    ],
)
def test_splits_that_do_not_fit_are_refused(file: Path, replaced: dict[str, object], says: str) -> None:
    write_medmnist(file, **replaced)
    with pytest.raises(DatasetError, match=says):
        load_npz(file)


@pytest.mark.parametrize(
    ("dtype", "scale", "value", "says"),
    [
        ("int64", 1, 300, "from 300 to 300, but the rest holds whole numbers from 0 to 255; scale both alike"),
        ("int64", 1, -7, "from -7 to -7, but the rest"),
        ("float64", 1, 12.5, "from 12.5 to 12.5, but the rest holds"),
        ("float64", 255, 1.5, r"from 1.5 to 1.5, but the rest holds values from 0 to 1"),
        ("uint16", 1, 300, "from 300 to 300"),
    ],
)
def test_values_of_the_test_part_are_checked(file: Path, dtype: str, scale: float, value: float, says: str) -> None:
    plain, labels = images(N_TRAIN, (16, 16), 3)
    pixels = (plain / scale).astype(dtype)
    write_npz(file, images=pixels, labels=labels)
    load_npz(file)
    test = {image.tobytes() for image in load_npz_test(file)[0]}
    pixels[[image.tobytes() in test for image in plain]] = value
    write_npz(file, images=pixels, labels=labels)
    with pytest.raises(DatasetError, match=f"the test part of images holds values {says}"):
        load_npz(file)


def test_a_nan_in_the_test_part_is_refused(file: Path) -> None:
    pixels, labels = images(N_TRAIN, (16, 16), 3)
    write_npz(file, images=pixels, labels=labels)
    load_npz(file)
    test = {image.tobytes() for image in load_npz_test(file)[0]}
    floats = np.where(np.array([image.tobytes() in test for image in pixels])[:, None, None], np.nan, pixels)
    write_npz(file, images=floats, labels=labels)
    with pytest.raises(DatasetError, match="images holds values that are not finite"):
        load_npz(file)


def test_arrays_of_the_pool_are_freed_before_the_test_images_are_read(file: Path) -> None:
    pixels = np.zeros((4_000, 32, 32))
    pixels[::2] = 0.5
    labels = np.arange(len(pixels)) % 2
    write_npz(file, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    tracemalloc.start()
    load_npz(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pixels.nbytes < peak < 1.7 * pixels.nbytes


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize(
    ("key", "n", "advice"),
    [
        ("labels", N_TRAIN, r"labels\.astype\(str\)"),
        ("images", N_TRAIN, r"numpy\.stack\(list\(images\)\), with all images of one size, instead"),
        ("classes", 3, r"classes\.astype\(str\)"),
    ],
)
def test_objects_are_not_loaded(file: Path, tmp_path: Path, key: str, n: int, advice: str) -> None:
    values = np.empty(n, object)
    values[:] = [Evil(tmp_path / "ran") for _ in range(n)]
    write_plain(file, **{key: values})
    with pytest.raises(
        DatasetError, match=f"{key} holds Python objects, and loading those could run code; save {advice}"
    ):
        load_npz(file)
    assert not (tmp_path / "ran").exists()
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    assert pickle.dumps(values[0]) in buffer.getvalue() or b"mkdir" in buffer.getvalue()


def test_files_that_are_no_npz(file: Path) -> None:
    with pytest.raises(DatasetError, match="pets.npz' does not exist; give an npz file"):
        load_npz(file)
    file.mkdir()
    with pytest.raises(DatasetError, match=f"pets.npz' is a folder; type --dataset folder:{file}$"):
        load_npz(file)
    file.rmdir()
    write_plain(file)
    with pytest.raises(DatasetError, match=rf"pets\.npz' is a file; type --dataset npz:{file}$"):
        load_dataset(f"folder:{file}", file.parent / "data")
    for content, says in ((b"", "it is empty"), (b"<html>", "it is not an npz file of numpy; copy it again, or save")):
        file.write_bytes(content)
        with pytest.raises(DatasetError, match=says):
            load_npz(file)
    with file.open("wb") as opened:
        np.save(opened, PIXELS)
    with pytest.raises(DatasetError, match=rf"is an \.npy file, which holds one array; .*{SAVE}"):
        load_npz(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("cat/1.png", b"png")
    with pytest.raises(DatasetError, match="has no arrays"):
        load_npz(file)


def test_damaged_files(file: Path) -> None:
    write_plain(file)
    whole = file.read_bytes()
    for harmed in (whole[: len(whole) // 2], whole[:5_000] + bytes(5_000) + whole[10_000:]):
        file.write_bytes(harmed)
        with pytest.raises(DatasetError, match=rf"is damaged or cannot be read: .*{SAVE}"):
            load_npz(file)


def test_a_file_with_a_password(file: Path) -> None:
    write_plain(file)
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        offsets = [info.header_offset for info in archive.infolist()]
    for offset in offsets:
        content[offset + 6] |= 1  # the bit that says so, in both places
    position = -1
    while (position := content.find(b"PK\x01\x02", position + 1)) >= 0:
        content[position + 8] |= 1
    file.write_bytes(bytes(content))
    with pytest.raises(DatasetError, match="is encrypted.*; save it without a password"):
        load_npz(file)


def test_more_than_fits_in_memory(file: Path) -> None:
    write_plain(file)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (N_TRAIN, 1_000_000, 1_000_000)}
    )
    with zipfile.ZipFile(file) as archive:
        labels = archive.read("labels.npy")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("labels.npy", labels)
        archive.writestr("images.npy", header.getvalue())
    with pytest.raises(DatasetError, match=r"images needs [\d.,]+ GB of memory, and"):
        load_npz(file)


LOAD = """
import sys
from pathlib import Path
from objectives.base import DatasetError
from objectives.data.datasets import load_dataset
try:
    load_dataset(sys.argv[1], Path("data"))
except DatasetError as error:
    print(error)
"""


def test_a_file_that_the_user_may_not_read_is_not_called_damaged(file: Path) -> None:
    write_plain(file)
    with write_protected(file.parent) as words:
        file.chmod(0)
        command = [*words, sys.executable, "-c", LOAD, f"npz:{file}"]
        result = subprocess.run(command, cwd=file.parent, env=environment(), capture_output=True, text=True)
    assert result.stdout == f"you may not read npz:{file}; type chmod u+r {file}\n", result.stderr


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 2_000), content=st.binary(min_size=1, max_size=40))
def test_any_damage_is_a_dataset_error(file: Path, start: int, content: bytes) -> None:
    write_npz(file, images=PIXELS[:30, :4, :4], labels=np.arange(30) % 2)
    whole = file.read_bytes()
    file.write_bytes(whole[:start] + content + whole[start + len(content) :])
    with contextlib.suppress(DatasetError):
        load_npz(file)
    shutil.rmtree(file.parent / "data", ignore_errors=True)


def test_a_second_pair_is_not_used(file: Path) -> None:
    pixels, labels = images(100, (20, 20), 2)
    write_npz(file, x_train=pixels, y_train=labels, images=pixels[:50], labels=labels[:50])
    data = load_npz(file)
    assert (len(data.images), data.n_test) == (80, 20)
    assert data.notes == ["not used beside x_train and y_train: images, labels"]
