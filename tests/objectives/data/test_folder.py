"""A folder of pictures: decoded once, split once, and clear words when it cannot be used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_folders import make_folder
from PIL import Image

from objectives.base import DatasetError
from objectives.data.datasets import framing, load_dataset, load_test_split, load_test_split_of
from objectives.data.folders.folder import arrays_name

pytestmark = pytest.mark.usefixtures("own_cache")

ROOT = Path(__file__).parents[3]


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


@pytest.mark.parametrize("counts", [{"a": 60, "b": 60}, {"a": 40, "b": 10, "c": 30}, {"a": 15, "b": 90}])
def test_test_images_of_all_classes_are_mixed(tmp_path: Path, counts: dict[str, int]) -> None:
    folder = make_folder(tmp_path / "pets", counts)
    data = load_dataset(f"folder:{folder}", tmp_path / "data")
    _, labels = load_test_split(f"folder:{folder}", tmp_path / "data")
    assert data.n_test == len(labels)
    assert len(np.unique(labels[: len(labels) // 2])) > 1
    assert sorted(labels) != labels.tolist()
    in_test = dict(zip(data.classes, np.bincount(labels), strict=True))
    assert data.class_counts == {name: number - in_test[name] for name, number in counts.items()}


def test_the_size_of_the_files_is_kept(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets", {"dog": 5, "cat": 5}, size=(640, 480))
    turned = Image.Exif()
    turned[0x0112] = 6
    for number in range(4):
        Image.new("RGB", (480, 640)).save(folder / "dog" / f"{number}.jpg", exif=turned)  # shown as 640x480
    data = load_dataset(f"folder:{folder}", tmp_path / "data")
    assert data.original_size == (480, 640)
    assert data.size == (64, 64)


def test_the_digest_never_changes(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets", {"dog": 9, "cat": 9})
    data = load_dataset(f"folder:{folder}", tmp_path / "data")
    assert data.digest == "016cd135dc20bfd8821e402f6613efb2"  # studies keep it


def test_changed_folder_is_not_split_anew_behind_a_search(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets", {"dog": 9, "cat": 9})
    load_dataset(f"folder:{folder}", tmp_path / "data")
    (folder / "dog" / "3.png").unlink()
    with pytest.raises(DatasetError, match="changed after the search began"):
        load_test_split(f"folder:{folder}", tmp_path / "data")
    with pytest.raises(DatasetError, match="changed after the search began"):
        load_dataset(f"folder:{folder}", tmp_path / "data", verify=False)


def change(folder: Path) -> None:
    (folder / "dog" / "3.png").unlink()


def replace_class(folder: Path) -> None:
    for path in (folder / "dog").iterdir():
        Image.new("RGB", (30, 30), "red").save(path)


@pytest.mark.parametrize("harm", [change, replace_class, shutil.rmtree], ids=["one less", "other pictures", "gone"])
def test_a_model_gets_the_test_images_of_its_split(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    name = f"folder:{make_folder(tmp_path / 'pets', {'dog': 20, 'cat': 20})}"
    digest = load_dataset(name, tmp_path / "data").digest
    (images, labels), is_changed = load_test_split_of(name, tmp_path / "data", digest)
    assert not is_changed
    harm(tmp_path / "pets")
    (again, labels_again), is_changed = load_test_split_of(name, tmp_path / "data", digest)
    assert is_changed
    assert np.array_equal(images, again)
    assert np.array_equal(labels, labels_again)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(
        DatasetError, match="does not exist" if harm is shutil.rmtree else "arrays of its split are gone"
    ):
        load_test_split_of(name, tmp_path / "data", digest)


def test_arrays_of_an_unchanged_folder_are_made_again_for_a_model(tmp_path: Path) -> None:
    name = f"folder:{make_folder(tmp_path / 'pets', {'dog': 20, 'cat': 20})}"
    digest = load_dataset(name, tmp_path / "data").digest
    images = np.array(load_test_split(name, tmp_path / "data")[0])
    shutil.rmtree(tmp_path / "data")
    (again, _), is_changed = load_test_split_of(name, tmp_path / "data", digest)
    assert not is_changed
    assert np.array_equal(images, again)


def test_arrays_of_earlier_versions_serve_their_models(tmp_path: Path) -> None:
    name = f"folder:{make_folder(tmp_path / 'pets', {'dog': 20, 'cat': 20})}"
    digest = load_dataset(name, tmp_path / "data").digest
    images = np.array(load_test_split(name, tmp_path / "data")[0])
    (arrays,) = (tmp_path / "data" / "folders").iterdir()
    (arrays / "about.json").write_text('{"classes": ["cat", "dog"], "skipped": []}')
    arrays.rename(arrays.with_name("0" * 32))
    change(tmp_path / "pets")
    (again, _), _ = load_test_split_of(name, tmp_path / "data", digest)
    assert np.array_equal(images, again)


def test_folder_cache_leaves_a_read_only_data_dir_alone(tmp_path: Path, own_cache: Path) -> None:
    folder = make_folder(tmp_path / "pets", {"dog": 9, "cat": 9})
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    load_dataset(f"folder:{folder}", closed)
    assert list(closed.iterdir()) == []
    if sys.platform == "linux":
        assert len(list((own_cache / "folders").iterdir())) == 1


def said(folder: Path, data_dir: Path) -> str:
    """What a search says about the files of a folder that it leaves out."""
    return load_dataset(f"folder:{folder}", data_dir).left_out or ""


def n_images(folder: Path, data_dir: Path) -> int:
    name = f"folder:{folder}"
    return len(load_dataset(name, data_dir).images) + len(load_test_split(name, data_dir)[0])


def test_unreadable_pictures_are_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "my 'pets' é\n", {"dog": 30, "ca\nt 'ü\"": 30})
    dogs = folder / "dog"
    (dogs / "cut.png").write_bytes((dogs / "1.png").read_bytes()[:200])
    (dogs / "text.PNG").write_text("no picture")
    (dogs / "link.png").symlink_to(tmp_path / "nowhere")
    (dogs / "folder.png").mkdir()
    (folder / ".git").mkdir()
    data = load_dataset(f"folder:{folder}", tmp_path / "data")
    assert len(data.classes) == 2
    assert "3 of 63 files are left out: 1 broken link ('dog/link.png'), 2 that cannot be read" in str(data.left_out)
    assert "('dog/cut.png', 'dog/text.PNG')" in str(data.left_out)
    assert data.left_out == said(folder, tmp_path / "data")  # also when nothing is decoded
    assert n_images(folder, tmp_path / "data") == 60


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


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from objectives.base import DatasetError
from objectives.data.datasets import load_dataset
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 250_000_000, resource.RLIM_INFINITY))
for image_size in map(int, sys.argv[3:]):
    try:
        print(load_dataset(sys.argv[1], Path(sys.argv[2]), image_size=image_size).size)
    except DatasetError as error:
        print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say how much memory is free")
def test_more_images_than_fit_in_memory_are_refused_with_a_size(tmp_path: Path) -> None:
    """3,000 images of one red pixel would fill 0.45 GB with 224 pixels a side."""
    folder = make_folder(tmp_path / "pets", {"cat": 1, "dog": 1}, size=(1, 1))
    Image.new("RGB", (1, 1), "red").save(tmp_path / "red.png")
    for name in ("cat", "dog"):
        for number in range(1500):
            shutil.copy(tmp_path / "red.png", folder / name / f"{number}.png")
    words = [sys.executable, "-c", LITTLE_MEMORY, f"folder:{folder}", str(tmp_path / "data"), "224", "16"]
    # Otherwise each thread that decodes reserves 64 MiB.
    result = subprocess.run(
        words, text=True, capture_output=True, timeout=60, cwd=ROOT, env={**os.environ, "MALLOC_ARENA_MAX": "1"}
    )
    refused, used = result.stdout.splitlines() or [result.stderr, ""]
    assert f"folder:{folder}: 3,000 images of at most 224x224 pixels need about 0.5 GB of memory, and 0." in refused
    (advised,) = re.findall(r"GB are free; type --image-size (\d+)$", refused)
    assert 100 < int(advised) < 224
    assert used == "(16, 16)"
    assert len(list((tmp_path / "data" / "folders").iterdir())) == 1


def test_the_key_never_changes(tmp_path: Path) -> None:
    """Or the arrays of all folders would be made again. It needs no images, only names, sizes and times."""
    for split in ("plain", "splits/train", "splits/test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(5):
                path = tmp_path / split / name / f"{number}.png"
                path.write_bytes(b"x")
                os.utime(path, ns=(0, number))
    assert arrays_name(tmp_path / "plain") == "folders/298c558d94eaacee4f959809e49e91ff"
    assert arrays_name(tmp_path / "splits") == "folders/b3b166a36bb8ee35cf6950659ae372bd"
    assert arrays_name(tmp_path / "plain", 32) == "folders/cc8b74f95668e6f29a559e9ab402fff2"


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
