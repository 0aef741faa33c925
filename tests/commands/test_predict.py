"""The predict command: images from files and datasets, and the errors for those that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from shell import Finished

import search
from objectives.base import PictureError
from search.cli.main import cli
from search.commands.predict import draw, predict, require_readable
from search.common.errors import ModelNotFoundError


def test_each_image_has_one_row(finished: Finished, tmp_path: Path):
    predictor = search.load("digits", workspace=finished.folder)
    Image.new("L", (20, 20), "white").save(tmp_path / "blank.png")
    missing, blank = str(tmp_path / "no.png"), str(tmp_path / "blank.png")
    rows = predict(predictor, ["digits:0-1", missing, blank, "digits:2-1", "mnist:0", "digits:9999", "digits:2"], None)
    assert [row.name for row in rows if row.error is None] == ["digits:0", "digits:1", "digits:2"]
    assert [row.label for row in rows if row.truth is not None] == [row.truth for row in rows if row.truth is not None]
    assert all(0.1 < row.probability <= 1 for row in rows if row.error is None)
    errors = [str(row.error) for row in rows if row.error is not None]
    assert "no.png' cannot be read as an image: the file does not exist" in errors[0]
    assert errors[1] == f"{blank}: nothing found in the image; is it blank?"
    assert errors[2:] == [
        "digits:2-1 ends before it begins; type digits:1-2",
        "mnist:0: this model knows digits; type digits:0, or name another model with --model",
        "digits has test images 0 to 358; type for example digits:0-24",
    ]
    png = draw(rows, predictor.classes)
    assert png is not None
    assert png.startswith(b"\x89PNG")
    assert draw([row for row in rows if row.error], predictor.classes) is None
    assert np.array_equal([row.pixels is None for row in rows], [row.error is not None for row in rows])


def test_unreadable_files_are_reported_before_a_model_is_loaded(finished: Finished, tmp_path: Path):
    words = ["predict", str(tmp_path / "a.png"), "--model", "digits/9", "--workspace", str(finished.folder)]
    with pytest.raises(PictureError, match=r"a.png' cannot be read as an image: the file does not exist"):
        CliRunner().invoke(cli, words, catch_exceptions=False)
    with pytest.raises(ModelNotFoundError, match="models:/digits/9 cannot be loaded"):
        CliRunner().invoke(cli, [*words, "digits:0"], catch_exceptions=False)


def test_one_readable_name_is_enough(tmp_path: Path):
    with pytest.raises(PictureError, match=r"(?s)a.png.*\n.*b.png"):
        require_readable([str(tmp_path / "a.png"), str(tmp_path / "b.png")])
    Image.new("L", (9, 9)).save(tmp_path / "b.png")
    require_readable([str(tmp_path / "a.png"), str(tmp_path / "b.png")])
