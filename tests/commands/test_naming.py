"""Folders with the same last name: each keeps its study and its model, wherever it is moved."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from set_files import write_plain
from torch import nn

from objectives.base import Params
from objectives.images import ImageClassification
from search.commands.session.naming import tell_apart
from search.commands.setup import SearchPlan
from search.common.config import Config
from search.common.errors import StudyMismatchError
from search.study import records
from search.study.storage.storage import open_storage
from search.study.study import StoredStudy, open_study, require_same_images


def pictures(root: Path, seed: int) -> Path:
    random = np.random.RandomState(seed)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(5):
            Image.fromarray(random.randint(0, 256, (16, 16)).astype(np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_DATA_DIR", str(tmp_path / "data"))


def objective_on(path: Path) -> ImageClassification:
    objective = ImageClassification(f"folder:{path}")
    objective.prepare()
    return objective


def begin(config: Config, path: Path, **summary: object) -> StoredStudy:
    """Store what a search of a folder stores before its first trial."""
    plan = SearchPlan.of(Config(dataset=f"folder:{path}", workspace=config.workspace, study=config.study))
    study = open_study(open_storage(config.storage_url), plan.name, plan.objective, plan.spec.target, 1)
    study.set_attr(records.PROVENANCE, {"dataset": plan.dataset})
    return study


def named(config: Config, path: Path) -> tuple[str, str | None]:
    objective = objective_on(path)
    notice = tell_apart(config, objective)
    return objective.name, notice


@pytest.fixture
def first(folder: Path, tmp_path: Path) -> Config:
    """A workspace in which `a/pets` is the study `folder-pets`."""
    config = Config(workspace=folder)
    assert begin(config, pictures(tmp_path / "a" / "pets", 1)).name == "folder-pets"
    return config


def test_another_folder_has_its_own_name(first: Config, tmp_path: Path):
    other = pictures(tmp_path / "b" / "pets", 2)
    notice = f"folder-pets belongs to {tmp_path}/a/pets; study and model of {other}: folder-b-pets"
    assert named(first, other) == ("folder-b-pets", notice)
    assert named(first, tmp_path / "a" / "pets") == ("folder-pets", None)
    plan = SearchPlan.of(Config(workspace=first.workspace, dataset=f"folder:{other}"))
    assert (plan.name, plan.register_as, plan.notice) == ("folder-b-pets", "folder-b-pets", notice)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 alone")
def test_folders_named_by_other_bytes_are_told_apart(folder: Path, tmp_path: Path):
    config = Config(workspace=folder)
    for seed, name in enumerate(("folder-caf-s", "folder-b-caf-s", "folder-c-b-caf-s")):
        root = tmp_path / ("a", "b", "c/b")[seed] / os.fsdecode(b"caf\xe9s")
        assert begin(config, pictures(root, seed)).name == name


def test_it_keeps_its_name(first: Config, tmp_path: Path):
    other = pictures(tmp_path / "b" / "pets", 2)
    begin(first, other)
    open_storage(first.storage_url).delete_study(1)  # then `folder-pets` is free
    assert named(first, other)[0] == "folder-b-pets"


def test_a_third_one_with_the_same_two_names_gets_a_longer_one(first: Config, tmp_path: Path):
    begin(first, pictures(tmp_path / "b" / "pets", 2))
    begin(first, pictures(tmp_path / "x" / "b" / "pets", 3))
    assert named(first, tmp_path / "x" / "b" / "pets")[0] == "folder-x-b-pets"
    deep = pictures(tmp_path / "y" / "x" / "b" / "pets", 4)
    assert named(first, deep)[0].startswith("folder-pets-")


def test_long_names_stay_short(first: Config, tmp_path: Path):
    deep = pictures(tmp_path / ("b" * 100) / "pets", 2)
    assert named(first, deep)[0].startswith("folder-pets-")
    assert len(named(first, deep)[0]) == len("folder-pets-") + 8


@pytest.mark.parametrize("where", ["moved", "moved to another name", "copied"])
def test_the_same_images_are_the_same_study(first: Config, tmp_path: Path, where: str):
    target = tmp_path / "new" / ("animals" if where == "moved to another name" else "pets")
    (shutil.copytree if where == "copied" else shutil.move)(tmp_path / "a" / "pets", target)
    expected = "folder-animals" if where == "moved to another name" else "folder-pets"
    assert named(first, target) == (expected, None)


def test_a_changed_folder_is_refused_as_before(first: Config, tmp_path: Path):
    shutil.rmtree(tmp_path / "a" / "pets")
    pictures(tmp_path / "a" / "pets", 5)
    assert named(first, tmp_path / "a" / "pets") == ("folder-pets", None)
    with pytest.raises(StudyMismatchError, match="its images or splits have changed"):
        begin(first, tmp_path / "a" / "pets")


def test_promote_does_not_score_on_another_split(first: Config, tmp_path: Path):
    storage = open_storage(first.storage_url)
    (tmp_path / "a" / "pets" / "cat" / "0.png").unlink()
    pictures(tmp_path / "more", 6)
    shutil.move(tmp_path / "more" / "cat" / "1.png", tmp_path / "a" / "pets" / "cat" / "9.png")
    study = StoredStudy(storage, 1, objective_on(tmp_path / "a" / "pets"))
    with pytest.raises(StudyMismatchError, match=r"'folder-pets' was made with .* its images or splits have changed"):
        require_same_images(study)


def test_a_study_that_the_user_names_tells_models_apart(first: Config, tmp_path: Path):
    other = pictures(tmp_path / "b" / "pets", 2)
    mine = Config(workspace=first.workspace, study="mine")
    assert named(mine, other)[0] == "folder-b-pets"
    assert str(named(mine, other)[1]).endswith("; model of " + f"{other}: folder-b-pets")
    assert named(Config(workspace=first.workspace, study="mine", register="pets"), other)[1] is None


def test_a_model_counts_when_its_study_has_another_name(folder: Path, tmp_path: Path):
    config = Config(workspace=folder, study="mine")
    study = begin(config, pictures(tmp_path / "a" / "pets", 1))
    study.set_attr(records.SUMMARY, {"model": {"name": "folder-pets"}})
    assert named(Config(workspace=folder), pictures(tmp_path / "b" / "pets", 2))[0] == "folder-b-pets"


class Nets(ImageClassification):
    """Has networks of its own, so the name of the class follows the dataset's."""

    def build_network(self, params: Params) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(self.n_classes))


