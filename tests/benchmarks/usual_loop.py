"""The tutorials' training loop: a DataLoader with its defaults, ToTensor for every image of every epoch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, random_split
from torchvision import datasets, transforms


def load_data(n_train: int, n_validation: int) -> tuple[Dataset[Any], Dataset[Any]]:
    """MNIST's training images, split as the tutorials do; fewer of them for a smoke test."""
    whole = datasets.MNIST(os.environ["SEARCH_DATA_DIR"], train=True, download=False, transform=transforms.ToTensor())
    train, validation = random_split(whole, [50_000, 10_000], generator=torch.Generator().manual_seed(0))
    return Subset(train, range(n_train)), Subset(validation, range(n_validation))


def train_epoch(
    model: nn.Module, loader: DataLoader[Any], optimizer: torch.optim.Optimizer, device: str = "cpu"
) -> float:
    """One epoch; gives the mean loss."""
    model.train()
    total = 0.0
    for images, labels in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images.to(device)), labels.to(device))
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


def validate(model: nn.Module, loader: DataLoader[Any], device: str = "cpu") -> float:
    """Accuracy on the validation split."""
    model.eval()
    correct = n = 0
    with torch.no_grad():
        for images, labels in loader:
            correct += (model(images.to(device)).argmax(1) == labels.to(device)).sum().item()
            n += len(labels)
    return correct / n


def build(params: Mapping[str, Any]) -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(28 * 28, params["hidden"]),
        nn.ReLU(),
        nn.Dropout(params["dropout"]),
        nn.Linear(params["hidden"], 10),
    )
