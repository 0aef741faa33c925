"""Versions of a model in MLflow's registry, added and promoted as a search does it."""

from __future__ import annotations

import mlflow

from search.tracking.registry.promotion import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    aliases_of,
    promote_if_better,
    set_challenger,
)
from search.tracking.registry.version import why_not_champion

UP = {"direction": "maximize"}


def add(client: mlflow.MlflowClient, score: float | None, name: str = "toy", **protocol: str) -> str:
    """A version with a score, without a model behind it."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    tags = {f"protocol.{key}": value for key, value in ({**UP, "metric": "accuracy", "epochs": "4"} | protocol).items()}
    tags |= {} if score is None else {"validation": repr(score)}
    return str(client.create_model_version(name, "file:///nowhere", tags=tags).version)


def alias(client: mlflow.MlflowClient, alias: str, name: str = "toy") -> str | None:
    version = aliases_of(client.get_registered_model(name)).get(alias)
    return None if version is None else str(version)


def aliases(client: mlflow.MlflowClient, name: str = "toy") -> tuple[str | None, str | None]:
    return alias(client, CHAMPION, name), alias(client, CHALLENGER, name)


def previous(client: mlflow.MlflowClient) -> str | None:
    return alias(client, PREVIOUS)


def register(client: mlflow.MlflowClient, score: float, **protocol: str) -> str:
    """Do what a search does; return why its version is not the champion."""
    own = add(client, score, **protocol)
    champion = promote_if_better(client, "toy", own)
    if champion == own:
        return ""
    set_challenger(client, "toy", own)
    return why_not_champion(client, "toy", own, champion)
