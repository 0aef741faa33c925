"""`search.log`, `search.checkpoint` and others: what they ask in a search, and that they do nothing outside."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from answering import EVENTS, Call, asker
from torch import nn

import search
from objectives.functions.helpers import MAX_ARTIFACT_BYTES
from objectives.functions.state import decode, encode
from search.executors.base import Failed, Returned


def run(objective: Any, engine: str = "inline") -> Call:
    with asker(objective, engine) as here:
        return here.run()


def failure(objective: Any) -> str:
    end = run(objective).end
    assert isinstance(end, Failed)
    return end.message


def test_outside_a_search_nothing_happens(tmp_path: Path):
    search.log({"loss": "no number"})
    search.log_artifact(tmp_path / "missing")
    search.log_model(None, None)
    state = search.checkpoint()
    state.save(object())
    assert state.load() is None
    assert search.seed() == 0
    assert torch.zeros(1, device=search.device()).sum() == 0


def test_log_gives_numbers_and_steps():
    def objective(trial: Any) -> float:
        search.log({"loss": torch.tensor(0.5), "n": np.int64(3)})
        search.log({"loss": 0.25})
        search.log({"loss": 0.125}, step=np.int64(9))
        search.log({"val/accuracy": True})
        return 1.0

    points = [({"loss": 0.5, "n": 3.0}, 0), ({"loss": 0.25}, 1), ({"loss": 0.125}, 9), ({"val/accuracy": 1.0}, 10)]
    call = run(objective)
    assert call.all("log") == points
    assert {type(value) for metrics, _ in call.all("log") for value in metrics.values()} == {float}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"loss": "0.5"}, "search.log: the metric 'loss' is '0.5'; give one number"),
        ({"loss": None}, "the metric 'loss' is None; give one number"),
        ({"loss": torch.zeros(2)}, r"the metric 'loss' is tensor([0., 0.]); give one number"),
        ({3: 0.5}, "a metric is named 3; give a text"),
    ],
)
def test_what_is_no_number_is_named(metrics: dict[Any, Any], message: str):
    assert message in failure(lambda trial: search.log(metrics))


def test_a_step_is_a_whole_number():
    assert "cannot be interpreted as an integer" in failure(lambda trial: search.log({"loss": 1}, step=0.5))


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_files_are_read_at_once(tmp_path: Path, engine: str):
    (tmp_path / "plots" / "inner").mkdir(parents=True)
    (tmp_path / "plots" / "a.txt").write_text("one")
    (tmp_path / "plots" / "inner" / "b.txt").write_text("two")

    def objective(trial: Any) -> float:
        search.log_artifact(tmp_path / "plots")
        search.log_artifact(str(tmp_path / "plots" / "a.txt"))
        search.log_artifact(tmp_path / "plots" / "a.txt", name="other/c.txt")
        return 1.0

    expected = [("plots/a.txt", b"one"), ("plots/inner/b.txt", b"two"), ("a.txt", b"one"), ("other/c.txt", b"one")]
    assert run(objective, engine).all("log_artifact") == expected


def test_a_file_that_cannot_be_kept_is_named(tmp_path: Path):
    assert f"there is no file {tmp_path}/x; save it before" in failure(lambda t: search.log_artifact(tmp_path / "x"))
    with open(tmp_path / "big", "wb") as file:
        file.truncate(MAX_ARTIFACT_BYTES + 1)
    assert f"{tmp_path}/big has 100 MB; an artifact has at most" in failure(
        lambda t: search.log_artifact(tmp_path / "big")
    )
    (tmp_path / "small").touch()
    assert "'../x' must be a relative path" in failure(lambda t: search.log_artifact(tmp_path / "small", name="../x"))


def test_the_device_and_the_seed_are_the_workers():
    def objective(trial: Any) -> float:
        assert search.device() == "cpu"
        return search.seed()

    assert run(objective, "local").end == Returned(7.0)


STATES = [
    None,
    {"epoch": 3, "loss": 0.1, "name": "müde\n", "flag": True, "big": 2**70, "none": None},
    [1, (2, (3, [4])), b"\x00\n", "x" * 10],
    {1: "int", (2, 3): "tuple", None: "none"},
    float("inf"),
]


@pytest.mark.parametrize("state", STATES, ids=range(len(STATES)))
def test_a_plain_state_comes_back(state: object):
    assert decode(encode(state, 5)) == (state, 5)


def test_tensors_and_arrays_come_back():
    net, generator = nn.Linear(2, 2), np.random.default_rng(1)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": generator.bit_generator.state,
        "torch": torch.get_rng_state(),
        "array": np.arange(6, dtype=np.int16).reshape(2, 3),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "bytes": b"abc",
    }
    found, _ = decode(encode(state, 0))
    nn.Linear(2, 2).load_state_dict(found["net"])
    torch.optim.Adam(nn.Linear(2, 2).parameters()).load_state_dict(found["optimizer"])
    assert torch.equal(found["net"]["weight"], net.weight)
    assert found["rng"] == state["rng"]
    assert torch.equal(found["torch"], state["torch"])
    np.testing.assert_array_equal(found["array"], np.arange(6).reshape(2, 3), strict=False)
    assert found["array"].dtype == np.int16
    assert found["half"].dtype == torch.bfloat16
    assert found["bytes"] == b"abc"


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"net": nn.Linear(1, 1)}, "the state['net'], which is Linear("),
        ([{"a": {1, 2}}], "the state[0]['a'], which is {1, 2}"),
        (np.array([object()]), "the state, which is array("),
        ({frozenset(): 1}, "the state (key frozenset()), which is frozenset()"),
    ],
)
def test_a_state_that_could_not_be_read_back_is_refused_by_name(state: object, place: str):
    message = failure(lambda trial: search.checkpoint().save(state))
    assert f"search.checkpoint() cannot save {place}" in message
    assert "Save the state_dict() of a module" in message


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_a_trial_goes_on_from_its_state(engine: str):
    def objective(trial: Any) -> float:
        state = search.checkpoint().load() or {"epoch": 0}
        for epoch in range(state["epoch"], 4):
            search.log({"loss": 1 / (1 + epoch)})
            search.checkpoint().save({"epoch": epoch + 1})
            assert search.checkpoint().load() == {"epoch": epoch + 1}
            trial.report(epoch, epoch)
        return state["epoch"]

    with asker(objective, engine) as here:
        first = here.run()
        (saved,) = first.all("save_checkpoint")[1]
        second = here.run(checkpoint=saved)
    assert second.end == Returned(2.0)
    assert second.all("report") == [(2.0, 2), (3.0, 3)]
    assert [step for _, step in second.all("log")] == [2, 3]


def test_a_state_without_tensors_loads_no_torch(tmp_path: Path):
    def objective(trial: Any) -> float:
        import sys

        search.checkpoint().save({"epoch": 1, "array": [b"x"]})
        assert search.checkpoint().load() == {"epoch": 1, "array": [b"x"]}
        return float("torch" in sys.modules)

    assert run(objective, "local").end == Returned(0.0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images)


class FixedSize(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.reshape(2, 3)


class FewInputs(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images if images.shape[0] <= 64 else 2 * images


class TwoOutputs(nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images, images


def test_a_network_is_exported_and_stays_as_it_is():
    EVENTS["net"] = net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}

    def objective(trial: Any) -> float:
        from answering import EVENTS

        net = EVENTS["net"]
        search.log_model(net, torch.zeros(2, 3))
        search.log_model(net, np.zeros((2, 3)))
        assert net.training
        return 1.0

    call = run(objective)
    assert call.end == Returned(1.0)
    programs = [torch.export.load(io.BytesIO(program)).module() for (program,) in call.all("log_model")]
    assert len(programs) == 2
    inputs = torch.randn(7, 3)
    for program in programs:
        torch.testing.assert_close(program(inputs), net.eval()(inputs))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("module", "example", "message"),
    [
        (FixedSize(), torch.zeros(2, 3), "torch.export cannot export the network: "),
        (TwoOutputs(), torch.zeros(2, 3), "of one input the network made a tuple; it must make one tensor (1, ...)"),
        (Net(), torch.zeros(1, 3), "an example of shape (1, 3); give 2 inputs or more"),
        (Net(), torch.zeros(2, 4), "torch.export cannot export the network: "),
        (
            FewInputs(),
            torch.zeros(2, 3),
            "the exported network takes at most 64 inputs in a batch; the number of inputs",
        ),
        (nn.Sequential(OrderedDict({"conv(3x3)": Net()})), torch.zeros(2, 3), "rename layer 'conv(3x3)': the registry"),
        ("net", torch.zeros(2, 4), "search.log_model got 'net'; give a torch.nn.Module and an example input"),
    ],
)
def test_a_network_that_cannot_be_exported_is_refused(module: object, example: object, message: str):
    text = failure(lambda trial: search.log_model(module, example))
    assert text.startswith("ValueError: search.log_model")
    assert message in text
    assert len(text) < 600
