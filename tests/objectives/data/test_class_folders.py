"""Classes may have any names; folders that hold no folders of classes are refused with what to type."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_folders import make_folder

from objectives.base import DatasetError
from objectives.data.datasets import load_dataset

pytestmark = pytest.mark.usefixtures("own_cache")


def test_an_empty_training_folder_is_said(tmp_path: Path) -> None:
    make_folder(tmp_path / "set" / "test", {"cat": 5, "dog": 5})
    (tmp_path / "set" / "train").mkdir()
    with pytest.raises(DatasetError, match=r"holds splits \('test', 'train'\).* '.*/set/train' has no images\. Put"):
        load_dataset(f"folder:{tmp_path / 'set'}", tmp_path / "data")


@pytest.mark.parametrize(
    "splits",
    [
        ("train", "test"),
        ("cat_train", "cat_test", "dog_train", "dog_test"),
        ("trainA", "trainB", "testA", "testB"),
        ("test-1", "train-1", "train-2"),
    ],
)
def test_splits_that_hold_pictures_directly_need_classes_first(tmp_path: Path, splits: tuple[str, ...]) -> None:
    make_folder(tmp_path / "set", dict.fromkeys(splits, 5))
    (tmp_path / "set" / "labels").mkdir()
    with pytest.raises(
        DatasetError, match=r"Put the images of each class into a folder of its own, such as .*/set/train/"
    ):
        load_dataset(f"folder:{tmp_path / 'set'}", tmp_path / "data")


@pytest.mark.parametrize(
    "classes",
    [("bus", "train"), ("bus", "test", "train"), ("test tube", "train station"), ("test", "trial"), ("dev", "val")],
)
def test_classes_may_be_called_so(tmp_path: Path, classes: tuple[str, ...]) -> None:
    make_folder(tmp_path / "set", dict.fromkeys(classes, 5))
    assert load_dataset(f"folder:{tmp_path / 'set'}", tmp_path / "data").classes == classes


@pytest.mark.parametrize("inner", [("2023", "2024"), ("test 1", "test 2"), ("train", "more")])
def test_classes_may_have_folders_inside(tmp_path: Path, inner: tuple[str, ...]) -> None:
    for name in ("bus", "train"):
        make_folder(tmp_path / "set" / name, dict.fromkeys(inner, 5))
    assert len(load_dataset(f"folder:{tmp_path / 'set'}", tmp_path / "data").images) == 16


@pytest.mark.parametrize("beside", [(), ("labels",), ("annotations", "docs")])
def test_the_folder_above_the_classes_names_theirs(tmp_path: Path, beside: tuple[str, ...]) -> None:
    make_folder(tmp_path / "set" / "pets", {"cat": 5, "dog": 5})
    for name in beside:
        (tmp_path / "set" / name).mkdir()
        (tmp_path / "set" / name / "a.txt").write_text("")
    with pytest.raises(DatasetError, match=r"holds images only in .*; .* type --dataset folder:.*/set/pets$"):
        load_dataset(f"folder:{tmp_path / 'set'}", tmp_path / "data")