def test_own_networks_on_another_folder_have_their_own_name(first: Config, tmp_path: Path):
    def plan(path: Path) -> SearchPlan:
        return SearchPlan.of(replace(first, dataset=f"folder:{path}", objective="test_naming:Nets"))

    begun = plan(tmp_path / "a" / "pets")
    assert begun.name == "folder-pets-Nets"
    study = open_study(open_storage(first.storage_url), begun.name, begun.objective, begun.spec.target, 1)
    study.set_attr(records.PROVENANCE, {"dataset": begun.dataset})
    other = pictures(tmp_path / "b" / "pets", 2)
    assert (plan(other).name, plan(other).register_as) == ("folder-b-pets-Nets",) * 2
    assert plan(tmp_path / "a" / "pets").name == "folder-pets-Nets"


def test_other_datasets_and_objectives_keep_their_names(first: Config, tmp_path: Path):
    digits = ImageClassification("digits")
    digits.prepare()
    own = objective_on(pictures(tmp_path / "b" / "pets", 2))
    own.name = "mine"
    for objective, name in ((digits, "digits"), (own, "mine")):
        assert tell_apart(first, objective) is None
        assert objective.name == name


def test_files_with_the_same_name_are_told_apart(folder: Path, tmp_path: Path):
    def plan(file: Path) -> SearchPlan:
        return SearchPlan.of(Config(workspace=folder, dataset=f"npz:{file}"))

    begun = plan(write_plain(tmp_path / "a" / "pets.npz"))
    assert (begun.name, begun.notice) == ("npz-pets", None)
    study = open_study(open_storage(begun.config.storage_url), begun.name, begun.objective, begun.spec.target, 1)
    study.set_attr(records.PROVENANCE, {"dataset": begun.dataset})
    other = plan(write_plain(tmp_path / "b" / "pets.npz", labels=np.arange(300) % 2))
    assert (other.name, other.register_as) == ("npz-b-pets", "npz-b-pets")
    assert (
        other.notice
        == f"npz-pets belongs to {tmp_path}/a/pets.npz; study and model of {tmp_path}/b/pets.npz: npz-b-pets"
    )
    assert plan(tmp_path / "a" / "pets.npz").name == "npz-pets"


def test_without_a_database_there_is_nothing_to_compare(tmp_path: Path):
    empty = Config(workspace=tmp_path / "empty")
    assert named(empty, pictures(tmp_path / "a" / "pets", 1)) == ("folder-pets", None)
    assert not (tmp_path / "empty").exists()
