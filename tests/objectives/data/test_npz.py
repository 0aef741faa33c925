"""npz files: layouts, pixels and labels that are understood, and for all others what to type."""

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
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from set_files import N_TEST, N_TRAIN, images, write_medmnist, write_npz, write_plain
from shell import CHECKOUT, environment

from objectives.base import DatasetError
from objectives.data.datasets import Dataset, framing, load_dataset, load_test_split, load_test_split_of
from objectives.data.files.image_files import Framing, read_image, to_model_input
from objectives.data.names import dataset_slug, is_same_dataset


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "data"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pets.npz"


def load(file: Path, size: int | None = None) -> Dataset:
    return load_dataset(f"npz:{file}", file.parent / "data", image_size=size)


def load_test(file: Path) -> tuple[np.ndarray, np.ndarray]:
    return load_test_split(f"npz:{file}", file.parent / "data")


# --- layouts and splits ---


def test_the_splits_of_medmnist_are_used(file: Path) -> None:
    write_medmnist(file)
    data = load(file)
    assert (len(data.train), len(data.validation), data.n_test) == (N_TRAIN, N_TEST, N_TEST)
    expected = [images(n, (28, 28), 3, seed) for seed, n in enumerate((N_TRAIN, N_TEST, N_TEST))]
    for index, (pixels, labels) in zip((data.train, data.validation), expected[:2], strict=True):
        assert np.array_equal(data.images[index, 0], pixels)
        assert np.array_equal(data.labels[index], labels)
    pixels, labels = load_test(file)
    assert np.array_equal(pixels[:, 0], expected[2][0])
    assert np.array_equal(labels, expected[2][1])
    assert data.origins == {"training": "train_images", "validation": "val_images", "test": "test_images"}
    assert data.test_classes == {"0": 20, "1": 20, "2": 20}
    assert (data.duplicates, data.notes, data.original_size) == ([], [], None)
    assert data.source == str(file)
    assert isinstance(data.images, np.memmap)
    assert not data.images.flags.writeable


def test_plain_images_are_split(file: Path) -> None:
    write_plain(file)
    data = load(file)
    assert data.classes == ("cat", "dog", "eel")
    assert (len(data.train), len(data.validation), data.n_test) == (192, 48, 60)
    assert data.test_classes == {"cat": 20, "dog": 20, "eel": 20}
    assert data.class_counts == {"cat": 80, "dog": 80, "eel": 80}
    assert data.origins == {
        "training": "64% of images",
        "validation": "16% of images, each class in proportion",
        "test": "a fifth of images, each class in proportion",
    }
    pixels = images(N_TRAIN, (32, 32, 3), 3)[0].transpose(0, 3, 1, 2)
    stored = np.concatenate([data.images, load_test(file)[0]])
    assert sorted(image.tobytes() for image in stored) == sorted(image.tobytes() for image in pixels)


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "y_train", "X_test", "y_test"),
        ("xtrain", "ytrain", "xtest", "ytest"),
        ("train_x", "train_y", "test_x", "test_y"),
        ("training_images", "training_labels", "testing_images", "testing_labels"),
        ("data", "target", "test_data", "test_target"),
    ],
)
def test_other_names_of_keys(file: Path, keys: tuple[str, ...]) -> None:
    (train, labels), (test, test_labels) = images(100, (20, 20), 2), images(20, (20, 20), 2, seed=1)
    write_npz(file, **dict(zip(keys, (train, labels, test, test_labels), strict=True)))
    data = load(file)
    assert (len(data.train), len(data.validation), data.n_test) == (80, 20, 20)
    assert data.origins["training"] == f"four fifths of {keys[0]}"
    assert data.origins["test"] == keys[2]
    assert np.array_equal(load_test(file)[0][:, 0], test)


def test_a_validation_split_without_a_test_split(file: Path) -> None:
    write_medmnist(file, test_images=None, test_labels=None)
    data = load(file)
    assert (len(data.train), len(data.validation), data.n_test) == (240, N_TEST, 60)
    assert data.origins["training"] == "four fifths of train_images"
    assert data.origins["test"] == "a fifth of train_images, each class in proportion"
    assert np.array_equal(data.labels[data.validation], np.arange(N_TEST) % 3)


