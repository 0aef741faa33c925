"""Atomic writes: the old content or the new one, and nothing else in the folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from objectives.files import write_atomic


def test_folders_are_made_and_content_is_replaced(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "file.bin"
    for content in (b"first", b"second"):
        assert write_atomic(path, content) == path
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file.bin"]


def test_a_write_that_fails_leaves_the_folder_as_it_was(tmp_path: Path):
    path = tmp_path / "file.bin"
    path.mkdir()  # a file cannot replace a folder
    with pytest.raises(IsADirectoryError, match=r"file\.bin"):
        write_atomic(path, b"content")
    assert os.listdir(tmp_path) == ["file.bin"]
