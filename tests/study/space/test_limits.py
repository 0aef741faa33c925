"""Limits: the count is that of the built network, and a slow network is refused before its first step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import optuna
import pytest
import torch
from optuna.samplers import RandomSampler
from regression import Curve

from objectives.base import ImageClassifier, Sized, Task, Timed
from objectives.images.latency import latency_ms
from objectives.images.objective import ImageClassification
from objectives.spec import ObjectiveSpec
from objectives.worker.messages import Checkpointed, EpochDone, Finished, Refused, WorkerSettings
from objectives.worker.worker import Worker
from search.study.space.limits import Limits, describe

CURVE = ObjectiveSpec("regression:Curve")
PARAMS = {"units": 8, "lr": 1e-3}


@pytest.fixture
def worker() -> Iterator[Worker]:
    before = torch.get_num_threads()
    yield Worker(WorkerSettings(CURVE, "cpu", 0, 1, 1))
    torch.set_num_threads(before)


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_the_count_is_that_of_the_network_that_trains(dataset: str):
    objective = ImageClassification("digits")
    if dataset == "mnist":  # the size of its images is all that matters, and it takes the strided stem
        objective.dataset = replace(objective.dataset, images=np.zeros((9, 1, 28, 28), np.uint8), train=np.arange(9))
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    for _ in range(25):
        params = objective.suggest(study.ask())
        before = torch.get_rng_state()
        counted = objective.n_parameters(params)
        assert torch.equal(torch.get_rng_state(), before)  # a training in this process draws the same numbers
        assert counted == sum(weight.numel() for weight in objective.build_model(params).parameters()), params


def test_the_objectives_here_can_be_limited():
    for objective in (ImageClassification("digits"), Curve()):
        assert isinstance(objective, Sized)
        assert isinstance(objective, Timed)
        Limits(parameters=1, latency_ms=1.0).check(objective)
    assert not isinstance(Curve(), ImageClassifier)


def test_a_larger_network_takes_longer():
    small, large = (torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(n))) for n in (1, 24))
    assert 0 < latency_ms(small, (512,), "cpu") < latency_ms(large, (512,), "cpu")


def test_a_slow_network_is_refused_before_its_first_step(worker: Worker):
    reply = worker.start(Task(0, PARAMS, 1, 2, max_latency_ms=1e-6))
    assert isinstance(reply, Refused)
    assert reply.metrics["latency_ms"] > 1e-6
    assert worker.training is None
    assert isinstance(worker.start(Task(1, PARAMS, 1, 2)), EpochDone)  # and it is ready for another


def test_a_measured_latency_is_among_the_last_figures(worker: Worker):
    worker.start(Task(0, PARAMS, 1, 2, max_latency_ms=1e6))
    ended = worker.stop()
    assert isinstance(ended, Finished)
    assert ended.outcome.metrics["latency_ms"] > 0
    worker.start(Task(1, PARAMS, 1, 2))
    ended = worker.stop()
    assert isinstance(ended, Finished)
    assert "latency_ms" not in ended.outcome.metrics


def test_a_training_that_has_begun_is_no_longer_refused(worker: Worker):
    worker.start(Task(0, PARAMS, 1, 2))
    checkpoint = worker.checkpoint()
    assert isinstance(checkpoint, Checkpointed)
    reply = worker.start(Task(0, PARAMS, 1, 2, checkpoint=checkpoint.state, max_latency_ms=1e-6))
    assert isinstance(reply, EpochDone)
    assert reply.result.step == 2


def test_a_resumed_training_keeps_its_first_measurement(worker: Worker):
    worker.start(Task(0, PARAMS, 1, 2, max_latency_ms=1e6))
    first, checkpoint = dict(worker.measured), worker.checkpoint()
    assert isinstance(checkpoint, Checkpointed)
    worker.start(Task(1, PARAMS, 1, 2))
    worker.start(Task(0, PARAMS, 1, 2, checkpoint=checkpoint.state, max_latency_ms=1e6))
    ended = worker.stop()
    assert isinstance(ended, Finished)
    assert ended.outcome.metrics["latency_ms"] == first["latency_ms"]


def test_an_excess_is_a_share_of_the_limit():
    limits = Limits(parameters=1000, latency_ms=2.0)
    assert limits.excess({"parameters": 1500, "latency_ms": 1.0, "loss": 3.0}) == {
        "parameters": 0.5,
        "latency_ms": -0.5,
    }
    assert limits.allow({"parameters": 1000})
    assert not limits.allow({"parameters": 1001})
    assert Limits.of(limits.as_settings()) == limits
    assert (
        describe({"parameters": 421642.0, "epochs": 3, "latency_ms": 0.3149})
        == "421,642 parameters, 0.315 ms a prediction"
    )
