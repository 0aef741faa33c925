"""How wide networks may be: decided by the device and the images, once in a study's life."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from rich.console import Console
from shell import rows

from objectives.images.families import SCALES, choose_scale
from objectives.images.objective import ImageClassification
from search.cli.progress import PlainDisplay
from search.commands.run import run
from search.commands.setup import SearchPlan
from search.common.config import DEFAULT_OBJECTIVE, Config
from search.common.errors import StudyMismatchError, UsageError
from search.study.records import FINGERPRINT, StudyRecord
from search.study.space.asked_trial import StoredTrial
from search.study.space.space import WHOLE_SPACE, search_space
from search.study.storage.storage import open_storage
from search.study.study import SCALE, open_study

GIB = 2**30
RESNET = {"resnet_blocks", "resnet_width", "resnet_depth"}
SHORT: dict[str, Any] = {"dataset": "digits", "engine": "inline", "study": "short", "epochs": 1, "seed": 0}
SHORT |= {"confirm": 0, "no_refit": True, "no_register": True}


def digits(scale: str) -> ImageClassification:
    objective = ImageClassification("digits")
    objective.prepare()
    objective.space_scale = scale
    return objective


def searched(folder: Path, trials: int, *fix: str) -> StudyRecord:
    config = Config(workspace=folder, trials=trials, fix=fix, **SHORT)
    return run(SearchPlan.of(config), PlainDisplay(Console(quiet=True))).study


def stored_fingerprint(folder: Path) -> dict[str, Any]:
    query = f"SELECT value_json FROM study_user_attributes WHERE key = '{FINGERPRINT}'"
    ((text,),) = rows(folder / "optuna.db", query)
    return dict(json.loads(text))


@pytest.mark.parametrize(
    ("device", "free_bytes", "channels", "is_large", "scale"),
    [
        ("cpu", 0, 1, False, "small"),
        ("cpu", 0, 1, True, "narrow"),
        ("cpu", 0, 3, False, "medium"),
        ("cpu", 0, 3, True, "medium"),
        ("mps", 64 * GIB, 1, True, "narrow"),
        ("cuda:0", 15 * GIB, 1, True, "small"),
        ("cuda:1", 16 * GIB, 1, False, "wide"),
        ("cuda:0", 78 * GIB, 3, True, "wide"),
    ],
)
def test_networks_are_wide_on_a_gpu_with_room_and_wider_for_colours_and_few_images(
    device: str, free_bytes: int, channels: int, is_large: bool, scale: str
):
    assert choose_scale(device, free_bytes, channels, is_large=is_large) == scale
    if channels == 1 and not is_large:
        assert digits(scale).choose_space_scale(device, free_bytes) == scale


def test_every_scale_contains_the_one_before():
    spaces = [search_space(digits(scale)) for scale in SCALES]
    for smaller, larger in pairwise(spaces):
        assert smaller.keys() == larger.keys()
        changed = {name for name in larger if smaller[name] != larger[name]}
        assert changed
        assert {name.rstrip("_123") for name in changed} <= {"mlp_width", "cnn_width", *RESNET}
        for name in changed:
            few, many = smaller[name], larger[name]
            if isinstance(few, CategoricalDistribution) and isinstance(many, CategoricalDistribution):
                assert set(few.choices) < set(many.choices)
            else:
                assert isinstance(few, IntDistribution)
                assert isinstance(many, IntDistribution)
                assert (few.low, few.step) == (many.low, many.step)
                assert few.high < many.high


@pytest.mark.parametrize("scale", ["", *SCALES])
def test_the_baselines_fit_every_scale(scale: str):
    objective = digits(scale)
    space = search_space(objective)
    for params in objective.baselines().values():
        for name, value in params.items():
            assert space[name]._contains(space[name].to_internal_repr(value)), name


@pytest.mark.slow
def test_a_new_study_stores_its_scale_and_goes_on(folder: Path):
    searched(folder, 1, "family=mlp")
    fingerprint = stored_fingerprint(folder)
    assert fingerprint[SCALE] == "small"
    began = r"cannot be 2048; allowed: 64, .*\. Study 'short' keeps the space that it began with.* --study short-2$"
    with pytest.raises(UsageError, match=began):
        searched(folder, 5, "family=mlp", "mlp_width_1=2048")
    record = searched(folder, 5, "family=mlp")
    assert stored_fingerprint(folder) == fingerprint
    widths = [value for trial in record.trials for name, value in trial.params.items() if name.startswith("mlp_width")]
    assert set(widths) <= set(SCALES["small"].units)
    for name in ("mlp_width_1", "mlp_width_2", "mlp_width_3"):
        assert "1024]" in fingerprint["search space"][name]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scale"), [(32, "medium"), (48, "wide")])
def test_what_the_user_fixes_decides_on_a_cpu_too(folder: Path, width: int, scale: str):
    fix = "family=cnn", f"cnn_width={width}"
    record = searched(folder, 1, *fix)
    assert record.trials[0].params["cnn_width"] == width
    assert stored_fingerprint(folder)[SCALE] == scale
    assert len(searched(folder, 2, *fix).trials) == 2
    with pytest.raises(
        StudyMismatchError, match=f"cnn_width was {width}, now 8 to {SCALES[scale].cnn_width} in steps of 8"
    ):
        searched(folder, 3, "family=cnn")


def test_a_width_beside_the_ladder_is_an_error(folder: Path):
    with pytest.raises(UsageError, match=r"mlp_width_1 cannot be 500; allowed: 64, 96, 128, .* 1536 or 2048"):
        searched(folder, 1, "family=mlp", "mlp_width_1=500")


def test_trials_of_an_earlier_version_have_the_networks_they_had():
    """They lack parameters that joined the space, and have one that left it."""
    training = dict(optimizer="adam", adam_lr=1e-3, batch_size=64, weight_decay=1e-6, schedule="constant")
    training |= dict(augmentation=0.3, label_smoothing=0.0)
    mlp = dict(family="mlp", mlp_depth=1, mlp_width_1=100, mlp_dropout=0.1)
    cnn = dict(family="cnn", cnn_blocks=2, cnn_width=8, cnn_kernel=5, cnn_dense=0, cnn_dropout=0.2)
    names = "Flatten Linear ReLU Dropout Linear", "Conv2d BatchNorm ReLU Conv2d MaxPool2d BatchNorm ReLU"
    for network, expected in zip((mlp, cnn), names, strict=True):
        objective = digits("")
        params = WHOLE_SPACE.suggest(objective, StoredTrial({**network, **training}))
        layers = [type(layer).__name__ for layer in objective.build_model(params).children()]
        assert " ".join(layers[1:]).startswith(expected)


def test_a_trial_of_tiny_images_keeps_a_second_convolution_of_an_earlier_version():
    objective = digits("")
    stored = {**objective.baselines()["strong CNN, one cycle"], "cnn_convs": 2}
    params = WHOLE_SPACE.suggest(objective, StoredTrial(stored))
    assert [type(layer).__name__ for layer in objective.build_model(params).children()].count("Conv2d") == 5


def test_a_study_of_an_earlier_version_cannot_go_on_and_the_error_says_what_to_type(folder: Path):
    storage = open_storage(Config(workspace=folder).storage_url)
    study = open_study(storage, "short", digits("small"), DEFAULT_OBJECTIVE, 1)
    stored = study.attrs()[FINGERPRINT]
    space = {name: text for name, text in stored["search space"].items() if not name.startswith("resnet")}
    study.set_attr(FINGERPRINT, {**stored, SCALE: "small", "search space": space})
    with pytest.raises(StudyMismatchError, match=r"resnet_blocks was absent, now 2 to 3(.|\n)*--study short-2"):
        searched(folder, 2)
