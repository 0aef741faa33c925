"""What is said of the data and of the machine."""

from __future__ import annotations

from typing import Any

import pytest

from search.study.texts.setting import dataset_lines, describe_dataset, describe_workers, unequal_classes

MNIST = {"name": "mnist", "source": "/data/MNIST/raw", "n_train": 48_000, "n_validation": 12_000, "shape": [1, 28, 28]}


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ({str(digit): 100 for digit in range(10)}, "10 classes of 100 images"),
        ({"a": 142, "b": 146, "c": 143}, "3 classes of 142 to 146 images"),
        ({"cat": 950, "dog": 50}, "2 classes: dog 50, cat 950"),
        ({f"class {n}": 10 * n for n in range(1, 31)}, "30 classes of 10 ('class 1') to 300 ('class 30') images"),
        ({"x" * 500: 9, "犬\x1b[31m\nline": 90}, f"2 classes: {'x' * 11} ... {'x' * 8} 9, 犬\\x1b[31m line 90"),
        ({"only": 0, "none": 0}, "2 classes of 0 images"),
    ],
)
def test_classes_are_said_with_their_counts(classes: dict[str, int], said: str):
    assert dataset_lines({**MNIST, "classes": classes}) == [
        f"data: mnist, {said}, 28x28 pixels, grey",
        "  training    48,000 images",
        "  validation  12,000 images",
        "  source      /data/MNIST/raw",
    ]
    with_test = dataset_lines({**MNIST, "classes": classes, "n_test": 10_000})
    assert with_test[0] == f"data: mnist, {said} (without test images), 28x28 pixels, grey"


PAIRS = [f"train/cat/{n}.png = test/dog/{n}.png" for n in range(5)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"n_test": 10_000}, {"test": "10,000 images, read once, when the winner is known"}),
        (
            {"n_test": 200, "origins": {"test": "test/"}, "test_classes": {"dog": 10, "cat": 190}},
            {"test": "200 images, test/, read once, when the winner is known; 2 classes: dog 10, cat 190"},
        ),
        ({"origins": {"test": "the test files"}}, {"test": "the test files, read once, when the winner is known"}),
        ({"origins": {"training": "four fifths of train/"}}, {"training": "48,000 images, four fifths of train/"}),
        (
            {"shape": [3, 64, 64], "original_size": [480, 640]},
            {"size": "images of about 640x480 pixels are resized to 64x64; --image-size N keeps more, up to 224"},
        ),
        (
            {"shape": [3, 99, 99], "original_size": [480, 640], "image_size": 99},
            {"size": "images of about 640x480 pixels are resized to 99x99 (--image-size 99)"},
        ),
        ({"shape": [3, 64, 64], "original_size": [64, 64]}, {}),
        ({"original_size": None, "left_out": "60 files are left out"}, {"left out": "60 files are left out"}),
        ({"duplicates": []}, {"duplicates": "no test image is also used for training or validation"}),
        (
            {"duplicates": PAIRS[:1]},
            {
                "duplicates": "1 test image is also used for training or validation, which flatters the test score: "
                "train/cat/0.png = test/dog/0.png"
            },
        ),
        (
            {"duplicates": PAIRS},
            {
                "duplicates": "5 test images are also used for training or validation, which flatters the test score: "
                "train/cat/0.png = test/dog/0.png, train/cat/1.png = test/dog/1.png, "
                "train/cat/2.png = test/dog/2.png, ..."
            },
        ),
        ({"notes": ["class 'fox' has no test images"]}, {"note": "class 'fox' has no test images"}),
    ],
)
def test_what_was_found_is_said(more: dict[str, Any], said: dict[str, str]):
    plain = dict(describe_dataset(MNIST))
    found = dict(describe_dataset({**MNIST, **more}))
    assert {name: text for name, text in found.items() if plain.get(name) != text and name != "data"} == said


@pytest.mark.parametrize("info", [{}, {"name": "mine"}, {"name": "mine", "shape": [7]}])
def test_what_an_objective_does_not_say_is_left_out(info: dict[str, Any]):
    assert dataset_lines(info) == (["data: mine"] if info else [])


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ({"dog": 50, "cat": 950}, "class 'cat' has 19 times the images of 'dog'"),
        ({"dog": 50, "cat": 150}, None),
        ({"dog": 50, "cat": 151}, "class 'cat' has 3 times"),
        ({"dog": 0, "cat": 151}, None),
        ({}, None),
    ],
)
def test_unequal_classes_are_noticed(classes: dict[str, int], said: str | None):
    notice = unequal_classes({"classes": classes}, "val_accuracy")
    assert (notice is None) == (said is None)
    if said:
        assert said in str(notice)
        assert "--metric balanced_accuracy" in str(notice)


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
