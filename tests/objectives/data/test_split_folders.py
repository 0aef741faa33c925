"""A folder with splits of its own: they are used as they are, and what is odd is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from image_folders import PETS, greys, levels, loaded, make_folder, make_splits
from PIL import Image

from objectives.base import DatasetError, ObjectiveError
from objectives.data.datasets import load_dataset, load_test_split, load_test_split_of
from objectives.images import ImageClassification

pytestmark = pytest.mark.usefixtures("own_cache")


def test_three_folders_are_the_three_splits(tmp_path: Path) -> None:
    pets = make_splits(tmp_path / "pets", {"train": PETS, "val": {"cat": 3, "dog": 2}, "test": {"cat": 4, "dog": 6}})
    data = loaded(pets)
    images, labels = load_test_split(f"folder:{pets}", tmp_path / "data")
    assert greys(data.images[data.train]) == levels(pets, "train")
    assert greys(data.images[data.validation]) == levels(pets, "val")
    assert greys(images) == levels(pets, "test")
    assert data.origins == {"training": "train/", "validation": "val/", "test": "test/"}
    assert data.test_classes == {"cat": 4, "dog": 6}
    assert data.n_test == 10
    assert sorted(labels) != labels.tolist()  # mixed, so that the first images show all classes
    assert [data.class_counts, data.duplicates, data.notes] == [{"cat": 13, "dog": 12}, [], []]


def test_a_missing_validation_folder_is_a_fifth_of_the_training_folder(tmp_path: Path) -> None:
    pets = make_splits(tmp_path / "pets", {"train": PETS, "test": {"cat": 3, "dog": 3}})
    data = loaded(pets)
    assert greys(data.images) == levels(pets, "train")
    assert np.bincount(data.labels[data.validation]).tolist() == [2, 2]
    assert data.origins["training"] == "four fifths of train/"
    assert data.origins["validation"] == "a fifth of train/, each class in proportion"


def test_a_missing_test_folder_is_a_fifth_of_the_training_folder(tmp_path: Path) -> None:
    pets = make_splits(tmp_path / "pets", {"train": PETS, "valid": {"cat": 3, "dog": 3}})
    data = loaded(pets)
    images, labels = load_test_split(f"folder:{pets}", tmp_path / "data")
    assert greys(data.images[data.validation]) == levels(pets, "valid")
    assert greys(data.images[data.train]) | greys(images) == levels(pets, "train")
    assert (len(data.train), np.bincount(labels).tolist()) == (16, [2, 2])
    assert data.origins == {
        "training": "four fifths of train/",
        "validation": "valid/",
        "test": "a fifth of train/, each class in proportion",
    }


def test_a_folder_without_splits_says_so(tmp_path: Path) -> None:
    data = loaded(make_folder(tmp_path / "pets", PETS))
    assert data.origins == {
        "training": "64% of the images",
        "validation": "16% of the images, each class in proportion",
        "test": "a fifth of the images, each class in proportion",
    }
    assert data.test_classes == {"cat": 2, "dog": 2}


@pytest.mark.parametrize(
    ("splits", "origins"),
    [
        (("Train", "Valid"), ("", "Valid/", None)),
        (("TRAINING", "Testing"), ("", None, "Testing/")),
        (("train", "dev", "eval"), ("train/", "dev/", "eval/")),
        (("images/train", "images/validation"), ("", "images/validation/", None)),
        (("seg_train/seg_train", "seg_test/seg_test"), ("", None, "seg_test/seg_test/")),
        (("x/x/training_set", "x/x/test_set"), ("", None, "x/x/test_set/")),
        (("train2017", "val2017"), ("", "val2017/", None)),
        (("my data/train", "my data/test"), ("", None, "my data/test/")),
        (("train", "holdout"), ("", None, "holdout/")),
        (("train_val", "test-dev"), ("", None, "test-dev/")),
        (("train", "test_set"), ("", None, "test_set/")),
        (("train", "Test Images"), ("", None, "Test Images/")),
        (("train_images", "test"), ("", None, "test/")),
        (("pets_train", "holdout"), ("", None, "holdout/")),
        (("train", "val", "pets-test"), ("train/", "val/", "pets-test/")),
        (("training images", "val", "test_set"), ("training images/", "val/", "test_set/")),
        (("trainset", "validset", "testset"), ("trainset/", "validset/", "testset/")),
        (("TrainData", "TestData"), ("", None, "TestData/")),
        (("traindata", "TestImages"), ("", None, "TestImages/")),
    ],
)
def test_splits_are_known_by_their_names(tmp_path: Path, splits: tuple[str, ...], origins: tuple[str | None, ...]):
    for split in splits:
        make_folder(tmp_path / "set" / split, {"cat": 5, "dog": 5})
    (tmp_path / "set" / "README.txt").write_text("")
    data = loaded(tmp_path / "set")
    for split, origin in zip(("training", "validation", "test"), origins, strict=True):
        assert data.origins[split] == origin or (not origin and splits[0] in data.origins[split])
    assert data.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("outer", "inner", "noted"),
    [
        (("fold1", "fold2"), {"cat": 5, "dog": 5}, True),
        (("learn", "test", "more"), {"cat": 5, "dog": 5}, True),
        (("cat", "dog"), {"front": 5}, False),
        (("cat", "dog"), {"": 5}, False),
    ],
)
def test_classes_that_hold_the_same_folders_are_noted(
    tmp_path: Path, outer: tuple[str, ...], inner: dict[str, int], *, noted: bool
) -> None:
    for name in outer:
        make_folder(tmp_path / "set" / name, inner)
    data = loaded(tmp_path / "set")
    assert data.classes == tuple(sorted(outer))
    note = f"the classes are {', '.join(map(repr, sorted(outer)))}, and each holds folders named 'cat', 'dog'. If those"
    assert [text.startswith(note) for text in data.notes] == [True] * noted


@pytest.mark.parametrize("split", ["val", "test"])
def test_classes_missing_from_a_split_are_named(tmp_path: Path, split: str) -> None:
    animals = {"bee": 5, "cat": 5, "dog": 5}
    pets = make_splits(tmp_path / "pets", {"train": animals, "val": animals, "test": animals})
    shutil.rmtree(pets / split / "dog")
    for path in (pets / split / "bee").iterdir():
        path.unlink()
    data = loaded(pets)
    assert data.classes == ("bee", "cat", "dog")
    kind = {"val": "validation", "test": "test"}[split]
    assert data.notes == [f"the {kind} folder {split}/ has no images of 2 classes: 'bee', 'dog'"]
    assert data.test_classes["dog"] == (5 if split == "val" else 0)


@pytest.mark.parametrize("split", ["val", "test"])
def test_classes_that_only_a_held_out_split_has_are_left_out(tmp_path: Path, split: str) -> None:
    pets = make_splits(tmp_path / "pets", {"train": PETS, "val": PETS, "test": PETS, f"{split}/": {"fox": 1, "owl": 3}})
    data = loaded(pets)
    assert data.classes == ("cat", "dog")
    assert data.notes == [
        "images of classes that train/ lacks are left out of the "
        f"{'validation' if split == 'val' else 'test'} folder {split}/: 'fox' (1), 'owl' (3)"
    ]
    assert (len(data.images), data.n_test) == (40, 20)


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        ("test", "its images lie in no folders of classes"),
        ("test/test", "its images lie in no folders of classes"),
        ("test/unknown", "its only class 'unknown' is not in train/"),
    ],
)
def test_a_test_folder_without_classes_is_not_used(tmp_path: Path, inner: str, reason: str) -> None:
    pets = make_splits(tmp_path / "pets", {"train": PETS})
    (pets / inner).mkdir(parents=True)
    for number in range(5):
        Image.new("L", (16, 16), 100 + number).save(pets / inner / f"{number}.png")
    data = loaded(pets)
    assert data.origins["test"] == "a fifth of train/, each class in proportion"
    assert (len(data.images), data.n_test) == (16, 4)
    assert data.notes == [f"test/ is not used: {reason}; the test split is a part of train/"]


def test_other_folders_beside_the_splits_are_not_used(tmp_path: Path) -> None:
    pets = make_splits(tmp_path / "pets", {"train": PETS, "test": PETS, "unlabeled": {"a": 2}, "more": {"b": 2}})
    make_splits(pets, {"train_more": PETS})
    assert loaded(pets).notes == [
        "unlabeled/ is not used: its images have no classes",
        "more/ is not used: the splits are train/ and test/",
        "train_more/ is not used: the splits are train/ and test/",
    ]


def test_classes_that_differ_only_by_case_are_named(tmp_path: Path) -> None:
    plain = make_splits(tmp_path, {"plain": {"Cat": 5, "cat": 5}}) / "plain"
    assert "'Cat', 'cat' differ only by case" in str(loaded(plain).notes)


def test_files_that_cannot_be_used_are_named_in_all_splits(tmp_path: Path) -> None:
    pets = make_splits(tmp_path / "pets", {"train": PETS, "test": PETS})
    (pets / "train" / "cat" / "cut.png").write_text("x")
    (pets / "test" / "dog" / "cut.png").write_text("x")
    (pets / "test" / "dog" / "a.heic").write_text("x")
    (pets / "test" / "lost.png").write_text("x")
    (pets / "sample.png").write_text("x")
    for _ in range(2):  # also when nothing is decoded
        left_out = str(loaded(pets).left_out)
        assert f"folder:{pets}: 5 of 45 files are left out: 1 .heic" in left_out
        assert "2 that cannot be read ('train/cat/cut.png', 'test/dog/cut.png')" in left_out
        assert "2 in no class folder ('sample.png', 'test/lost.png')" in left_out


def test_images_in_two_splits_are_named(tmp_path: Path) -> None:
    pets = make_splits(tmp_path / "pets", {"train": PETS, "val": PETS, "test": {"cat": 4, "dog": 4}})
    shutil.copy(pets / "train/cat/1.png", pets / "test/dog/7.png")  # of another class
    Image.open(pets / "val/dog/2.png").save(pets / "test/dog/8.bmp")  # saved anew
    (pets / "test/cat/9.png").symlink_to(pets / "train/cat/3.png")
    Image.open(pets / "train/cat/5.png").resize((99, 99)).save(pets / "test/cat/10.png")  # of another size
    data = loaded(pets)
    assert data.duplicates == [
        "train/cat/1.png = test/dog/7.png",
        "train/cat/3.png = test/cat/9.png",
        "val/dog/2.png = test/dog/8.bmp",
    ]
    assert data.n_test == 12  # they stay where they are


def test_images_in_the_training_and_the_validation_folder_are_named(tmp_path: Path) -> None:
    small = {"cat": 4, "dog": 4}
    pets = make_splits(tmp_path / "pets", {"train": PETS, "val": small, "test": small})
    assert loaded(pets).notes == []
    shutil.copy(pets / "train/cat/1.png", pets / "val/cat/7.png")
    says = "among the training images as well, which flatters the validation score: train/cat/1.png = val/cat/7.png"
    assert loaded(pets).notes == [f"1 validation image is {says}"]
    for number in range(2, 6):
        Image.open(pets / f"train/dog/{number}.png").save(pets / f"val/dog/b{number}.bmp")
    data = loaded(pets)
    more = "train/dog/2.png = val/dog/b2.bmp, train/dog/3.png = val/dog/b3.bmp, ..."
    assert data.notes == [f"5 validation images are {says}, {more}"]
    assert data.duplicates == []
    assert [len(data.train), len(data.validation)] == [20, 13]  # they stay where they are


def test_duplicates_are_named_in_folders_without_splits(tmp_path: Path) -> None:
    pets = make_splits(tmp_path, {"pets": {"cat": 20, "dog": 20}}) / "pets"
    for number in range(20):
        shutil.copy(pets / "cat" / f"{number}.png", pets / "cat" / f"copy {number}.png")
    data = loaded(pets)
    test = greys(load_test_split(f"folder:{pets}", tmp_path / "data")[0])
    assert data.duplicates is not None
    assert len(data.duplicates) == len(test & greys(data.images)) > 0
    for left, right in (pair.split(" = ") for pair in data.duplicates):
        assert {left.replace("copy ", ""), right.replace("copy ", "")} == {right.replace("copy ", "")}


def test_of_many_duplicates_a_thousand_are_named(tmp_path: Path) -> None:
    pets = make_splits(tmp_path / "pets", {"train": PETS, "test": {"cat": 1}})
    for number in range(1200):
        shutil.copy(pets / "train/cat/1.png", pets / "test/cat" / f"{number + 1}.png")
    data = loaded(pets)
    assert data.duplicates is not None
    assert len(data.duplicates) == 1000
    assert "1,200 test images are among the others too, of which 1,000 are named" in data.notes


def test_mixed_sizes_and_colours_follow_the_training_folder(tmp_path: Path) -> None:
    pets = make_folder(tmp_path / "pets" / "train", {"cat": 6, "dog": 6}, (40, 24), "L").parent
    make_folder(pets / "test", {"cat": 6, "dog": 6}, (300, 200))
    data = loaded(pets)
    assert (data.channels, data.size, data.original_size) == (1, (32, 32), (24, 40))
    assert load_test_split(f"folder:{pets}", tmp_path / "data")[0].shape == (12, 1, 32, 32)


@pytest.mark.parametrize("size", [8, 100, 224])
def test_images_of_the_size_that_was_asked_for(tmp_path: Path, size: int) -> None:
    name = f"folder:{make_folder(tmp_path / 'pets', PETS, (300, 150))}"
    small, large = load_dataset(name, tmp_path / "data"), load_dataset(name, tmp_path / "data", image_size=size)
    images, _ = load_test_split(name, tmp_path / "data", size)
    assert (small.size, large.size, images.shape[2:]) == ((64, 64), (size, size), (size, size))
    assert (small.image_size, large.image_size) == (None, size)
    assert small.digest != large.digest
    assert len(list((tmp_path / "data" / "folders").iterdir())) == 2
    (again, _), is_changed = load_test_split_of(name, tmp_path / "data", large.digest, size)
    assert not is_changed
    assert np.array_equal(again, images)


def test_large_images_are_not_enlarged_small_ones(tmp_path: Path) -> None:
    """The original is resized, not the 64 pixels of the usual arrays."""
    lines = np.zeros((200, 200), np.uint8)
    lines[:, ::4] = lines[:, 1::4] = 255
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(5):
            Image.fromarray(lines).save(tmp_path / "set" / name / f"{number}.png")
    assert np.ptp(loaded(tmp_path / "set", image_size=200).images) == 255
    assert np.ptp(loaded(tmp_path / "set").images[..., 8:-8, 8:-8]) < 100


def test_arrays_of_a_split_folder_serve_a_model_after_changes(tmp_path: Path) -> None:
    pets = make_splits(tmp_path / "pets", {"train": PETS, "test": PETS})
    digest, images = loaded(pets).digest, np.array(load_test_split(f"folder:{pets}", tmp_path / "data")[0])
    (pets / "test" / "cat" / "0.png").unlink()
    with pytest.raises(DatasetError, match="changed after the search began"):
        load_test_split(f"folder:{pets}", tmp_path / "data")
    (again, _), is_changed = load_test_split_of(f"folder:{pets}", tmp_path / "data", digest)
    assert is_changed
    assert np.array_equal(again, images)
    assert loaded(pets).digest != digest  # with the same pool
    (again, _), is_changed = load_test_split_of(f"folder:{pets}", tmp_path / "data", digest)
    assert is_changed
    assert np.array_equal(again, images)


def test_another_boundary_between_the_same_images_is_another_dataset(tmp_path: Path) -> None:
    pets = make_splits(tmp_path / "pets", {"train": {"cat": 8, "dog": 8}, "val": {"cat": 2, "dog": 2}})
    before = loaded(pets)
    last = sorted((pets / "train" / "dog").iterdir())[-1]
    last.rename(pets / "val" / "dog" / f"00{last.name}")
    after = loaded(pets)
    assert len(after.images) + (after.n_test or 0) == len(before.images) + (before.n_test or 0)
    assert after.digest != before.digest


def test_what_is_said_is_said_again(tmp_path: Path) -> None:
    pets = make_splits(tmp_path / "pets", {"train": PETS, "test": {**PETS, "owl": 2}})
    first, again = loaded(pets), loaded(pets)
    assert again.notes == first.notes != []
    assert again.origins == first.origins


def test_the_arrays_stay_when_files_change_that_are_not_in_them(tmp_path: Path) -> None:
    """What a search says about such files is about the folder as it is now."""
    pets = make_splits(tmp_path / "pets", {"train": PETS, "test": {**PETS, "owl": 2}})
    digest = loaded(pets).digest
    shutil.copy(pets / "test/owl/0.png", pets / "test/owl/2.png")
    make_folder(pets, {"more": 3})
    data = load_dataset(f"folder:{pets}", tmp_path / "data", verify=False)
    assert data.digest == digest
    assert data.notes == [
        "more/ is not used: the splits are train/ and test/",
        "images of classes that train/ lacks are left out of the test folder test/: 'owl' (3)",
    ]
    shutil.move(pets / "test", pets / "testing")
    with pytest.raises(DatasetError, match="changed after the search began"):
        load_test_split(f"folder:{pets}", tmp_path / "data")


def test_sizes_that_no_flag_allows_are_refused() -> None:
    for size in (7, 225):
        with pytest.raises(ObjectiveError, match=f"image_size={size} is not from 8 to 224 pixels"):
            ImageClassification("digits", image_size=size)
