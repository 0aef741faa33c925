"""npz files: the layouts, pixels and labels that are understood, and files that change."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from set_files import N_TEST, N_TRAIN, images, load_npz, load_npz_test, write_medmnist, write_npz, write_plain
from shell import CHECKOUT, environment

from objectives.base import DatasetError
from objectives.data.datasets import framing, load_dataset, load_test_split, load_test_split_of
from objectives.data.files.image_files import Framing, read_image, to_model_input
from objectives.data.names import dataset_slug, is_same_dataset

pytestmark = pytest.mark.usefixtures("own_cache")


def test_the_splits_of_medmnist_are_used(file: Path) -> None:
    write_medmnist(file)
    data = load_npz(file)
    assert (len(data.train), len(data.validation), data.n_test) == (N_TRAIN, N_TEST, N_TEST)
    expected = [images(n, (28, 28), 3, seed) for seed, n in enumerate((N_TRAIN, N_TEST, N_TEST))]
    for index, (pixels, labels) in zip((data.train, data.validation), expected[:2], strict=True):
        assert np.array_equal(data.images[index, 0], pixels)
        assert np.array_equal(data.labels[index], labels)
    pixels, labels = load_npz_test(file)
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
    data = load_npz(file)
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
    stored = np.concatenate([data.images, load_npz_test(file)[0]])
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
    data = load_npz(file)
    assert (len(data.train), len(data.validation), data.n_test) == (80, 20, 20)
    assert data.origins["training"] == f"four fifths of {keys[0]}"
    assert data.origins["test"] == keys[2]
    assert np.array_equal(load_npz_test(file)[0][:, 0], test)


def test_a_validation_split_without_a_test_split(file: Path) -> None:
    write_medmnist(file, test_images=None, test_labels=None)
    data = load_npz(file)
    assert (len(data.train), len(data.validation), data.n_test) == (240, N_TEST, 60)
    assert data.origins["training"] == "four fifths of train_images"
    assert data.origins["test"] == "a fifth of train_images, each class in proportion"
    assert np.array_equal(data.labels[data.validation], np.arange(N_TEST) % 3)


def test_test_images_without_labels_are_not_used(file: Path) -> None:
    write_medmnist(file, test_labels=None)
    data = load_npz(file)
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
    load_npz(file)
    words = [sys.executable, "-c", program, f"npz:{file}", str(file.parent / "data")]
    subprocess.run(words, check=True, cwd=CHECKOUT, env=environment(), timeout=60)


# --- pixels ---


@pytest.mark.parametrize(
    "shape", [(28, 28), (28, 28, 1), (1, 28, 28), (28, 28, 3), (3, 28, 28), (20, 32), (20, 32, 3), (9, 9)]
)
def test_shapes(file: Path, shape: tuple[int, ...]) -> None:
    write_medmnist(file, shape=shape)
    data = load_npz(file)
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
    assert np.array_equal(load_npz(file).images[:N_TRAIN, 0], pixels)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_from_0_to_1_are_scaled(file: Path, dtype: str) -> None:
    pixels, labels = images(N_TRAIN, (12, 12), 3)
    write_npz(file, x_train=(pixels / 255).astype(dtype), y_train=labels, x_test=pixels / 255, y_test=labels)
    data = load_npz(file)
    assert data.images[:, 0].tobytes() == pixels.tobytes()
    assert len(data.duplicates or ()) == N_TRAIN
    assert data.value_range is None


@pytest.mark.parametrize("dtype", ["bool", "uint8"])
def test_masks_are_black_and_white(file: Path, dtype: str) -> None:
    pixels, labels = images(N_TRAIN, (12, 12), 3)
    write_npz(file, images=(pixels > 100).astype(dtype), labels=labels)
    assert np.unique(load_npz(file).images).tolist() == [0, 255]


def test_16_bits_are_scaled_by_the_range_of_the_pool(file: Path, tmp_path: Path) -> None:
    pixels, labels = (images(N_TRAIN, (16, 16), 3)[0].astype(np.uint16) * 10 + 500), np.arange(N_TRAIN) % 3
    test = np.full((10, 16, 16), 60_000, np.uint16)
    write_npz(file, x_train=pixels, y_train=labels, x_test=test, y_test=labels[:10])
    data = load_npz(file)
    low, high = data.value_range or (0, 0)
    assert 500 <= low < 520
    assert 2_300 < high <= 3_000
    assert load_npz_test(file)[0].min() == 255  # which does not count
    Image.fromarray(pixels[7]).save(tmp_path / "7.png")
    frame = Framing.of({**asdict(framing(data)), "size": [16, 16], "value_range": [low, high]})
    shown, _ = to_model_input(read_image(tmp_path / "7.png", value_range=frame.value_range), frame)
    assert np.array_equal(np.rint(shown * 255), data.images[7])


def test_large_images_are_shrunk(file: Path) -> None:
    write_medmnist(file, shape=(128, 96), val_images=None, val_labels=None)
    data = load_npz(file)
    assert (data.size, data.original_size) == ((64, 48), (128, 96))
    assert load_npz(file, 128).size == (128, 128)
    assert load_npz(file, 128).original_size == (128, 96)
    assert load_npz(file, 32).digest != data.digest
    assert load_test_split(f"npz:{file}", file.parent / "data", 32)[0].shape == (N_TEST, 1, 32, 32)


def test_tiny_images_get_a_border(file: Path) -> None:
    pixels = np.full((N_TRAIN, 4, 4), 90, np.uint8)
    write_npz(file, images=pixels, labels=np.arange(N_TRAIN) % 2)
    data = load_npz(file)
    assert (data.size, data.original_size) == ((8, 8), (4, 4))
    assert np.unique(data.images).tolist() == [90]


# --- labels ---


def test_classes_are_those_of_training(file: Path) -> None:
    labels = np.array([1, 2, 5])[np.arange(N_TRAIN) % 3]
    held_out = np.array([1, 5, 9])[np.arange(N_TEST) % 3]
    write_medmnist(file, train_labels=labels, val_labels=labels[:N_TEST], test_labels=held_out)
    data = load_npz(file)
    assert data.classes == ("1", "2", "5")
    assert data.n_test == 40
    assert data.test_classes == {"1": 20, "2": 0, "5": 20}
    assert load_npz_test(file)[1][:4].tolist() == [0, 2, 0, 2]
    assert data.notes == [
        "images of classes that train_images lacks are left out of test_images: '9' (20)",
        "test_images has no images of class '2'",
    ]


def test_many_classes_that_splits_lack_are_counted(file: Path) -> None:
    labels = np.arange(N_TRAIN) % 30
    write_medmnist(file, train_labels=labels, val_labels=labels[:N_TEST] % 10, test_labels=labels[:N_TEST] % 15 + 20)
    assert load_npz(file).notes == [
        "val_images has no images of 20 classes: "
        "'10', '11', '12', '13', '14', '15', '16', '17', '18', '19' and 10 more",
        "images of classes that train_images lacks are left out of test_images: "
        "'30' (4), '31' (4), '32' (4), '33' (4), '34' (4)",
        "test_images has no images of 20 classes: '0', '1', '2', '3', '4', '5', '6', '7', '8', '9' and 10 more",
    ]


@pytest.mark.parametrize("key", ["classes", "class_names", "label_names"])
def test_names_of_classes(file: Path, key: str) -> None:
    write_medmnist(file, **{key: np.array(["ant", "bee", "cow", "dog"])})
    assert load_npz(file).classes == ("ant", "bee", "cow")


def test_names_of_classes_may_be_numbers(file: Path) -> None:
    write_medmnist(file, classes=np.arange(3) + 10)
    assert load_npz(file).classes == ("10", "11", "12")
    labels = np.array([1, 2, 5])[np.arange(N_TRAIN) % 3]
    held_out = {"val_labels": labels[:N_TEST], "test_labels": labels[:N_TEST]}
    write_medmnist(file, train_labels=labels, **held_out, classes=np.unique(labels))
    assert load_npz(file).classes == ("1", "2", "5")


@pytest.mark.parametrize("dtype", [str, object])
def test_names_of_images_are_not_those_of_classes(file: Path, dtype: type) -> None:
    names = np.array([f"img{n}.png" for n in range(N_TRAIN)], dtype)
    write_medmnist(file, names=names)
    data = load_npz(file)
    assert data.classes == ("0", "1", "2")
    assert data.notes == ["not used, because the names are unknown: names"]
    write_medmnist(file, classes=names)
    data = load_npz(file)
    assert data.classes == ("0", "1", "2")
    assert data.notes == ["classes is not used: it has an entry for each image, not for each class"]
    write_medmnist(file, classes=names, class_names=np.array(["ant", "bee", "cow"]))
    assert load_npz(file).classes == ("ant", "bee", "cow")


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
    data = load_npz(file)
    assert data.classes == ("ant", "bee")
    assert data.class_counts == {"ant": 120, "bee": 120}


@pytest.mark.parametrize("dtype", ["int8", "uint64", "float32", "bool"])
def test_numbers_of_any_type_are_labels(file: Path, dtype: str) -> None:
    write_plain(file, labels=(np.arange(N_TRAIN) % 2).astype(dtype))
    assert load_npz(file).classes == ("0", "1")


# --- duplicates ---


def test_images_in_both_splits_are_named(file: Path) -> None:
    train, test = (images(n, (28, 28), 3, seed)[0] for n, seed in ((N_TRAIN, 0), (N_TEST, 2)))
    val = images(N_TEST, (28, 28), 3, 1)[0]
    test[3], test[5], test[9], train[40] = train[12], val[8], train[12], train[12]
    write_medmnist(file, train_images=train, val_images=val, test_images=test)
    assert load_npz(file).duplicates == [
        "train_images[12] = test_images[3]",
        "train_images[12] = test_images[9]",
        "val_images[8] = test_images[5]",
    ]


def test_images_in_training_and_validation_are_named(file: Path) -> None:
    train, val = images(N_TRAIN, (28, 28), 3)[0], images(N_TEST, (28, 28), 3, 1)[0]
    val[4] = train[7]
    write_medmnist(file, train_images=train, val_images=val)
    data = load_npz(file)
    assert data.duplicates == []
    assert data.notes == [
        "1 validation image is among the training images as well, which flatters the validation score: "
        "train_images[7] = val_images[4]"
    ]


def test_many_duplicates_are_counted(file: Path) -> None:
    pixels, labels = np.zeros((6_000, 8, 8), np.uint8), np.arange(6_000) % 2
    write_npz(file, images=pixels, labels=labels)
    data = load_npz(file)
    assert len(data.duplicates or ()) == 1_000
    assert data.notes == ["1,200 test images are among the others too, of which 1,000 are named"]


# --- the file over time ---


def test_a_changed_file_is_another_dataset(file: Path, data_dir: Path) -> None:
    write_medmnist(file)
    name, data = f"npz:{file}", load_npz(file)
    (pixels, _), is_changed = load_test_split_of(name, data_dir, data.digest)
    assert not is_changed
    write_medmnist(file, train_images=255 - images(N_TRAIN, (28, 28), 3)[0])
    with pytest.raises(DatasetError, match=r"is not prepared as it is now: its files changed after the search began"):
        load_dataset(name, data_dir, verify=False)
    (again, _), is_changed = load_test_split_of(name, data_dir, data.digest)
    assert is_changed
    assert np.array_equal(pixels, again)
    assert load_npz(file).digest != data.digest
    shutil.rmtree(data_dir)
    with pytest.raises(
        DatasetError, match="has changed since the model's training, and the arrays of its split are gone"
    ):
        load_test_split_of(name, data_dir, data.digest)


def test_a_moved_file_keeps_its_arrays(file: Path, data_dir: Path) -> None:
    data = load_npz(write_medmnist(file))
    (file.parent / "new").mkdir()
    moved = file.rename(file.parent / "new" / file.name)
    assert load_dataset(f"npz:{moved}", data_dir, verify=False).digest == data.digest
    assert len(list((data_dir / "folders").iterdir())) == 1


def test_names_of_studies_and_datasets(file: Path) -> None:
    assert dataset_slug("npz:/data/my pets.npz") == "npz-my-pets"
    assert dataset_slug("npz:/data/pets.v2.npz", 2) == "npz-data-pets.v2"
    assert is_same_dataset(f"npz:{file}", f"npz:{file.parent}/x/../pets.npz")
    assert not is_same_dataset(f"npz:{file}", f"folder:{file}")