def test_test_images_without_labels_are_not_used(file: Path) -> None:
    write_medmnist(file, test_labels=None)
    data = load(file)
    assert data.notes == ["test_images has no labels and is not used"]
    assert data.origins["test"] == "a fifth of train_images, each class in proportion"


def test_loading_opens_neither_the_file_nor_the_test_arrays(file: Path) -> None:
    program = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from pathlib import Path
from objectives.data.datasets import load_dataset
load_dataset(sys.argv[1], Path(sys.argv[2])).digest
assert any("pool-images" in name for name in opened)
assert not any(name.endswith(("pets.npz", "test-images.npy", "test-labels.npy")) for name in opened), opened
"""
    write_medmnist(file)
    load(file)
    words = [sys.executable, "-c", program, f"npz:{file}", str(file.parent / "data")]
    subprocess.run(words, check=True, cwd=CHECKOUT, env=environment(), timeout=60)


# --- pixels ---


@pytest.mark.parametrize(
    "shape", [(28, 28), (28, 28, 1), (1, 28, 28), (28, 28, 3), (3, 28, 28), (20, 32), (20, 32, 3), (9, 9)]
)
def test_shapes(file: Path, shape: tuple[int, ...]) -> None:
    write_medmnist(file, shape=shape)
    data = load(file)
    pixels = images(N_TRAIN, shape, 3)[0]
    if len(shape) == 2:
        pixels = pixels[:, None]
    elif shape[2] in (1, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    assert np.array_equal(data.images[data.train], pixels)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float16", ">u2"])
def test_whole_numbers_up_to_255_stay(file: Path, dtype: str) -> None:
    pixels, _ = images(N_TRAIN, (12, 12), 3)
    write_medmnist(file, shape=(12, 12), train_images=pixels.astype(dtype))
    assert np.array_equal(load(file).images[:N_TRAIN, 0], pixels)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_from_0_to_1_are_scaled(file: Path, dtype: str) -> None:
    pixels, labels = images(N_TRAIN, (12, 12), 3)
    write_npz(file, x_train=(pixels / 255).astype(dtype), y_train=labels, x_test=pixels / 255, y_test=labels)
    data = load(file)
    assert data.images[:, 0].tobytes() == pixels.tobytes()
    assert len(data.duplicates or ()) == N_TRAIN
    assert data.value_range is None


@pytest.mark.parametrize("dtype", ["bool", "uint8"])
def test_masks_are_black_and_white(file: Path, dtype: str) -> None:
    pixels, labels = images(N_TRAIN, (12, 12), 3)
    write_npz(file, images=(pixels > 100).astype(dtype), labels=labels)
    assert np.unique(load(file).images).tolist() == [0, 255]


def test_16_bits_are_scaled_by_the_range_of_the_pool(file: Path, tmp_path: Path) -> None:
    pixels, labels = (images(N_TRAIN, (16, 16), 3)[0].astype(np.uint16) * 10 + 500), np.arange(N_TRAIN) % 3
    test = np.full((10, 16, 16), 60_000, np.uint16)
    write_npz(file, x_train=pixels, y_train=labels, x_test=test, y_test=labels[:10])
    data = load(file)
    low, high = data.value_range or (0, 0)
    assert 500 <= low < 520
    assert 2_300 < high <= 3_000
    assert load_test(file)[0].min() == 255  # which does not count
    Image.fromarray(pixels[7]).save(tmp_path / "7.png")
    frame = Framing.of({**asdict(framing(data)), "size": [16, 16], "value_range": [low, high]})
    shown, _ = to_model_input(read_image(tmp_path / "7.png", value_range=frame.value_range), frame)
    assert np.array_equal(np.rint(shown * 255), data.images[7])


def test_large_images_are_shrunk(file: Path) -> None:
    write_medmnist(file, shape=(128, 96), val_images=None, val_labels=None)
    data = load(file)
    assert (data.size, data.original_size) == ((64, 48), (128, 96))
    assert load(file, 128).size == (128, 128)
    assert load(file, 128).original_size == (128, 96)
    assert load(file, 32).digest != data.digest
    assert load_test_split(f"npz:{file}", file.parent / "data", 32)[0].shape == (N_TEST, 1, 32, 32)


def test_tiny_images_get_a_border(file: Path) -> None:
    pixels = np.full((N_TRAIN, 4, 4), 90, np.uint8)
    write_npz(file, images=pixels, labels=np.arange(N_TRAIN) % 2)
    data = load(file)
    assert (data.size, data.original_size) == ((8, 8), (4, 4))
    assert np.unique(data.images).tolist() == [90]


# --- labels ---


def test_classes_are_those_of_training(file: Path) -> None:
    labels = np.array([1, 2, 5])[np.arange(N_TRAIN) % 3]
    held_out = np.array([1, 5, 9])[np.arange(N_TEST) % 3]
    write_medmnist(file, train_labels=labels, val_labels=labels[:N_TEST], test_labels=held_out)
    data = load(file)
    assert data.classes == ("1", "2", "5")
    assert data.n_test == 40
    assert data.test_classes == {"1": 20, "2": 0, "5": 20}
    assert load_test(file)[1][:4].tolist() == [0, 2, 0, 2]
    assert data.notes == [
        "images of classes that train_images lacks are left out of test_images: '9' (20)",
        "test_images has no images of class '2'",
    ]


def test_many_classes_that_splits_lack_are_counted(file: Path) -> None:
    labels = np.arange(N_TRAIN) % 30
    write_medmnist(file, train_labels=labels, val_labels=labels[:N_TEST] % 10, test_labels=labels[:N_TEST] % 15 + 20)
    assert load(file).notes == [
        "val_images has no images of 20 classes: "
        "'10', '11', '12', '13', '14', '15', '16', '17', '18', '19' and 10 more",
        "images of classes that train_images lacks are left out of test_images: "
        "'30' (4), '31' (4), '32' (4), '33' (4), '34' (4)",
        "test_images has no images of 20 classes: '0', '1', '2', '3', '4', '5', '6', '7', '8', '9' and 10 more",
    ]


@pytest.mark.parametrize("key", ["classes", "class_names", "label_names"])
def test_names_of_classes(file: Path, key: str) -> None:
    write_medmnist(file, **{key: np.array(["ant", "bee", "cow", "dog"])})
    assert load(file).classes == ("ant", "bee", "cow")


def test_names_of_classes_may_be_numbers(file: Path) -> None:
    write_medmnist(file, classes=np.arange(3) + 10)
    assert load(file).classes == ("10", "11", "12")
    labels = np.array([1, 2, 5])[np.arange(N_TRAIN) % 3]
    held_out = {"val_labels": labels[:N_TEST], "test_labels": labels[:N_TEST]}
    write_medmnist(file, train_labels=labels, **held_out, classes=np.unique(labels))
    assert load(file).classes == ("1", "2", "5")


@pytest.mark.parametrize("dtype", [str, object])
def test_names_of_images_are_not_those_of_classes(file: Path, dtype: type) -> None:
    names = np.array([f"img{n}.png" for n in range(N_TRAIN)], dtype)
    write_medmnist(file, names=names)
    data = load(file)
    assert data.classes == ("0", "1", "2")
    assert data.notes == ["not used, because the names are unknown: names"]
    write_medmnist(file, classes=names)
    data = load(file)
    assert data.classes == ("0", "1", "2")
    assert data.notes == ["classes is not used: it has an entry for each image, not for each class"]
    write_medmnist(file, classes=names, class_names=np.array(["ant", "bee", "cow"]))
    assert load(file).classes == ("ant", "bee", "cow")


def test_a_second_pair_is_not_used(file: Path) -> None:
    pixels, labels = images(100, (20, 20), 2)
    write_npz(file, x_train=pixels, y_train=labels, images=pixels[:50], labels=labels[:50])
    data = load(file)
    assert (len(data.images), data.n_test) == (80, 20)
    assert data.notes == ["not used beside x_train and y_train: images, labels"]


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["bee", "ant"])[np.arange(N_TRAIN) % 2],
        np.array([b"bee", b"ant"])[np.arange(N_TRAIN) % 2],
        np.array(["bee", "ant"])[np.arange(N_TRAIN) % 2][:, None],
    ],
)
def test_texts_are_names(file: Path, labels: np.ndarray) -> None:
    write_plain(file, labels=labels)
    data = load(file)
    assert data.classes == ("ant", "bee")
    assert data.class_counts == {"ant": 120, "bee": 120}


@pytest.mark.parametrize("dtype", ["int8", "uint64", "float32", "bool"])
def test_numbers_of_any_type_are_labels(file: Path, dtype: str) -> None:
    write_plain(file, labels=(np.arange(N_TRAIN) % 2).astype(dtype))
    assert load(file).classes == ("0", "1")


# --- duplicates ---


def test_images_in_both_splits_are_named(file: Path) -> None:
    train, test = (images(n, (28, 28), 3, seed)[0] for n, seed in ((N_TRAIN, 0), (N_TEST, 2)))
    val = images(N_TEST, (28, 28), 3, 1)[0]
    test[3], test[5], test[9], train[40] = train[12], val[8], train[12], train[12]
    write_medmnist(file, train_images=train, val_images=val, test_images=test)
    assert load(file).duplicates == [
        "train_images[12] = test_images[3]",
        "train_images[12] = test_images[9]",
        "val_images[8] = test_images[5]",
    ]


def test_images_in_training_and_validation_are_named(file: Path) -> None:
    train, val = images(N_TRAIN, (28, 28), 3)[0], images(N_TEST, (28, 28), 3, 1)[0]
    val[4] = train[7]
    write_medmnist(file, train_images=train, val_images=val)
    data = load(file)
    assert data.duplicates == []
    assert data.notes == [
        "1 validation image is among the training images as well, which flatters the validation score: "
        "train_images[7] = val_images[4]"
    ]


def test_many_duplicates_are_counted(file: Path) -> None:
    pixels, labels = np.zeros((6_000, 8, 8), np.uint8), np.arange(6_000) % 2
    write_npz(file, images=pixels, labels=labels)
    data = load(file)
    assert len(data.duplicates or ()) == 1_000
    assert data.notes == ["1,200 test images are among the others too, of which 1,000 are named"]


# --- what cannot be used ---

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
        ({"labels": None}, r"holds images \(300, 32, 32, 3\), and no images and labels by these names: train_images"),
        ({"images": None, "labels": None}, "holds no arrays, and no images and labels"),
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
        load(file)
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
            r"from -1 to -1, and those of train_images are in the whole numbers from 0; scale both alike",
        ),
        ({"test_images": np.full((N_TEST, 28, 28), np.nan)}, r"test_images holds values that are not finite"),
        ({"test_labels": np.full(N_TEST, 8)}, r"no label of test_labels occurs in train_labels"),
        ({"test_labels": np.full(N_TEST, "cat")}, r"test_labels and train_labels must both hold texts"),
        ({"train_labels": None}, r"holds train_images \(300, 28, 28\), val_images"),
    ],
)
def test_splits_that_do_not_fit_are_refused(file: Path, replaced: dict[str, object], says: str) -> None:
    write_medmnist(file, **replaced)
    with pytest.raises(DatasetError, match=says):
        load(file)


@pytest.mark.parametrize(
    ("dtype", "scale", "value", "says"),
    [
        ("int64", 1, 300, "from 300 to 300, and those of the rest are in the whole numbers 0 to 255; scale both alike"),
        ("int64", 1, -7, "from -7 to -7, and those of the rest"),
        ("float64", 1, 12.5, "from 12.5 to 12.5, and those of the rest"),
        ("float64", 255, 1.5, r"from 1.5 to 1.5, and those of the rest are in \[0, 1\]"),
        ("uint16", 1, 300, "from 300 to 300"),
    ],
)
def test_values_of_the_test_part_are_checked(file: Path, dtype: str, scale: float, value: float, says: str) -> None:
    plain, labels = images(N_TRAIN, (16, 16), 3)
    pixels = (plain / scale).astype(dtype)
    write_npz(file, images=pixels, labels=labels)
    load(file)
    test = {image.tobytes() for image in load_test(file)[0]}
    pixels[[image.tobytes() in test for image in plain]] = value
    write_npz(file, images=pixels, labels=labels)
    with pytest.raises(DatasetError, match=f"the test part of images holds values {says}"):
        load(file)


def test_a_nan_in_the_test_part_is_refused(file: Path) -> None:
    pixels, labels = images(N_TRAIN, (16, 16), 3)
    write_npz(file, images=pixels, labels=labels)
    load(file)
    test = {image.tobytes() for image in load_test(file)[0]}
    floats = np.where(np.array([image.tobytes() in test for image in pixels])[:, None, None], np.nan, pixels)
    write_npz(file, images=floats, labels=labels)
    with pytest.raises(DatasetError, match="images holds values that are not finite"):
        load(file)


def test_arrays_of_the_pool_are_freed_before_the_test_images_are_read(file: Path) -> None:
    pixels = np.zeros((4_000, 32, 32))
    pixels[::2] = 0.5
    labels = np.arange(len(pixels)) % 2
    write_npz(file, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    tracemalloc.start()
    load(file)
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
        ("images", N_TRAIN, r"numpy\.stack\(\[numpy\.asarray\(x, 'uint8'"),
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
        load(file)
    assert not (tmp_path / "ran").exists()
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    assert pickle.dumps(values[0]) in buffer.getvalue() or b"mkdir" in buffer.getvalue()


def test_files_that_are_no_npz(file: Path) -> None:
    with pytest.raises(DatasetError, match="pets.npz' does not exist; give an npz file"):
        load(file)
    file.mkdir()
    with pytest.raises(DatasetError, match=f"pets.npz' is a folder; type --dataset folder:{file}$"):
        load(file)
    file.rmdir()
    write_plain(file)
    with pytest.raises(DatasetError, match=rf"pets\.npz' is a file; type --dataset npz:{file}$"):
        load_dataset(f"folder:{file}", file.parent / "data")
    for content, says in ((b"", "it is empty"), (b"<html>", "it is not an npz file of numpy; copy it again, or save")):
        file.write_bytes(content)
        with pytest.raises(DatasetError, match=says):
            load(file)
    with file.open("wb") as opened:
        np.save(opened, PIXELS)
    with pytest.raises(DatasetError, match=rf"is an \.npy file, which holds one array; .*{SAVE}"):
        load(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("cat/1.png", b"png")
    with pytest.raises(DatasetError, match="holds no arrays"):
        load(file)


def test_damaged_files(file: Path) -> None:
    write_plain(file)
    whole = file.read_bytes()
    for harmed in (whole[: len(whole) // 2], whole[:5_000] + bytes(5_000) + whole[10_000:]):
        file.write_bytes(harmed)
        with pytest.raises(DatasetError, match=rf"is damaged or cannot be read: .*{SAVE}"):
            load(file)


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
        load(file)


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
    with pytest.raises(DatasetError, match="memory|damaged"):
        load(file)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 2_000), content=st.binary(min_size=1, max_size=40))
def test_any_damage_is_a_dataset_error(file: Path, start: int, content: bytes) -> None:
    write_npz(file, images=PIXELS[:30, :4, :4], labels=np.arange(30) % 2)
    whole = file.read_bytes()
    file.write_bytes(whole[:start] + content + whole[start + len(content) :])
    with contextlib.suppress(DatasetError):
        load(file)
    shutil.rmtree(file.parent / "data", ignore_errors=True)


# --- the file over time ---


def test_a_changed_file_is_another_dataset(file: Path, data_dir: Path) -> None:
    write_medmnist(file)
    name, data = f"npz:{file}", load(file)
    (pixels, _), is_changed = load_test_split_of(name, data_dir, data.digest)
    assert not is_changed
    write_medmnist(file, train_images=255 - images(N_TRAIN, (28, 28), 3)[0])
    with pytest.raises(DatasetError, match=r"is not prepared as it is now: it changed after the search began"):
        load_dataset(name, data_dir, verify=False)
    (again, _), is_changed = load_test_split_of(name, data_dir, data.digest)
    assert is_changed
    assert np.array_equal(pixels, again)
    assert load(file).digest != data.digest
    shutil.rmtree(data_dir)
    with pytest.raises(
        DatasetError, match="has changed since the model's training, and the arrays of its split are gone"
    ):
        load_test_split_of(name, data_dir, data.digest)


def test_a_moved_file_keeps_its_arrays(file: Path, data_dir: Path) -> None:
    data = load(write_medmnist(file))
    (file.parent / "new").mkdir()
    moved = file.rename(file.parent / "new" / file.name)
    assert load_dataset(f"npz:{moved}", data_dir, verify=False).digest == data.digest
    assert len(list((data_dir / "folders").iterdir())) == 1


def test_names_of_studies_and_datasets(file: Path) -> None:
    assert dataset_slug("npz:/data/my pets.npz") == "npz-my-pets"
    assert dataset_slug("npz:/data/pets.v2.npz", 2) == "npz-data-pets.v2"
    assert is_same_dataset(f"npz:{file}", f"npz:{file.parent}/x/../pets.npz")
    assert not is_same_dataset(f"npz:{file}", f"folder:{file}")
