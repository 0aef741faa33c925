"""A folder of pictures: decoded once, split once, and clear words when it cannot be used."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from objectives.base import DatasetError
from objectives.data.datasets import framing, load_dataset, load_test_split


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing that a test does may reach the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "search-data"


def make_folder(root: Path, classes: dict[str, int], size: tuple[int, int] = (30, 30), mode: str = "RGB") -> Path:
    random = np.random.RandomState(1)
    for name, number in classes.items():
        (root / name).mkdir(parents=True)
        for at in range(number):
            pixels = random.randint(0, 256, (*size[::-1], 3)).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{at}.png")
    return root


def test_folder_of_colour_pictures(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets", {"dog": 20, "cat": 10})
    data = load_dataset(f"folder:{folder}", tmp_path / "data")
    images, labels = load_test_split(f"folder:{folder}", tmp_path / "data")
    assert data.classes == ("cat", "dog")
    assert isinstance(data.images, np.memmap)
    assert data.images.shape == (24, 3, 32, 32)
    assert (len(images), np.bincount(labels).tolist()) == (6, [2, 4])
    assert (len(data.train), len(data.validation)) == (19, 5)
    assert framing(data).content_fraction is None


def test_folder_is_decoded_once(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets", {"dog": 9, "cat": 9}, mode="L", size=(28, 28))
    first = load_dataset(f"folder:{folder}", tmp_path / "data")
    for picture in folder.rglob("*.png"):  # same name, size and time, so the cache must answer
        about = picture.stat()
        picture.write_bytes(b"x" * about.st_size)
        os.utime(picture, ns=(about.st_atime_ns, about.st_mtime_ns))
    again = load_dataset(f"folder:{folder}", tmp_path / "data", verify=False)
    assert first.images.shape[1:] == (1, 28, 28)
    assert np.array_equal(first.images, again.images)
    assert first.digest == again.digest


def test_changed_folder_is_not_split_anew_behind_a_search(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets", {"dog": 9, "cat": 9})
    load_dataset(f"folder:{folder}", tmp_path / "data")
    (folder / "dog" / "3.png").unlink()
    with pytest.raises(DatasetError, match="changed after the search began"):
        load_test_split(f"folder:{folder}", tmp_path / "data")
    with pytest.raises(DatasetError, match="changed after the search began"):
        load_dataset(f"folder:{folder}", tmp_path / "data", verify=False)


def test_folder_cache_leaves_a_read_only_data_dir_alone(tmp_path: Path, own_cache: Path) -> None:
    folder = make_folder(tmp_path / "pets", {"dog": 9, "cat": 9})
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    load_dataset(f"folder:{folder}", closed)
    assert list(closed.iterdir()) == []
    if sys.platform == "linux":
        assert len(list((own_cache / "folders").iterdir())) == 1


def test_unreadable_pictures_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_folder(tmp_path / "my 'pets' é\n", {"dog": 30, "ca\nt 'ü\"": 30})
    dogs = folder / "dog"
    (dogs / "cut.png").write_bytes((dogs / "1.png").read_bytes()[:200])
    (dogs / "text.PNG").write_text("no picture")
    (dogs / "link.png").symlink_to(tmp_path / "nowhere")
    (dogs / "folder.png").mkdir()
    (dogs / ".hidden.png").write_text("no picture")
    (dogs / "notes.txt").write_text("no picture")
    (folder / ".git").mkdir()
    with caplog.at_level(logging.WARNING):
        data = load_dataset(f"folder:{folder}", tmp_path / "data")
    assert len(data.classes) == 2
    assert "skipped 4 files ('dog/cut.png', 'dog/folder.png', 'dog/link.png', ...)" in caplog.text
    assert len(data.images) + len(load_test_split(f"folder:{folder}", tmp_path / "data")[0]) == 60


def test_unusable_folders_say_why(tmp_path: Path) -> None:
    make_folder(tmp_path / "one", {"dog": 6})
    make_folder(tmp_path / "few", {"dog": 6, "cat": 4})
    (make_folder(tmp_path / "bad", {"dog": 6, "cat": 6}) / "cat" / "a.png").write_text("x")
    (tmp_path / "bad" / "dog" / "b.png").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, says in {
        "none": "does not exist",
        "file": "is a file, not a folder",
        "empty": "holds no folders",
        "one": "only one class, 'dog'",
        "few": "class 'cat' has 4 images.*, and every class needs 5",
        "bad": r"has 2 files \('cat/a.png', 'dog/b.png'\) out of 14 .* more than a tenth",
    }.items():
        with pytest.raises(DatasetError, match=says):
            load_dataset(f"folder:{tmp_path / name}", tmp_path / "data")


def test_drawings_on_black_are_framed_so(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for at in range(6):
            picture = Image.new("L", (28, 28), 0)
            picture.paste(200 + at, (10, 10, 16, 16))
            picture.save(tmp_path / "set" / name / f"{at}.jpg")
    data = load_dataset(f"folder:{tmp_path / 'set'}", tmp_path / "data")
    assert data.channels == 1
    assert framing(data).dark_background
