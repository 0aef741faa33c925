"""What a search needs of a CUDA device: digits that are learned, memory that runs out, and workers that share it.

`pytest -m gpu` runs it. For the command, see test_gpu_commands.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_device import DEVICE, NEEDS_DEVICE
from slots import hear
from torch import nn
from trainings import equal, finish, weights

from objectives.base import Params, Suggest, Task
from objectives.images.baselines import STRONG, TUTORIAL, TUTORIAL_MLP
from objectives.images.objective import ImageClassification
from objectives.images.training.loop import ImageTraining
from objectives.spec import ObjectiveSpec
from objectives.worker.messages import EpochDone, Failed, WorkerSettings
from objectives.worker.worker import Worker
from search.executors.base import Finished, Lost
from search.executors.local import LocalExecutor
from search.executors.mps import CONTROL, PIPES

pytestmark = NEEDS_DEVICE

DIGITS = ObjectiveSpec("objectives.images:ImageClassification", {"dataset": "digits"})
MLP = {**TUTORIAL, **TUTORIAL_MLP, "optimizer": "adam", "adam_lr": 1e-3}


@pytest.mark.parametrize("params", [MLP, STRONG], ids=["mlp", "cnn"])
def test_one_seed_twice_gives_the_same_weights_of_real_images(params: dict[str, Any]):
    """With the networks of the space, and the second time with the graph of the first."""
    objective = ImageClassification("digits")
    objective.prepare()
    dropout = {"cnn_blocks": 2, "cnn_dropout": 0.3} if "cnn_blocks" in params else {"mlp_dropout": 0.3}
    kept = []
    for _ in range(2):
        training = objective.start(Task(0, {**params, **dropout, "rotation_zoom": 0.5}, 1, 3), DEVICE)
        assert isinstance(training, ImageTraining)
        finish(training)
        assert training.update.replay is not None
        kept.append(weights(training))
        del training
    assert equal(*kept)


def test_out_of_memory_is_said_and_the_next_trial_trains():
    """Nearly everything is taken; a trial has no room; given back, the same worker goes on."""
    worker = Worker(WorkerSettings(DIGITS, DEVICE, 0, 1, 1))
    task = Task(0, dict(MLP), seed=1, epochs=1)
    assert isinstance(worker.start(task), EpochDone)
    worker.stop()
    torch.cuda.empty_cache()
    hog = []
    size = 2**30
    while size >= 2**20:
        try:
            hog.append(torch.empty(size, dtype=torch.uint8, device=DEVICE))
        except torch.OutOfMemoryError:
            size //= 2
    reply = worker.do("start", Task(1, {**MLP, "mlp_width_1": 1024, "batch_size": 1024}, seed=1, epochs=1))
    hog.clear()
    torch.cuda.empty_cache()
    assert isinstance(reply, Failed)
    assert reply.kind == "out_of_memory"
    done = worker.start(task)
    assert isinstance(done, EpochDone)
    assert done.result.notice is None


@pytest.mark.parametrize("params", [MLP, STRONG], ids=["mlp", "cnn"])
def test_digits_are_learned_from_replays(params: dict[str, Any]):
    objective = ImageClassification("digits")
    objective.prepare()
    params = {**params, "cnn_blocks": 2} if "cnn_blocks" in params else params
    training = objective.start(Task(0, dict(params), 1, 4), DEVICE)
    assert isinstance(training, ImageTraining)
    values = [result.value for result in finish(training)]
    assert training.update.replay is not None
    assert values[-1] is not None
    assert values[-1] > 0.8


@pytest.mark.parametrize("params", [MLP, STRONG], ids=["mlp", "cnn"])
def test_a_refit_trains_on_all_but_the_test_split(params: dict[str, Any]):
    objective = ImageClassification("digits")
    objective.prepare()
    training = objective.start(Task(0, dict(params), 1, 4, refit=True), DEVICE)
    assert isinstance(training, ImageTraining)
    results = finish(training)
    assert training.update.replay is not None
    assert [result.value for result in results] == [None] * 4
    outcome, data = training.outcome(), objective.dataset
    assert sorted(training.data.train.tolist()) == sorted([*data.train, *data.validation])
    assert outcome.predictions is None
    assert outcome.weights is not None
    model = objective.load_weights(params, outcome.weights)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert objective.score_test(model, DEVICE).accuracy > 0.8


@pytest.mark.parametrize("params", [MLP, STRONG], ids=["mlp", "cnn"])
def test_latency_is_measured_on_the_device(params: dict[str, Any]):
    objective = ImageClassification("digits")
    objective.prepare()
    first, second = (objective.latency_ms(params, DEVICE) for _ in range(2))
    assert 0 < first < 2 * second
    assert second < 2 * first


class Own(ImageClassification):
    """A network of one's own with torch's dropout, a frozen layer and an unused one."""

    def suggest_network(self, trial: Suggest) -> Params:
        return {"rate": trial.suggest_float("rate", 0.0, 0.5)}

    def build_network(self, params: Any) -> nn.Module:
        frozen = nn.BatchNorm2d(32).requires_grad_(False)
        layers = nn.Conv2d(1, 32, 3), frozen, nn.ReLU(), nn.Flatten(), nn.Dropout(params["rate"]), nn.LazyLinear(10)
        network = nn.Sequential(*layers)
        network[0].register_parameter("unused", nn.Parameter(torch.ones(3)))
        return network


def test_an_own_network_is_learned_from_replays():
    """A second one with another rate gets a graph of its own; an equal one gets the first."""
    objective = Own("digits")
    objective.prepare()
    updates = []
    for rate in (0.1, 0.4, 0.1):
        params = {**TUTORIAL, "rate": rate, "optimizer": "adam", "adam_lr": 1e-2}
        training = objective.start(Task(0, params, 1, 4), DEVICE)
        assert isinstance(training, ImageTraining)
        value = finish(training)[-1].value
        assert training.update.replay is not None
        assert value is not None
        assert value > 0.8
        updates.append(training.update)
        del training
    assert updates[0] is updates[2]
    assert updates[0] is not updates[1]


def test_what_cannot_be_captured_trains_in_a_worker_that_captures_nothing():
    params = {**TUTORIAL, "optimizer": "adam", "adam_lr": 1e-2}
    spec = ObjectiveSpec("waiting:Waiting", {"dataset": "digits"})
    with closing(LocalExecutor(spec, DEVICE, 1)) as executor:
        executor.ready()
        executor.start(0, Task(0, params, seed=1, epochs=1))
        event = hear(executor)
        assert isinstance(event, Lost)
        assert "without CUDA graphs" in event.reason
        assert "waiting.py, line 14" in event.reason
        assert not event.may_be_task
        while not executor.available():
            assert executor.wait(1.0) == []
        executor.start(0, Task(0, params, seed=1, epochs=1))
        assert isinstance(hear(executor), EpochDone)


@pytest.fixture
def crowd() -> Iterator[LocalExecutor]:
    with closing(LocalExecutor(DIGITS, "auto", None)) as made:
        yield made


def test_several_workers_share_the_device_and_go_on_after_the_choice(crowd: LocalExecutor):
    devices = crowd.ready()
    assert {device.partition(":")[0] for device in devices} == {"cuda"}
    chosen = crowd.tune_workers([Task(0, params, seed=1, epochs=16) for params in (MLP, {**STRONG, "cnn_blocks": 2})])
    assert chosen is not None
    assert chosen.startswith(f"{crowd.slots} worker{'s' if crowd.slots > 1 else ''} on cuda:0")
    assert 1 <= crowd.slots <= len(devices)
    for slot in range(crowd.slots):
        crowd.start(slot, Task(slot, dict(MLP), seed=slot, epochs=1))
    owing = set(range(crowd.slots))
    while owing:
        for slot, event in crowd.wait(60.0):
            assert isinstance(event, EpochDone)
            owing.discard(slot)
    crowd.stop(0)
    assert isinstance(hear(crowd), Finished)


@pytest.mark.skipif(shutil.which(CONTROL) is None, reason="CUDA MPS is not installed here")
def test_workers_share_the_device_through_mps():
    with closing(LocalExecutor(DIGITS, DEVICE, 2)) as executor:
        sharing = executor._mps
        assert (sharing.is_on, sharing.problem) == (True, None)
        assert executor.ready() == [DEVICE] * 2
        variables = dict(sharing.variables)
        answer = subprocess.run(
            [CONTROL], env={**os.environ, **variables}, input="get_server_list\n", capture_output=True, text=True
        )
        assert answer.stdout.split(), answer
    assert not variables or not Path(variables[PIPES]).exists()
