"""Networks of a subclass: they train, resume, load and travel as the built-in ones do."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.samplers import RandomSampler
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from trainings import finish, recipe, told

from objectives.base import Checkable, Params, Suggest, Task
from objectives.images import ImageClassification
from objectives.images.baselines import TUTORIAL
from objectives.images.models import MirrorAveraged
from objectives.images.training.cuda_graphs import graph_key
from objectives.images.training.loop import ImageTraining, evaluate, logits_of
from objectives.images.training.update import to_unit
from objectives.spec import ObjectiveSpec
from search.commands.setup import SearchPlan
from search.common.config import Config
from search.study.space.space import narrow, search_space
from search.testing.checks import CHECKS
from search.testing.findings import examine
from search.testing.specimen import Specimen

TRAINING: Params = {**TUTORIAL, "optimizer": "adam", "adam_lr": 1e-3, "weight_decay": 1e-2}
DIGITS = {"dataset": "digits"}


class Unchanged(ImageClassification):
    """Overrides nothing."""


class Nets(ImageClassification):
    """A convolution of some width, and a dropout that no layer shows."""

    def suggest_network(self, trial: Suggest) -> Params:
        return {"width": trial.suggest_int("width", 4, 12, step=4), "dropout": trial.suggest_float("dropout", 0.0, 0.5)}

    def build_network(self, params: Any) -> nn.Module:
        return Net(self.channels, n_classes=self.n_classes, **params)


class Net(nn.Module):
    def __init__(self, channels: int, n_classes: int, width: int, dropout: float) -> None:
        super().__init__()
        self.rate = dropout
        self.conv, self.out = nn.Conv2d(channels, width, 3, padding=1), nn.Linear(width, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.conv(images)).mean((2, 3))
        return self.out(nn.functional.dropout(features, self.rate, self.training))


class Odd(Nets):
    """Everything that trainings could trip over: `view`, lazy layers, frozen and unused ones, and numbers for them."""

    def build_network(self, params: Any) -> nn.Module:
        return OddNet(params["width"])


class OddNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.rates = torch.linspace(0, 0.1, 2).tolist()  # which torch's meta device cannot
        self.conv = nn.Sequential(nn.LazyConv2d(width, 3), nn.LazyBatchNorm2d())
        self.frozen = nn.Conv2d(width, width, 1).requires_grad_(False)
        self.unused = nn.Linear(3, 4)
        self.out = nn.LazyLinear(10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.frozen(self.conv(images))
        return self.out(nn.functional.dropout(features.view(images.shape[0], -1), self.rates[1], self.training))


def made(kind: type[ImageClassification]) -> ImageClassification:
    objective = kind("digits")
    objective.prepare()
    return objective


def drawn(objective: ImageClassification, n: int = 12) -> list[Params]:
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    return [objective.suggest(study.ask()) for _ in range(n)]


def trained(objective: ImageClassification, params: Params, **task: Any) -> ImageTraining:
    training = objective.start(Task(0, params, 1, 2, **task), "cpu")
    assert isinstance(training, ImageTraining)
    return training


# The class itself ---------------------------------------------------------------------------------------------------


def test_a_subclass_that_overrides_nothing_is_the_class_itself():
    ours, theirs = made(ImageClassification), made(Unchanged)
    assert (theirs.name, theirs.has_own_networks) == (ours.name, False)
    assert drawn(theirs) == drawn(ours)
    assert theirs.baselines() == ours.baselines()
    for params in ours.baselines().values():
        theirs.check(params)
        assert theirs.describe(params) == ours.describe(params)
        assert theirs.n_parameters(params) == ours.n_parameters(params)
    params = ours.baselines()["tutorial CNN, Adam"]
    one, two = trained(ours, params), trained(theirs, params)
    assert told(finish(two)) == told(finish(one))
    assert two.outcome().weights == one.outcome().weights


def test_stored_weights_of_the_built_in_networks_keep_their_names():
    """Or else nothing that was trained before could be loaded."""
    ours = made(ImageClassification)
    mlp, cnn = (
        set(ours.build_model(ours.baselines()[f"tutorial {kind}, Adam"]).state_dict()) for kind in ("MLP", "CNN")
    )
    dense = {f"{layer}.{part}" for layer in (2, 4, 6) for part in ("weight", "bias")}
    assert mlp == {"0.mean", "0.std", *dense}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert {name for name in cnn if name.split(".")[0] in "012"} == {
        "0.mean",
        "0.std",
        "1.weight",
        *(f"2.{n}" for n in norm),
    }


def test_the_built_in_networks_begin_with_the_weights_of_their_seed():
    ours = made(ImageClassification)
    torch.manual_seed(7)
    expected = nn.Linear(64, 512)
    torch.manual_seed(7)
    found: Any = ours.build_model(ours.baselines()["tutorial MLP, Adam"])
    assert torch.equal(found[2].weight, expected.weight)


# Own networks -------------------------------------------------------------------------------------------------------


def test_own_networks_have_their_parameters_and_the_training_its_own():
    objective = made(Nets)
    assert isinstance(objective, Checkable)
    assert (objective.channels, objective.size, objective.n_classes) == (1, (8, 8), 10)
    assert {*search_space(objective)} > {"width", "dropout", "optimizer", "batch_size", "rotation_zoom"}
    assert not {name for name in search_space(objective) if name.startswith(("family", "mlp", "cnn"))}
    assert (objective.name, objective.baselines()) == ("digits-Nets", {})
    params: Params = {"width": 8, "dropout": 0.25, **TRAINING}
    assert objective.describe(params) == "width=8 dropout=0.25 adam 1.0e-3"
    assert objective.n_parameters(params) == (9 * 8 + 8) + (8 * 10 + 10)
    assert objective.latency_ms(params, "cpu") > 0
    fixed = narrow(objective, ["width=8"])
    assert {fixed.suggest(objective, optuna.create_study().ask())["width"] for _ in range(5)} == {8}


def test_a_subclass_chooses_its_name_and_its_words():
    class Named(Nets):
        name = "mine"

        def describe_network(self, params: Params) -> str:
            return f"net {params['width']}"

    assert Named("digits").name == "mine"
    assert Named("digits").describe({"width": 8, **TRAINING}) == "net 8 adam 1.0e-3"


def test_a_fixed_network_has_no_parameters():
    class Fixed(Nets):
        def suggest_network(self, trial: Suggest) -> Params:
            return {}

        def build_network(self, params: Params) -> nn.Module:
            assert params == {}
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    objective = made(Fixed)
    (params,) = drawn(objective, 1)
    objective.check(params)
    assert objective.describe(params).startswith("Fixed ")


def test_the_normalisation_is_part_of_the_model():
    objective = made(Nets)
    model: Any = objective.build_model({"width": 8, "dropout": 0.0, **TRAINING})
    images = torch.from_numpy(objective.dataset.images[objective.dataset.train] / 255).float()
    seen: list[Tensor] = []
    model.network.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    model(images)
    assert (seen[0].mean().item(), seen[0].std().item()) == pytest.approx((0, 1), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Nets, Odd])
def test_own_networks_keep_the_whole_contract(kind: type[ImageClassification]):
    specimen = Specimen.of(ObjectiveSpec(f"test_own_networks:{kind.__name__}", DIGITS))
    assert [
        (found.title, found.wrong, found.not_tried)
        for found in examine(specimen, CHECKS)
        if found.wrong or found.not_tried
    ] == []


class View(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.view(features.shape[0], -1)


@pytest.mark.parametrize(("flatten", "is_fast"), [(nn.Flatten, True), (View, False)])
def test_convolutions_train_in_the_fast_memory_format_if_the_network_takes_it(flatten: type[nn.Module], is_fast: bool):
    class Plain(Nets):
        def build_network(self, params: Params) -> nn.Module:
            return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), flatten(), nn.Linear(128, 10))

    training = trained(made(Plain), {"width": 8, "dropout": 0.1, **TRAINING})
    next(training)
    assert training.model.network[1].weight.is_contiguous(memory_format=torch.channels_last) == is_fast


def test_the_built_in_networks_train_in_the_fast_memory_format():
    objective = made(ImageClassification)
    model = trained(objective, objective.baselines()["tutorial CNN, Adam"]).model
    weights = [weight for weight in model.parameters() if weight.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert not all(weight.is_contiguous() for weight in weights)


def test_layers_without_a_gradient_stay_and_the_others_learn():
    objective = made(Odd)
    training = trained(objective, {"width": 8, "dropout": 0.1, **TRAINING, "optimizer": "adamw"})
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    finish(training)
    after = training.model.state_dict()
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed >= {"conv", "out"}
    assert "frozen" not in changed


def test_a_training_continues_and_its_weights_load():
    objective, params = made(Odd), {"width": 8, "dropout": 0.1, **TRAINING}
    whole = trained(objective, params)
    expected = told(finish(whole))
    first = trained(objective, params)
    next(first)
    second = trained(objective, params, checkpoint=first.checkpoint())
    assert told(finish(second)) == expected[1:]
    outcome = second.outcome()
    weights = outcome.weights
    assert weights is not None
    assert outcome.predictions is not None
    loaded = objective.load_weights(params, weights)
    _, _, rows = evaluate(loaded, second.data.images, second.data.labels, second.data.validation)
    assert rows.numpy() == pytest.approx(outcome.predictions, abs=1e-5)
    assert {*torch.load(io.BytesIO(weights), weights_only=True)} == {*loaded.state_dict()}


@pytest.mark.parametrize("kind", [ImageClassification, Odd])
def test_a_network_trained_with_flips_predicts_with_mirror_images(kind: type[ImageClassification]):
    """In trials, from stored weights, in the exported program, and where its latency is measured."""
    objective = made(kind)
    known: Params = {"width": 8, "dropout": 0.1, **TRAINING}
    params = {**(known if kind is Odd else objective.baselines()["strong CNN, one cycle"]), "flip": True}
    training = trained(objective, params)
    finish(training)
    outcome = training.outcome()
    assert outcome.weights is not None
    plain, averaged = (objective.load_weights({**params, "flip": flip}, outcome.weights) for flip in (False, True))
    pool, index = training.data.images, training.data.validation
    expected = (logits_of(plain, pool, index) + logits_of(plain, pool.flip(3), index)) / 2
    assert torch.allclose(logits_of(averaged, pool, index), expected, atol=1e-5)
    assert expected.softmax(1).detach().numpy() == pytest.approx(outcome.predictions, abs=1e-5)
    images = to_unit(pool[index])
    program = torch.export.export(averaged, (images[:4],), dynamic_shapes=[{0: torch.export.Dim.AUTO}]).module()
    for n in (1, len(images)):
        assert torch.allclose(program(images[:n]), expected[:n], atol=1e-4)
    called: set[type[nn.Module]] = set()
    hook = register_module_forward_hook(lambda module, *_: called.add(type(module)))
    try:
        objective.latency_ms(params, "cpu")
    finally:
        hook.remove()
    assert MirrorAveraged in called


def test_another_machine_gets_the_same_objective():
    objective = made(Nets)
    there = Nets(**objective.portable())
    assert (there.name, there.n_classes, there.fingerprint()) == (objective.name, 10, objective.fingerprint())
    params: Params = {"width": 8, "dropout": 0.1, **TRAINING}
    assert told(finish(trained(there, params))) == told(finish(trained(objective, params)))


def test_networks_that_differ_in_what_no_layer_shows_have_graphs_of_their_own():
    objective = made(Nets)
    data = trained(objective, {"width": 8, "dropout": 0.1, **TRAINING}).data
    rates = (0.1, 0.1, 0.2)
    keys = [graph_key(data, objective.build_model({"width": 8, "dropout": p, **TRAINING}), recipe()) for p in rates]
    assert [key == keys[0] for key in keys] == [True, True, False]


def test_the_check_leaves_no_trace():
    """Nor does it change what a search with the trainings in its own process computes."""
    objective = made(Nets)
    torch.manual_seed(3)
    objective.check({"width": 8, "dropout": 0.1, **TRAINING})
    after = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(4))


def test_a_plan_of_own_networks(tmp_path: Path):
    plan = SearchPlan.of(Config(objective="test_own_networks:Nets", dataset="digits", workspace=tmp_path))
    assert (plan.name, plan.register_as, plan.refits) == ("digits-Nets", "digits-Nets", True)
