"""What is said of the data and of the machine."""

from __future__ import annotations

from typing import Any

import pytest

from search.study.texts.setting import describe_dataset, describe_workers

MNIST = {"name": "mnist", "source": "/data/MNIST/raw", "n_train": 48_000, "n_validation": 12_000, "shape": [1, 28, 28]}


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ({str(digit): 100 for digit in range(10)}, "10 classes of 100 images"),
        ({"a": 142, "b": 146, "c": 143}, "3 classes of 142 to 146 images"),
        ({"cat": 950, "dog": 50}, "2 classes: dog 50, cat 950"),
        ({f"class {n}": 10 * n for n in range(1, 31)}, "30 classes of 10 (class 1) to 300 (class 30) images"),
        ({"x" * 500: 9, "犬\x1b[31m\nline": 90}, f"2 classes: {'x' * 11} ... {'x' * 8} 9, 犬\\x1b[31m line 90"),
        ({"only": 0, "none": 0}, "2 classes of 0 images"),
    ],
)
def test_classes_are_said_with_their_counts(classes: dict[str, int], said: str):
    assert describe_dataset({**MNIST, "classes": classes}) == [
        f"data: mnist, {said}, 28x28 pixels, grey",
        "images: 48,000 for training, 12,000 for validation; from /data/MNIST/raw",
    ]
    with_test = describe_dataset({**MNIST, "classes": classes, "n_test": 10_000})
    assert with_test[0] == f"data: mnist, {said} (without test images), 28x28 pixels, grey"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"n_test": 10_000}, "images: 48,000 for training, 12,000 for validation, 10,000 for the test"),
        ({"shape": [3, 64, 64], "original_size": [480, 640]}, "images of about 640x480 pixels are shrunk to 64x64"),
        ({"shape": [3, 64, 64], "original_size": [64, 64]}, None),
        ({"original_size": None, "left_out": "60 files were left out: 60 are no pictures"}, "60 files were left out"),
    ],
)
def test_splits_and_sizes_are_said(more: dict[str, Any], said: str | None):
    lines = describe_dataset({**MNIST, **more})
    assert len(lines) <= 4
    assert said is None or any(line.startswith(said) for line in lines[1:])
    assert ("shrunk" in str(lines)) == ("shrunk" in str(said))


@pytest.mark.parametrize("info", [{}, {"name": "mine"}, {"name": "mine", "shape": [7]}])
def test_what_an_objective_does_not_say_is_left_out(info: dict[str, Any]):
    assert describe_dataset(info) == (["data: mine"] if info else [])


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ([], ""),
        ([("cpu", "")], ""),
        ([("cpu", "AMD EPYC")], "1 worker on AMD EPYC"),
        ([("cuda:0", "H100"), ("cuda:0", "H100"), ("cuda:1", "A100")], "2 workers on H100, 1 worker on A100"),
        ([("cuda:0", "H100"), ("cuda:1", "H100"), ("cuda:0", "H100")], "3 workers on 2 x H100"),
    ],
)
def test_workers_are_counted_by_device(workers: list[tuple[str, str]], said: str):
    assert describe_workers(workers) == said
