"""The training loop: against a plain torch loop, repeatable, and honest about divergence."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from trainings import OPTIMIZERS, a_training, equal, finish, network, recipe, told, weights

from objectives.base import Diverged, Task
from objectives.images.models import InputSpec, build_cnn, normalised
from objectives.images.objective import ImageClassification
from objectives.images.training.cuda_graphs import GraphCache, relative_distance
from objectives.images.training.loop import evaluate, lr_factor
from objectives.images.training.optimizers import WeightDecay, make_optimizer, prepare_step
from objectives.images.training.update import TrainingData, to_unit

# Numbers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_computes_what_a_plain_loop_computes(data: TrainingData, optimizer: str):
    """Same order of images and the textbook's optimizer, unfused; three epochs of eight batches."""
    how = recipe(optimizer, weight_decay=1e-3, label_smoothing=0.05, schedule="constant")
    training = a_training(data, how)
    results = finish(training)

    torch.manual_seed(5)
    inputs = InputSpec(1, (8, 8), 4, (0.3,), (0.25,))
    model = normalised(inputs, build_cnn(inputs, 2, 8))
    lr = OPTIMIZERS[optimizer]["lr"]
    matrices, others = ([p for p in model.parameters() if (p.ndim > 1) == is_matrix] for is_matrix in (True, False))
    groups = [{"params": matrices, "weight_decay": 1e-3}, {"params": others, "weight_decay": 0.0}]
    plain = {
        "sgd": lambda groups: torch.optim.SGD(groups, lr, momentum=0.9, nesterov=True),
        "adam": lambda groups: torch.optim.Adam(groups, lr),
        "adamw": lambda groups: torch.optim.AdamW(groups, lr),
        "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr),
    }[optimizer](groups)
    for epoch in range(3):
        order = torch.randperm(256, generator=torch.Generator().manual_seed(5 * 1_000_003 + epoch))
        model.train()
        losses, correct = [], 0
        for index in order.split(32):
            logits = model(data.images[index].float() / 255)
            loss = F.cross_entropy(logits, data.labels[index], label_smoothing=0.05)
            plain.zero_grad()
            loss.backward()
            plain.step()
            losses.append(loss.item())
            correct += int((logits.argmax(1) == data.labels[index]).sum())
        model.eval()
        with torch.no_grad():
            logits = model(data.images[256:].float() / 255)
        expected = {
            "train/loss": sum(losses) / len(losses),
            "train/accuracy": correct / 256,
            "val/loss": F.cross_entropy(logits, data.labels[256:]).item(),
            "val/accuracy": (logits.argmax(1) == data.labels[256:]).float().mean().item(),
            "lr": lr,
        }
        metrics = {name: results[epoch].metrics[name] for name in expected}
        assert metrics == pytest.approx(expected, rel=2e-3, abs=2e-3), f"epoch {epoch + 1}"
    for name, tensor in weights(training).items():
        assert torch.allclose(tensor.float(), model.state_dict()[name].float(), rtol=1e-2, atol=1e-3), name


@pytest.mark.parametrize("graphs", [None, GraphCache(None)], ids=["plain", "recordable"])
def test_the_memory_format_does_not_change_what_is_learned(data: TrainingData, graphs: GraphCache | None):
    formats = (torch.channels_last, torch.contiguous_format)
    usual, other = (a_training(data, recipe("sgd"), epochs=2, graphs=graphs, memory_format=each) for each in formats)
    start = usual.update.copy_state()
    for training, memory_format in zip((usual, other), formats, strict=True):
        finish(training)
        assert training.model[1].weight.is_contiguous(memory_format=memory_format)
    assert relative_distance(start, usual.update.copy_state(), other.update.copy_state()) <= 1e-3


def test_loss_falls_and_the_metric_is_validation_accuracy(data: TrainingData):
    results = finish(a_training(data, recipe(), epochs=6))
    losses = [result.metrics["train/loss"] for result in results]
    assert losses[-1] < 0.3 * losses[0]
    assert results[-1].value == results[-1].metrics["val/accuracy"] > 0.95
    assert [result.epoch for result in results] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_the_same_seed_gives_equal_tensors(data: TrainingData, strength: float):
    runs = []
    for seed in (5, 5, 6):
        training = a_training(data, recipe("adamw", rotation_zoom=strength), seed=seed, dropout=0.3)
        runs.append((told(finish(training)), weights(training)))
    assert runs[0][0] == runs[1][0]
    assert equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


