"""gc: arrays of folders are listed with what became of the pictures, and only what is not needed is removed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from set_files import write_plain
from shell import CHECKOUT, environment, in_process

from objectives.data import npz
from objectives.data.datasets import load_dataset
from search.cli.main import cli
from search.commands.upkeep.gc import find_arrays, remove

LOAD = """
import sys
from pathlib import Path
from objectives.data.folders.folder import prepare
prepare(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
"""


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("objectives.data.arrays._held", {})  # this process uses what it loaded until it ends
    return tmp_path / "data"


@pytest.fixture
def pets(tmp_path: Path, data_dir: Path) -> Path:
    """A folder that a search, which has ended, prepared."""
    random = np.random.RandomState(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(5):
            pixels = random.randint(0, 256, (16, 16)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{number}.png")
    prepare(tmp_path / "pets", data_dir)
    return tmp_path / "pets"


def prepare(folder: Path, data_dir: Path, *image_size: int) -> None:
    """Make arrays as a search does, in a process that ends."""
    words = [sys.executable, "-c", LOAD, str(folder), str(data_dir), *map(str, image_size)]
    subprocess.run(words, check=True, cwd=CHECKOUT, env=environment(), timeout=60)


def change(pets: Path) -> None:
    (pets / "cat" / "0.png").unlink()


def spoil(pets: Path) -> None:
    shutil.rmtree(pets / "cat")


def forget(pets: Path) -> None:
    (arrays,) = (pets.parent / "data" / "folders").iterdir()
    (arrays / "about.json").write_text('{"classes": ["cat", "dog"], "skipped": []}')


def test_arrays_of_another_image_size_stay(pets: Path, data_dir: Path):
    prepare(pets, data_dir, 100)
    assert [entry.state for entry in find_arrays(data_dir)] == ["unchanged", "unchanged"]
    change(pets)
    (pets / "cat" / "5.png").write_bytes((pets / "cat" / "1.png").read_bytes())
    assert [entry.state for entry in find_arrays(data_dir)] == ["the folder has changed"] * 2


def test_what_a_search_needs_stays(pets: Path, data_dir: Path):
    result = in_process("gc", "--delete", "--data-dir", data_dir)
    assert f"{pets}  unchanged  {data_dir}/folders/" in result.output
    assert "0 of 1 (x) can be removed" in result.output
    assert len(find_arrays(data_dir)) == 1
    result = in_process("gc", "--all", "--delete", "--data-dir", data_dir)
    assert "removed 1 of 1" in result.output
    assert find_arrays(data_dir) == []
    assert "no arrays of folders are stored" in in_process("gc", "--data-dir", data_dir).output


def test_a_moved_folder_keeps_its_arrays(pets: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    moved = pets.rename(pets.with_name("animals"))
    assert [entry.state for entry in find_arrays(data_dir)] == ["the folder is gone"]
    load_dataset(f"folder:{moved}", data_dir)
    monkeypatch.setattr("objectives.data.arrays._held", {})
    assert [(entry.source, entry.is_needed) for entry in find_arrays(data_dir)] == [(str(moved), True)]


@pytest.mark.parametrize(
    ("harm", "state"),
    [
        (change, "the folder has changed"),
        (spoil, "the folder has changed"),
        (shutil.rmtree, "the folder is gone"),
        (forget, "of an earlier version, or damaged"),
    ],
)
def test_what_is_not_needed_is_listed_first(pets: Path, data_dir: Path, harm: Callable[[Path], object], state: str):
    harm(pets)
    result = in_process("gc", "--data-dir", data_dir)
    assert state in result.output
    assert f"To remove them, type python -m search gc --data-dir {data_dir} --delete" in result.output
    assert len(find_arrays(data_dir)) == 1
    assert "removed 1 of 1" in in_process("gc", "--delete", "--data-dir", data_dir).output
    assert list((data_dir / "folders").iterdir()) == []


@pytest.mark.parametrize("size", [None, 12])
def test_arrays_of_a_file_follow_it(tmp_path: Path, data_dir: Path, size: int | None):
    file = write_plain(tmp_path / "pets.npz")
    npz.prepare(file, data_dir, size)
    assert [(entry.source, entry.state) for entry in find_arrays(data_dir)] == [(str(file), "unchanged")]
    write_plain(file, labels=np.arange(300) % 2)
    assert [entry.state for entry in find_arrays(data_dir)] == ["the file has changed"]
    file.unlink()
    assert [entry.state for entry in find_arrays(data_dir)] == ["the file is gone"]
    assert "removed 1 of 1" in in_process("gc", "--delete", "--data-dir", data_dir).output


def test_what_killed_processes_left_goes_when_it_is_old(data_dir: Path):
    old, young = data_dir / "folders" / f".{'a' * 32}.0123456789ab", data_dir / "arrays" / ".digits-1-2.0123456789ab"
    download = data_dir / ".download-abcd_123"
    for path in (old, young, download):
        path.mkdir(parents=True)
    (old / "pool-images.npy").write_bytes(b"x")
    yesterday = time.time() - 86_400
    for path in (old / "pool-images.npy", old, download):
        os.utime(path, (yesterday, yesterday))
    assert "removed 2 of 2" in in_process("gc", "--delete", "--data-dir", data_dir).output
    assert [path.exists() for path in (old, young, download)] == [False, True, False]


def test_folders_of_the_user_and_downloads_are_not_touched(data_dir: Path):
    kept = [
        data_dir / "folders" / "cats" / "1.png",
        data_dir / "folders" / ("a" * 32) / "1.png",
        data_dir / "folders" / ".hidden" / "about.json",
        data_dir / "MNIST" / "raw" / "train-images-idx3-ubyte",
        data_dir / "arrays" / "digits-1-2" / "about.json",
    ]
    for path in kept:
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    (data_dir / "folders" / ("b" * 32)).symlink_to(data_dir / "MNIST")
    assert in_process("gc", "--all", "--delete", "--data-dir", data_dir).exit_code == 0
    assert all(path.exists() for path in kept)
    assert (data_dir / "folders" / ("b" * 32)).is_symlink()


def test_what_a_process_uses_stays(pets: Path, data_dir: Path):
    load_dataset(f"folder:{pets}", data_dir)
    (arrays,) = find_arrays(data_dir)
    assert (arrays.state, arrays.is_needed) == ("in use", True)
    result = CliRunner().invoke(cli, ["gc", "--all", "--delete", "--data-dir", str(data_dir)])
    assert result.exit_code == 1
    assert "a process uses it; end its search first" in result.output
    assert remove(find_arrays(data_dir)) != []
    assert arrays.path.exists()


def test_arrays_in_the_cache_are_found(pets: Path, data_dir: Path, tmp_path: Path):
    shutil.move(data_dir / "folders", tmp_path / "cache" / "search-data" / "folders")
    if sys.platform == "linux":
        assert [entry.source for entry in find_arrays(data_dir)] == [str(pets)]
