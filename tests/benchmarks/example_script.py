"""Optuna's small PyTorch example in form and sizes, written anew, on MNIST's files.

Its public description: https://github.com/optuna/optuna-examples/blob/main/pytorch/pytorch_simple.py. As there: the
study in memory, Optuna's default sampler and pruner, one DataLoader per trial over the whole dataset of which 30
batches of 128 are trained on and 10 validated on, and no tracking. Validation images come from the training files here.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

import optuna
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, random_split
from torchvision import datasets, transforms

BATCH = 128

arguments = argparse.ArgumentParser()
arguments.add_argument("--trials", type=int, required=True)
arguments.add_argument("--epochs", type=int, default=10)
arguments.add_argument("--train-batches", type=int, default=30)
arguments.add_argument("--validation-batches", type=int, default=10)
arguments.add_argument("--seed", type=int, default=0)
given = arguments.parse_args()


def network(trial: optuna.Trial) -> nn.Sequential:
    """One to three layers."""
    layers: list[nn.Module] = []
    width = 28 * 28
    for layer in range(trial.suggest_int("n_layers", 1, 3)):
        n_out = trial.suggest_int(f"n_units_l{layer}", 4, 128)
        layers += [nn.Linear(width, n_out), nn.ReLU(), nn.Dropout(trial.suggest_float(f"dropout_l{layer}", 0.2, 0.5))]
        width = n_out
    return nn.Sequential(*layers, nn.Linear(width, 10), nn.LogSoftmax(dim=1))


def loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Shuffled, with the library's defaults."""
    whole = datasets.MNIST(os.environ["SEARCH_DATA_DIR"], train=True, download=False, transform=transforms.ToTensor())
    train, validation = random_split(whole, [50_000, 10_000], generator=torch.Generator().manual_seed(0))
    return DataLoader(train, BATCH, shuffle=True), DataLoader(validation, BATCH, shuffle=True)


def objective(trial: optuna.Trial) -> float:
    """One training."""
    model = network(trial)
    name = trial.suggest_categorical("optimizer", ["Adam", "RMSprop", "SGD"])
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=trial.suggest_float("lr", 1e-5, 1e-1, log=True))
    train, validation = loaders()
    for epoch in range(given.epochs):
        model.train()
        for batch, (images, labels) in enumerate(train):
            if batch == given.train_batches:
                break
            optimizer.zero_grad()
            F.nll_loss(model(images.view(len(images), -1)), labels).backward()
            optimizer.step()
        model.eval()
        correct = n = 0
        with torch.no_grad():
            for batch, (images, labels) in enumerate(validation):
                if batch == given.validation_batches:
                    break
                correct += (model(images.view(len(images), -1)).argmax(1) == labels).sum().item()
                n += len(labels)
        accuracy = correct / n
        trial.report(accuracy, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return accuracy


if __name__ == "__main__":
    torch.manual_seed(given.seed)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=given.seed))
    study.optimize(objective, n_trials=given.trials)
    pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in study.trials)
    print(json.dumps({"best": study.best_value, "pruned": pruned}))
