"""How wide networks may be: decided by the device, once in a study's life. Studies of before keep their space."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from rich.console import Console
from shell import rows

from objectives.images.families import SCALES
from objectives.images.objective import ImageClassification
from search.cli.progress import PlainDisplay
from search.commands.load import load_trial
from search.commands.run import run
from search.commands.setup import SearchPlan
from search.common.config import DEFAULT_OBJECTIVE, Config
from search.common.errors import StudyMismatchError, UsageError
from search.study.records import FINGERPRINT, StudyRecord
from search.study.space.space import Space, search_space
from search.study.storage.storage import open_storage
from search.study.study import SCALE, open_study

GIB = 2**30
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
    ("device", "free_bytes", "scale"),
    [
        ("cpu", 0, "small"),
        ("mps", 64 * GIB, "small"),
        ("cuda:0", 15 * GIB, "small"),
        ("cuda:1", 16 * GIB, "wide"),
        ("cuda:0", 78 * GIB, "wide"),
    ],
)
def test_a_gpu_with_room_has_wide_networks(device: str, free_bytes: int, scale: str):
    assert ImageClassification("digits").choose_space_scale(device, free_bytes) == scale


def test_the_wide_space_contains_the_small_one():
    small, wide = (search_space(digits(scale)) for scale in SCALES)
    assert {name for name in wide if small[name] != wide[name]} == {"cnn_width", *(f"mlp_width_{i}" for i in (1, 2, 3))}
    for name, distribution in small.items():
        larger = wide[name]
        if isinstance(distribution, CategoricalDistribution):
            assert isinstance(larger, CategoricalDistribution)
            assert set(distribution.choices) <= set(larger.choices)
    assert small["cnn_width"] == IntDistribution(8, 24, step=8)
    assert wide["cnn_width"] == IntDistribution(8, 48, step=8)


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
def test_what_the_user_fixes_decides_on_a_cpu_too(folder: Path):
    fix = "family=cnn", "cnn_width=48"
    record = searched(folder, 1, *fix)
    assert record.trials[0].params["cnn_width"] == 48
    assert stored_fingerprint(folder)[SCALE] == "wide"
    assert len(searched(folder, 2, *fix).trials) == 2
    with pytest.raises(StudyMismatchError, match="cnn_width was 48, now 8 to 48 in steps of 8"):
        searched(folder, 3, "family=cnn")


def test_a_width_beside_the_ladder_is_an_error(folder: Path):
    with pytest.raises(UsageError, match=r"mlp_width_1 cannot be 500; allowed: 64, 96, 128, .* 1536 or 2048"):
        searched(folder, 1, "family=mlp", "mlp_width_1=500")


@pytest.mark.slow
def test_a_study_from_before_there_were_scales_goes_on_in_its_space(folder: Path):
    """It differs from a new one in its parameters' kind, which Optuna does not allow to change."""
    widths_before = IntDistribution(100, 500, log=True)
    fixed = {"family": CategoricalDistribution(["mlp"]), "mlp_depth": IntDistribution(1, 1)}
    storage = open_storage(Config(workspace=folder).storage_url)
    space = Space({**fixed, "mlp_width_1": widths_before})
    study = open_study(storage, "short", digits(""), DEFAULT_OBJECTIVE, 1, space)
    stored = study.attrs()[FINGERPRINT]
    study.set_attr(FINGERPRINT, {name: value for name, value in stored.items() if name != SCALE})
    before = stored_fingerprint(folder)

    record = searched(folder, 4, "family=mlp", "mlp_depth=1", "mlp_width_1=[100, 500]")
    assert stored_fingerprint(folder) == before
    widths = [trial.params["mlp_width_1"] for trial in record.trials]
    assert all(100 <= width <= 500 for width in widths)
    odd = next(number for number, width in enumerate(widths) if width not in SCALES["small"].units)
    weights = [tuple(each.shape) for each in load_trial("short", odd, workspace=folder).parameters()]
    assert weights[0] == (widths[odd], 64)