def test_evaluation_is_of_all_images_and_in_their_order(data: TrainingData):
    model = network().eval()
    index = torch.arange(256, 320)
    loss, accuracy, rows = evaluate(model, data.images, data.labels, index)
    with torch.no_grad():
        logits = model(to_unit(data.images[256:]))
    assert loss == pytest.approx(F.cross_entropy(logits, data.labels[256:]).item(), abs=1e-5)
    assert accuracy == pytest.approx((logits.argmax(1) == data.labels[256:]).float().mean().item())
    assert torch.allclose(rows, logits.softmax(1), atol=1e-5)


def test_unit_images_are_the_bytes_over_255():
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.allclose(to_unit(values), values.double().div(255).float(), atol=1e-7)


# Steps, schedule ----------------------------------------------------------------------------------------------------


def test_parts_of_an_epoch_are_pulled_one_by_one_and_add_up(data: TrainingData):
    parts = finish(a_training(data, recipe(), steps=4, epochs=2))
    whole = finish(a_training(data, recipe(), steps=1, epochs=2))
    assert [result.epoch for result in parts] == [0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]
    assert [result.step for result in parts if result.value is not None] == [1, 4, 8]
    assert all((result.value is None) == (not result.metrics) for result in parts)
    for late, early in ((parts[3], whole[0]), (parts[7], whole[1])):
        assert late.value == early.value
        assert late.metrics["train/loss"] == pytest.approx(early.metrics["train/loss"], rel=1e-5)


@pytest.mark.parametrize("at", [2, 4])
def test_steps_that_are_left_to_the_device_are_read_with_the_next_that_is_measured(data: TrainingData, at: int):
    """As on a GPU; a checkpoint in between counts what was trained."""
    expected = finish(a_training(data, recipe(), steps=4, epochs=2, dropout=0.3))
    left = a_training(data, recipe(), steps=4, epochs=2, dropout=0.3)
    left.asynchronous = True
    results = [next(left) for _ in range(at)]
    checkpoint = left.checkpoint()
    assert left.seconds > 0
    results += finish(left)
    assert told(results) == told(expected)
    assert [result.train_seconds > 0 for result in results] == [result.value is not None for result in results]
    assert left.seconds >= sum(result.train_seconds for result in results)
    resumed = a_training(data, recipe(), steps=4, epochs=2, dropout=0.3, checkpoint=checkpoint)
    assert told(finish(resumed)) == told(expected[at:])


def test_a_loss_that_is_not_finite_is_found_when_it_is_read(data: TrainingData):
    training = a_training(data, recipe("sgd", lr=1e30, schedule="constant"), steps=4, epochs=1)
    training.asynchronous, training.step = True, 1
    assert [next(training).value for _ in range(2)] == [None, None]
    with pytest.raises(Diverged, match="the training loss became (nan|inf) in epoch 1"):
        next(training)


def test_one_cycle_rises_for_a_quarter_and_falls_to_nothing():
    factors = [lr_factor("one_cycle", i / 1000) for i in range(1001)]
    assert factors[0] == pytest.approx(0.04)
    assert max(factors) == factors[250] == pytest.approx(1.0)
    assert factors[:251] == sorted(factors[:251])
    assert factors[250:] == sorted(factors[250:], reverse=True)
    assert factors[1000] == pytest.approx(0.0, abs=1e-9)
    assert lr_factor("constant", 0.9) == 1.0


def test_the_schedule_spans_the_whole_training(data: TrainingData):
    """Eight batches an epoch: the last one of each shows where the schedule is."""
    how = recipe("adam", schedule="one_cycle")
    rates = [result.metrics["lr"] for result in finish(a_training(data, how, epochs=4))]
    assert rates == pytest.approx([2e-3 * lr_factor("one_cycle", (epoch + 7 / 8) / 4) for epoch in range(4)])


def test_a_batch_larger_than_the_data_is_the_data(data: TrainingData):
    results = finish(a_training(data, recipe(batch_size=10_000), epochs=1))
    assert 0 <= results[0].metrics["train/accuracy"] <= 1


