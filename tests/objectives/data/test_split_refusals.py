"""A folder whose splits cannot be used: it is refused in one line that says what to type."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from image_folders import PETS, greys, levels, loaded, make_folder, make_splits

from objectives.base import DatasetError
from objectives.data.datasets import load_test_split

pytestmark = pytest.mark.usefixtures("own_cache")


def refused(root: Path) -> str:
    """The message of the error, which must be one line."""
    with pytest.raises(DatasetError, match=r"^.*$") as caught:
        loaded(root)
    return str(caught.value)


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        (("train", "val", "valid"), r"2 folders for the validation split \('val', 'valid'\)"),
        (("trainA", "trainB", "testA", "testB"), r"2 folders for the training split .*folder:\S+/set/trainA$"),
        (("fold 1/train", "fold 1/test", "fold 2/train", "fold 2/test"), r"type --dataset 'folder:.*/set/fold 1'$"),
        (("images/train", "images/test", "masks/train", "masks/test"), r"type --dataset folder:.*/set/images$"),
        (("val", "test"), r"no folder to train on. Call that one 'train', .*type --dataset folder:.*/set/test$"),
        (("train",), r"holds images only in '.*/set/train'; .*type --dataset folder:.*/set/train$"),
        (
            ("images/train", "images/val", "masks"),
            r"beside it\. Give one of them: type --dataset folder:.*/set/images$",
        ),
        (("train", "test_set", "eval_set"), r"2 folders for the test split \('eval_set', 'test_set'\)"),
    ],
)
def test_splits_that_are_not_clear_are_refused(tmp_path: Path, splits: tuple[str, ...], says: str) -> None:
    for split in splits:
        make_folder(tmp_path / "set" / split, {"cat": 5, "dog": 5})
    with pytest.raises(DatasetError, match=says):
        loaded(tmp_path / "set")


@pytest.mark.parametrize("test", [{"fox": 5, "owl": 5}, {"fox": 5}, {"": 5}])
def test_names_like_splits_without_a_common_class_are_refused(tmp_path: Path, test: dict[str, int]) -> None:
    pets = make_splits(
        tmp_path / "pets", {"train_images": PETS, "test": test} if "" not in test else {"train_images": PETS}
    )
    if "" in test:
        make_folder(pets, {"test": 5})
    says = refused(pets)
    assert "holds 'train_images', 'test', which are named like splits, but their folders inside have no name in" in says
    assert "call them 'train', 'val' and 'test'" in says


@pytest.mark.parametrize("names", [("cat", "dog"), ("a cat", "dogs & 'more'")])
@pytest.mark.parametrize("inner", ["", "data"])
def test_splits_inside_classes_are_refused_and_the_command_moves_them(
    tmp_path: Path, names: tuple[str, ...], inner: str
) -> None:
    pets = tmp_path / "my pets"
    make_splits(pets / inner, {name: {"train": 10, "test": 3} for name in names})
    test = {level for name in names for level in levels(pets / inner, f"{name}/test")}
    says = refused(pets)
    assert "holds splits ('test', 'train'), and folders of classes must lie in the splits, as in test/" in says
    command = says[says.index("type (") + len("type ") : says.index(", and start the search again")]
    subprocess.run(["sh", "-c", command], check=True)
    data = loaded(pets)
    assert data.classes == names
    assert greys(load_test_split(f"folder:{pets}", tmp_path / "data")[0]) == test


def test_the_advice_names_the_folder_that_holds_the_splits(tmp_path: Path) -> None:
    make_folder(tmp_path / "pets" / "fold 1", {"train": 5, "test": 5})
    assert f"such as {tmp_path}/pets/fold 1/train/cat/1.png and" in refused(tmp_path / "pets")


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    pets = make_splits(tmp_path / "pets", {"train": PETS})
    (pets / "test").mkdir()
    says = refused(pets)
    assert f"the test split 'test', which has no images. Put images of each class there, such as {pets}/test" in says
    assert says.endswith("or remove the folder: the test split is then a part of train/")
    (pets / "test" / "cat").mkdir()
    (pets / "test" / "cat" / "0.png").write_text("no image")
    says = refused(pets)
    assert f"the test folder '{pets}/test' has no images that can be read (left out: 1 that cannot be read (" in says
    assert says.endswith("or remove the folder: the test split is then a part of train/")


def test_too_few_images_count_for_training_only(tmp_path: Path) -> None:
    few = {"cat": 1, "dog": 1}
    assert loaded(make_splits(tmp_path / "a" / "pets", {"train": PETS, "test": few})).n_test == 2
    says = refused(make_splits(tmp_path / "b" / "pets", {"train": {"cat": 10, "dog": 4}, "test": PETS}))
    assert "class 'dog' has 4 images, and every class needs 5; add images of these classes to '" in says
    assert "/pets/train'" in says


def test_one_training_class_is_refused(tmp_path: Path) -> None:
    says = refused(make_splits(tmp_path / "pets", {"train": {"cat": 9}, "test": PETS}))
    assert f"'{tmp_path}/pets/train' holds only one class, 'cat'; put the images of each class" in says


def test_names_that_differ_only_by_case_say_what_to_type(tmp_path: Path) -> None:
    pets = make_splits(
        tmp_path / "pets", {"train": {"Cat": 5, "Dog": 5}, "val": {"CAT": 5}, "test": {"cat": 5, "dog": 5}}
    )
    says = refused(pets)
    assert "class 'CAT' of val/ is 'Cat' in train/, 'cat' of test/ is 'Cat' in train/, 'dog' of test/ is" in says
    command = says[says.index("mv ") :]
    assert command.startswith(f"mv {pets}/val/CAT {pets}/val/Cat && mv {pets}/test/cat {pets}/test/Cat && mv")
    subprocess.run(["sh", "-c", command], check=True)
    assert loaded(pets).test_classes == {"Cat": 5, "Dog": 5}


def test_a_split_of_other_classes_is_refused(tmp_path: Path) -> None:
    pets = make_splits(tmp_path / "pets", {"train": PETS, "test": {"fox": 5, "owl": 5}})
    assert "no class of test/ ('fox', 'owl') is one of train/ ('cat', 'dog')" in refused(pets)


def test_a_file_in_place_of_a_split_is_no_split(tmp_path: Path) -> None:
    pets = make_splits(tmp_path / "pets", {"train": PETS})
    (pets / "test").write_text("")
    assert refused(pets).endswith(f"type --dataset folder:{pets}/train")
