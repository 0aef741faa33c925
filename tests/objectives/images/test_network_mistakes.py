"""Networks that cannot work: each mistake is named before a search writes anything."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from shell import search
from torch import Tensor, nn

from objectives.base import ObjectiveError, Suggest
from objectives.images import ImageClassification
from objectives.spec import ObjectiveSpec
from search.cli.main import cli
from search.commands.setup import load_objective


class Nets(ImageClassification):
    def suggest_network(self, trial: Suggest) -> Any:
        return {"width": trial.suggest_int("width", 4, 12)}


class Layer(nn.Module):
    """A linear layer behind a function."""

    def __init__(self, forward: Callable[[nn.Linear, Tensor], Any], inputs: int = 64) -> None:
        super().__init__()
        self.out, self.function = nn.Linear(inputs, 10), forward

    def forward(self, images: Tensor) -> Any:
        return self.function(self.out, images)


class InTraining(Layer):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images) if self.training else logits(self.out, images)


def logits(out: nn.Linear, images: Tensor) -> Tensor:
    result: Tensor = out(images.flatten(1))
    return result


def named(name: str) -> nn.Module:
    network = nn.Sequential(nn.Flatten())
    network.add_module(name, nn.Linear(64, 10))
    return network


def with_mask(size: int) -> nn.Module:
    network = Layer(logits)
    network.register_buffer("mask", torch.rand(size), persistent=False)
    return network


LAYERS = iter(range(2, 10**6))
BUILT: dict[str, tuple[Callable[[], Any], str]] = {
    "Raises": (lambda: {}["width"], r"build_network failed: KeyError: 'width' \(test_network_mistakes.py, line \d+\)"),
    "Nothing": (lambda: None, r"build_network gave None; give a torch.nn.Module: return is missing"),
    "Wrong": (lambda: Layer(lambda out, x: logits(out, x)[:, :5]), r"made float32 \(4, 5\) of images \(4, 1, 8, 8\)"),
    "Whole": (
        lambda: Layer(lambda out, x: logits(out, x).argmax(1)),
        r"made int64 \(4,\) of images .*; give logits of",
    ),
    "Two": (lambda: Layer(lambda out, x: (logits(out, x), x)), r"made \(tensor.* of images .*; give logits of"),
    "TwoInTraining": (
        lambda: InTraining(lambda out, x: (logits(out, x), x)),
        r"made \(tensor.* of images \(4, 1, 8, 8\) in training; give logits of",
    ),
    "Parentheses": (lambda: named("conv(3x3)"), r"build_network: rename layer 'conv\(3x3\)"),
    "Brackets": (lambda: named("block[0]"), r"build_network: rename layer 'block\[0\]"),
    "Quote": (lambda: named("it's"), r"build_network: rename layer \"it's.*letters, digits, underscores"),
    "Mask": (
        lambda: with_mask(3),
        r"the buffer network.mask is not stored with the weights, and differs in each build",
    ),
    "Grows": (lambda: with_mask(next(LAYERS)), r"two different networks from equal"),
    "Few": (
        lambda: Layer(lambda out, x: logits(out, x) * (1 if x.shape[0] <= 64 else 2)),
        r"the exported network takes at most 64 images in a batch; the number of images must not decide",
    ),
    "Squeezed": (
        lambda: Layer(lambda out, x: logits(out, x).squeeze()),
        r"made float32 \(10,\) of images \(1, 1, 8, 8\)",
    ),
    "Unfit": (lambda: Layer(logits, inputs=65), r"the network failed for images \(4, 1, 8, 8\): RuntimeError: .*4x64"),
    "Detached": (lambda: Layer(lambda out, x: logits(out, x).detach()), r"cannot be trained: RuntimeError: element 0"),
    "Fixed": (lambda: Layer(logits).requires_grad_(False), r"gave a network without weights to train"),
    "Random": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, next(LAYERS))), r"two different networks from equal"),
    "Branches": (
        lambda: Layer(lambda out, x: logits(out, x) * (1 if x.sum() > 0 else 2)),
        r"torch.export cannot export .* torch says: GuardOnDataDependent.*\(test_network_mistakes.py, line \d+\)",
    ),
    "Batched": (
        lambda: Layer(lambda out, x: logits(out, x) * (1 if len(x) == 4 else 2)),
        r"torch.export cannot export the network, so its winner could not be registered.* torch says: ",
    ),
    "Length": (
        lambda: Layer(lambda out, x: out(x.view(len(x), -1))),
        r"write x.shape\[0\] or x.flatten\(1\), not len\(x\)\. torch says: .*size\(\)\[0\] == 4",
    ),
    "Numpy": (lambda: Layer(lambda out, x: logits(out, torch.from_numpy(x.numpy()))), r"torch.export cannot export"),
}
SUGGESTED: dict[str, tuple[Callable[[Suggest], Any], str]] = {
    "NoDict": (lambda trial: None, r"suggest_network gave None; give a dict of parameters: return is missing"),
    "Taken": (
        lambda trial: {"batch_size": trial.suggest_int("width", 1, 2)},
        r"suggest_network uses batch_size, which",
    ),
    "Asked": (
        lambda trial: {"decay": trial.suggest_float("weight_decay", 0, 1)},
        r"suggest_network uses weight_decay, .*; use another name, such as network_weight_decay",
    ),
    "Tuple": (lambda trial: {"kernel": (trial.suggest_int("k", 1, 2),)}, r"suggest gave 'kernel': .*; parameters are"),
    "Misspelt": (lambda trial: trial.suggest_it("k"), r"suggest used trial.suggest_it, which is not there"),  # type: ignore
    "Alone": (
        lambda trial: {"width": trial.suggest_int("width", 1, 2)},
        r"Alone samples networks .*; add build_network",
    ),
}
MISTAKES = {name: pattern for name, (_, pattern) in (BUILT | SUGGESTED).items()}  # type: ignore[operator]


def __getattr__(name: str) -> type[ImageClassification]:
    """A class for each mistake, as a user's module has one."""
    if name in BUILT:
        return type(name, (Nets,), {"build_network": lambda self, params: BUILT[name][0]()})
    if name in SUGGESTED:
        return type(name, (ImageClassification,), {"suggest_network": lambda self, trial: SUGGESTED[name][0](trial)})
    raise AttributeError(name)


@pytest.mark.parametrize(("name", "pattern"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_named_before_a_search(name: str, pattern: str, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(ObjectiveError, match=pattern):
        load_objective(ObjectiveSpec(f"test_network_mistakes:{name}", {"dataset": "digits"}))
    assert capfd.readouterr().err == ""


def test_a_search_of_a_network_that_cannot_be_exported_writes_nothing(tmp_path: Path):
    words = ["--objective", "test_network_mistakes:Branches", "--dataset", "digits", "--workspace", str(tmp_path)]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 1
    assert re.search("torch.export cannot export the network", result.output + str(result.exception))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_check_objective_names_the_mistake(tmp_path: Path):
    """In a process of its own, as a user has it: it forks, which a process that has trained must not do."""
    result = search("check-objective", f"{__file__}:Batched", "--dataset", "digits", cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    found = re.search(r"wrong  Its own check passes.*\n +torch.export cannot export the network", result.stdout)
    assert found, result.stdout