def test_optimizers_are_what_they_are_called():
    parameters = [nn.Parameter(torch.zeros(2))]
    names = {name: type(make_optimizer(recipe(name), parameters)).__name__ for name in OPTIMIZERS}
    assert names == {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}
    assert make_optimizer(recipe("sgd"), parameters).defaults["nesterov"]
    assert not make_optimizer(recipe("sgd", momentum=0.0), parameters).defaults["nesterov"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("error", [AttributeError, KeyError, TypeError, RuntimeError])
def test_where_torch_has_other_private_kernels_its_own_step_is_taken(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch, optimizer: str, error: type[Exception]
):
    expected = a_training(data, recipe(optimizer, weight_decay=1e-3), epochs=1)
    finish(expected)

    def changed() -> None:
        raise error("this is no more")

    monkeypatch.setattr("objectives.images.training.optimizers.fused_step", lambda optimizer: changed)
    training = a_training(data, recipe(optimizer, weight_decay=1e-3), epochs=1)
    finish(training)
    assert equal(weights(training), weights(expected))


def test_no_memory_to_try_a_step_is_said(monkeypatch: pytest.MonkeyPatch):
    def no_room() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("objectives.images.training.optimizers.fused_step", lambda optimizer: no_room)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        prepare_step(make_optimizer(recipe(), [nn.Parameter(torch.zeros(2))]), WeightDecay([], 0.0, torch.ones(())))


# What is left, and failure ------------------------------------------------------------------------------------------


def test_an_outcome_is_there_after_any_pull(data: TrainingData):
    training = a_training(data, recipe())
    next(training)
    outcome = training.outcome()
    assert outcome.predictions is not None
    assert outcome.predictions.shape == (64, 4)
    assert outcome.predictions.sum(1) == pytest.approx([1.0] * 64, abs=1e-5)
    assert outcome.metrics["parameters"] == sum(p.numel() for p in network().parameters())
    assert outcome.metrics["train_seconds"] > 0
    again = network().eval()
    again.load_state_dict(weights(training))
    _, _, rows = evaluate(again, data.images, data.labels, data.validation)
    assert rows.numpy() == pytest.approx(outcome.predictions, abs=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_loss_that_is_not_finite_ends_the_training(data: TrainingData, optimizer: str):
    training = a_training(data, recipe(optimizer, lr=1e30, schedule="constant"), epochs=5)
    with pytest.raises(Diverged, match=r"the (training|validation) loss became (nan|inf|-inf)"):
        finish(training)


# The objective ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> ImageClassification:
    objective = ImageClassification("digits")
    objective.prepare()
    return objective


def test_every_baseline_learns_digits(digits: ImageClassification):
    for name, params in digits.baselines().items():
        training = digits.start(Task(0, dict(params), 1, 2), "cpu")
        values = [next(training).value, next(training).value]
        assert values[1] is not None, name
        assert values[1] > 0.8, name


def test_a_winner_is_scored_on_the_test_split_from_its_weights_alone(digits: ImageClassification):
    params = dict(next(iter(digits.baselines().values())))
    training = digits.start(Task(0, params, 1, 2), "cpu")
    next(training)
    next(training)
    stored = training.outcome().weights
    assert stored is not None
    score = digits.score_test(digits.load_weights(params, stored), "cpu")
    assert score.accuracy == pytest.approx(float((score.probabilities.argmax(1) == score.labels).mean()))
    assert score.accuracy > 0.8
    assert math.isfinite(score.loss)


@pytest.mark.slow
def test_a_worker_computes_without_slow_denormal_numbers_and_the_compiler_and_alone_on_all_its_cores():
    program = """
        import sys
        import torch
        from objectives.base import Task
        from objectives.images import ImageClassification
        from objectives.spec import ObjectiveSpec
        from objectives.worker.messages import Finished, WorkerSettings
        from objectives.worker.worker import Worker

        spec = ObjectiveSpec("objectives.images:ImageClassification", {"dataset": "digits", "data_dir": None})
        worker = Worker(WorkerSettings(spec, "cpu", index=0, threads=1, threads_alone=2))
        adam = worker.objective.baselines()["tutorial MLP, Adam"]
        for optimizer, lr in {"sgd": "sgd_lr", "adam": "adam_lr", "adamw": "adam_lr", "rmsprop": "rmsprop_lr"}.items():
            worker.start(Task(0, {**adam, "optimizer": optimizer, lr: 1e-3, "sgd_momentum": 0.5}, seed=0, epochs=1))
            worker.checkpoint()
            assert isinstance(worker.stop(), Finished)
        print("torch._dynamo" in sys.modules, (torch.tensor([1e-38]) * 0.1).item())

        class Own(ImageClassification):
            def suggest_network(self, trial):
                return {"width": trial.suggest_int("width", 4, 12)}

            def build_network(self, params):
                return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

        for target, size in ((spec.target, None), (spec.target, 16), ("__main__:Own", None)):
            # the space's networks for tiny images are faster on one core
            spec = ObjectiveSpec(target, {**spec.options, "image_size": size})
            worker = Worker(WorkerSettings(spec, "cpu", index=0, threads=1, threads_alone=2))
            for refit in (True, False):
                worker.start(Task(0, {**adam, "width": 8}, seed=0, epochs=1, refit=refit))
                print(torch.get_num_threads())
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "0.0", "1", "1", "2", "1", "2", "1"]
