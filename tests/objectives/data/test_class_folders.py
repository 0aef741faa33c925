"""Folders of another layout are refused with what to type; classes may have any names."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_folder import make_folder

from objectives.base import DatasetError
from objectives.data.datasets import load_dataset


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("splits", "type_"),
    [
        (("train", "val", "test"), "train"),
        (("Train", "Valid"), "Train"),
        (("TRAINING", "Testing"), "TRAINING"),
        (("train", "dev"), "train"),
        (("images/train", "images/validation"), "images/train"),
        (("seg_train/seg_train", "seg_test/seg_test"), "seg_train/seg_train"),
        (("x/x/training_set", "x/x/test_set"), "x/x/training_set"),
        (("train2017", "val2017"), "train2017"),
        (("fold 1/train", "fold 1/test", "fold 2/train", "fold 2/test"), "fold 1/train"),
        (("images/train", "images/test", "masks/train", "masks/test"), "images/train"),
        (("my data/train", "my data/test"), "my data/train"),
        (("train", "holdout"), "train"),
        (("train", "unlabeled"), "train"),
        (("val", "test"), "test"),
    ],
)
def test_splits_are_refused_with_what_to_type(tmp_path: Path, splits: tuple[str, ...], type_: str) -> None:
    for split in splits:
        make_folder(tmp_path / "set" / split, {"cat": 5, "dog": 5})
    (tmp_path / "set" / "README.txt").write_text("")
    with pytest.raises(
        DatasetError, match=rf"not supported yet.* Type --dataset '?folder:.*/set/{type_.strip(chr(39))}'?$"
    ):
        load_dataset(f"folder:{tmp_path / 'set'}", tmp_path / "data")
    assert len(load_dataset(f"folder:{tmp_path / 'set' / splits[0]}", tmp_path / "data").images) == 8


def test_a_test_folder_without_classes_is_a_split_too(tmp_path: Path) -> None:
    make_folder(tmp_path / "set" / "train", {"cat": 5, "dog": 5})
    make_folder(tmp_path / "set", {"test": 5})
    with pytest.raises(DatasetError, match=r"Type --dataset folder:.*/set/train$"):
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
    with pytest.raises(DatasetError, match="Put the images of each class into a folder of its own"):
        load_dataset(f"folder:{tmp_path / 'set'}", tmp_path / "data")


@pytest.mark.parametrize(
    "classes",
    [("bus", "train"), ("bus", "test", "train"), ("test tube", "train station"), ("test", "trial"), ("dev", "val")],
)
def test_classes_may_be_called_so(tmp_path: Path, classes: tuple[str, ...]) -> None:
    make_folder(tmp_path / "set", dict.fromkeys(classes, 5))
    assert load_dataset(f"folder:{tmp_path / 'set'}", tmp_path / "data").classes == classes


@pytest.mark.parametrize("inner", [("2023", "2024"), ("train", "test")])
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
