"""What is in a folder besides readable pictures: read where Pillow can, else counted and named by reason."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from image_folders import make_folder
from PIL import Image, features
from test_folder import n_images, said

from objectives.base import DatasetError
from objectives.data.datasets import load_dataset, load_test_split

pytestmark = pytest.mark.usefixtures("own_cache")

ROOT = Path(__file__).parents[3]
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "pets", {"cat": 8, "dog": 8})


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("x.avif", "AVIF"),
        ("x.JP2", "JPEG2000"),
        ("x.tga", "TGA"),
        ("x.ico", "ICO"),
        ("x.dib", "DIB"),
        ("x.pcx", "PCX"),
        ("x.Webp", "WEBP"),
        ("x.TIF", "TIFF"),
        ("no suffix", "PNG"),
        ("wrong.png", "JPEG"),
        ("photo.JPG.1", "JPEG"),
        ("x.jpg_large", "JPEG"),
    ],
)
def test_what_pillow_reads_is_read(pets: Path, data_dir: Path, name: str, format_: str) -> None:
    part = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}.get(format_)
    if part is not None and not features.check(part):
        pytest.skip(f"this Pillow has no {part}")
    Image.new("RGB", (32, 32), "red").save(pets / "dog" / name, format_)
    assert n_images(pets, data_dir) == 17
    assert said(pets, data_dir) == ""


@pytest.mark.parametrize(
    ("names", "content", "says"),
    [
        (["a.heic", "b.HEIC"], HEIC, "2 .heic (Pillow cannot read this format; convert them to JPEG or PNG)"),
        (["a.cr2"], b"II*\0", "1 .cr2 (Pillow cannot read this format"),
        (["a.jxl", "b.svg"], b"x", "1 .jxl, 1 .svg (Pillow cannot read this format"),
        (["a.jpg"], HEIC, "1 HEIC image under another name; convert it to JPEG or PNG ('dog/a.jpg')"),
        (["IMG_1"], HEIC, "1 without a suffix (Pillow cannot read this format"),
        (["a.mp4"], b"x", "1 .mp4 (videos; save images of them as JPEG or PNG)"),
        (["a.txt", "b.txt", "c.json"], b"x", "2 .txt, 1 .json (not images)"),
        (["a.txt", "b.xml", "c.json", "d.md", "e.csv"], b"x", "1 .csv, 1 .json, 1 .md and 2 others (not images)"),
        (["a"], b"x", "1 without a suffix (not images)"),
        (["a.xyz"], b"x", "1 .xyz (not images)"),
        (["1.png.bak", "1.png~"], b"\x89PNG\r\n", "1 .bak, 1 .png~ (not images)"),
        ([f"{'long' * 50}.png"], b"x", "1 that cannot be read ('...glong"),
        ([".x.png"], b"x", "1 hidden file ('dog/.x.png')"),
        (["a.png"], b"", "1 that cannot be read ('dog/a.png')"),
    ],
)
def test_what_is_left_out_is_said(pets: Path, data_dir: Path, names: list[str], content: bytes, says: str) -> None:
    for name in names:
        (pets / "dog" / name).write_bytes(content)
    assert said(pets, data_dir).startswith(f"folder:{pets}: {len(names)} of {16 + len(names)} files ")
    assert says in said(pets, data_dir)
    assert n_images(pets, data_dir) == 16


def test_what_systems_leave_is_nothing_to_speak_of(pets: Path, data_dir: Path) -> None:
    for name in (".DS_Store", "._1.png", "Thumbs.db", "desktop.ini", ".gitkeep"):
        (pets / "dog" / name).write_bytes(b"\0\5\x16\7")
    for folder in ("__MACOSX", "@eaDir", ".ipynb_checkpoints"):
        (pets / folder).mkdir()
        (pets / folder / "._1.png").write_bytes(b"\0\5\x16\7")
    assert said(pets, data_dir) == ""
    assert load_dataset(f"folder:{pets}", data_dir).classes == ("cat", "dog")


def test_many_files_make_no_long_message(tmp_path: Path, data_dir: Path) -> None:
    pets = make_folder(tmp_path / "many", {"cat": 5, "dog": 5})
    for number in range(100):
        (pets / "dog" / f"a file with a name {number}.heic").write_bytes(b"")
        (pets / "cat" / f".a file with a name {number}.png").write_bytes(b"")
        (pets / "cat" / f"{number}.{number}").write_bytes(b"")
    assert len(said(pets, data_dir)) < 500
    assert "300 of 310 files are left out: 100 .heic" in said(pets, data_dir)


@pytest.mark.parametrize("suffix", [".heic", ".mp4", ".json"])
def test_a_class_of_another_kind_says_which(pets: Path, data_dir: Path, suffix: str) -> None:
    for picture in (pets / "cat").iterdir():
        picture.rename(picture.with_suffix(suffix))
    with pytest.raises(DatasetError, match=rf"class 'cat' has 0 images \(left out: 8 \{suffix} \(.*\)\), and every"):
        load_dataset(f"folder:{pets}", data_dir)


def test_classes_whose_names_look_the_same_stay_apart(pets: Path, data_dir: Path) -> None:
    for name in (b"caf\xe9", b"caf\xe8"):
        os.rename(os.fsencode(pets / ("cat" if name[-1] == 0xE9 else "dog")), os.path.join(os.fsencode(pets), name))
    data = load_dataset(f"folder:{pets}", data_dir)
    assert data.classes == ("caf\ufffd", "caf\ufffd_")
    assert n_images(pets, data_dir) == 16


def test_what_is_beside_the_classes_is_named(pets: Path, data_dir: Path) -> None:
    (pets / "dog" / "1.png").rename(pets / "lost.png")
    assert "1 of 16 files is left out: 1 in no class folder ('lost.png')" in said(pets, data_dir)
    (pets / "bird").symlink_to("../birds that were moved")
    assert "1 broken link ('bird'), 1 in no class folder ('lost.png')" in said(pets, data_dir)


def more(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "elsewhere", {"more": 4}) / "more"


def test_links_are_followed(pets: Path, tmp_path: Path, data_dir: Path) -> None:
    outside = more(tmp_path)
    (pets / "cat" / "more").symlink_to(outside)  # a folder
    (pets / "dog" / "one.png").symlink_to(outside / "1.png")  # a file
    (tmp_path / "birds").mkdir()
    for number in range(6):
        (tmp_path / "birds" / f"{number}.png").symlink_to(pets / "dog" / f"{number}.png")
    (pets / "bird").symlink_to(tmp_path / "birds")  # a class
    data = load_dataset(f"folder:{pets}", data_dir)
    assert data.classes == ("bird", "cat", "dog")
    assert len(data.images) + len(load_test_split(f"folder:{pets}", data_dir)[0]) == 6 + 12 + 9
    assert data.left_out is None


@pytest.mark.parametrize(
    ("link", "target"),
    [("cat/loop", "."), ("cat/up", ".."), ("cat/a/deep", "../.."), ("cat/again", "a"), ("cat/0.jpg", "0.png")],
)
def test_what_links_reach_twice_counts_once(pets: Path, data_dir: Path, link: str, target: str) -> None:
    (pets / "cat" / "a").mkdir()
    (pets / "cat" / "1.png").rename(pets / "cat" / "a" / "1.png")
    (pets / link).symlink_to(target)
    assert n_images(pets, data_dir) == 16
    assert f"1 link to what is there already ('{link}')" in said(pets, data_dir)


def test_loops_over_several_classes_end(pets: Path, data_dir: Path) -> None:
    (pets / "self").symlink_to(".")
    os.link(pets / "cat" / "0.png", pets / "cat" / "hard.png")
    (pets / "cat" / "dogs").symlink_to("../dog")
    (pets / "dog" / "cats").symlink_to("../cat")
    data = load_dataset(f"folder:{pets}", data_dir)
    assert data.classes == ("cat", "dog")
    assert n_images(pets, data_dir) == 32  # each class has what its links name


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from PIL import Image
from objectives.data.datasets import load_dataset
Image.init()
os.setuid(65534)
print(load_dataset(sys.argv[1], Path(sys.argv[2])).left_out)
"""


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can become someone who may not read")
def test_what_may_not_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are private
        Path(folder).chmod(0o755)
        pets = make_folder(Path(folder, "pets"), {"cat": 8, "dog": 8})
        (pets / "cat" / "private").mkdir(mode=0o700)
        (pets / "cat" / "1.png").chmod(0o600)
        (pets / "cat" / "link.png").symlink_to("private/x.png")
        (stored := Path(folder, "data")).mkdir()
        stored.chmod(0o777)
        monkeypatch.setenv("XDG_CACHE_HOME", str(stored))
        words = [sys.executable, "-c", UNPRIVILEGED, f"folder:{pets}", str(stored)]
        result = subprocess.run(words, text=True, capture_output=True, timeout=60, cwd=ROOT)
    assert "1 folder that you may not read ('cat/private')" in result.stdout, result.stderr
    assert "1 that cannot be read ('cat/1.png')" in result.stdout
    assert "1 broken link ('cat/link.png')" in result.stdout
