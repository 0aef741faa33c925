"""Decides which version of a registered model is the champion.

A search compares all versions and moves the alias to the best one. MLflow's registry has no compare-and-set, so the
search then looks again: the last search to look has seen every version. A search that is killed in between can leave
the alias behind; the next registration moves it.

A version that a user promotes competes with later versions only, and a tag of the model keeps that choice. A move on
MLflow's page leaves no tag. It is recognised because a search never moves the alias to an older or worse version.

Functions raise TrackingError if MLflow rejects a move.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from search.common.errors import ModelNotFoundError, TrackingError
from search.tracking.registry.version import ScoredVersion, model_names, versions
from search.tracking.store import retry

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous-champion"
USER_CHOICE_TAG = "champion_by_hand"  # VERSION/NEWEST: the version that a user promoted, the newest at that time
MAX_LOOKS = 60
MAX_UNEXPLAINED = 15  # looks, 0.1 s apart, until an alias counts as moved by a user and not by another search


def successive_champions(
    versions: Sequence[ScoredVersion], user_choice: tuple[int, int] | None = None, current: int | None = None
) -> list[int]:
    """Return the versions that became champion in turn, each better than the one before; the last is the best.

    versions: all of them, oldest first. user_choice: as in `USER_CHOICE_TAG`; ignored once that version is deleted.
    current: the version with the alias. Only versions compete that were measured like the user's choice, or like the
    current champion, or like the first version with a score.
    """
    scored = [version for version in versions if version.score is not None]
    chosen, newest = user_choice or (0, 0)
    base = next((version for version in versions if version.number == chosen), None)
    if base is not None and base.score is None:
        return [base.number]
    if base is not None:
        scored = [base, *(version for version in scored if version.number > newest)]
    if not scored:
        return []
    reference = base or next((version for version in scored if version.number == current), scored[0])
    best: list[ScoredVersion] = []
    for version in scored:
        if version.protocol == reference.protocol and (not best or version.beats(best[-1])):
            best.append(version)
    return [version.number for version in best]


def promote_if_better(client: MlflowClient, name: str, registered: str) -> str:
    """Move the alias to the best version after a registration. Return the champion's version."""
    moved, unexplained = set[int](), 0
    for _ in range(MAX_LOOKS):
        aliases, user_choice, scored = _read(client, name)
        current, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS)
        order = successive_champions(scored, user_choice, current)
        if order[-1] == current:
            return str(current)
        # Searches move the alias forward in `order`: anything else is a user's move, or one that is under way.
        went_back = current not in order or (previous in order and order.index(previous) >= order.index(current))
        if current is None or current in moved or not went_back:
            _move_alias(client, name, order[-1], current)
            moved.add(order[-1])
        elif (unexplained := unexplained + 1) > MAX_UNEXPLAINED:
            before = max((version for version in order if version < int(registered)), default=None)
            _keep_choice(client, name, current, before, newest=int(registered) - 1)
        time.sleep(random.uniform(0.0, 0.2))
    raise TrackingError(f"other searches keep moving the alias {CHAMPION} of {name}; type the same command again")


def set_challenger(client: MlflowClient, name: str, version: str) -> None:
    """Give the alias `challenger` to a version, unless a newer version has it."""
    for _ in range(MAX_LOOKS):  # looks again after each move, as other searches may move it too
        model = _call(name, client.get_registered_model)
        if aliases_of(model).get(CHALLENGER, 0) >= int(version):
            return
        _call(name, client.set_registered_model_alias, CHALLENGER, version)


def set_champion(client: MlflowClient, name: str, version: str) -> None:
    """Promote a version that a user chose. Raises ModelNotFoundError if it does not exist."""
    aliases, _, scored = _read(client, name)
    numbers = [str(entry.number) for entry in scored]
    if version not in numbers:
        raise ModelNotFoundError(f"there is no version {version} of {name!r}; it has {', '.join(numbers)}")
    _keep_choice(client, name, int(version), aliases.get(CHAMPION), newest=scored[-1].number)


def rollback(client: MlflowClient, name: str) -> tuple[str, str]:
    """Swap the champion with the previous champion. Return the old and the new one.

    Raises ModelNotFoundError if either is missing.
    """
    aliases, _, scored = _read(client, name)
    current, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS)
    command = f"to choose one, type: python -m search promote {name}/VERSION"
    if current is None:
        raise ModelNotFoundError(f"{name} has no champion; {command}")
    if previous is None or previous == current:
        raise ModelNotFoundError(f"no champion of {name} before version {current} is known; {command}")
    _keep_choice(client, name, previous, current, newest=scored[-1].number)
    return str(current), str(previous)


def aliases_of(model: RegisteredModel) -> dict[str, int]:
    """Return the version behind each alias of a model."""
    return {alias: int(version) for alias, version in model.aliases.items()}


def _read(client: MlflowClient, name: str) -> tuple[dict[str, int], tuple[int, int] | None, list[ScoredVersion]]:
    """Read a model's aliases, the user's choice, and only then all versions. Raises ModelNotFoundError."""
    models = _call(name, lambda name: client.search_registered_models(f"name = '{name}'"))
    scored = [ScoredVersion.of(version) for version in _call(name, lambda name: versions(client, name))]
    if not models or not scored:
        raise ModelNotFoundError(f"there is no model {name!r} with versions; registered here: {model_names(client)}")
    version, _, newest = models[0].tags.get(USER_CHOICE_TAG, "").partition("/")
    return aliases_of(models[0]), (int(version), int(newest)) if newest else None, scored


def _call(name: str, method: Callable[..., Any], *args: str) -> Any:
    """Call a method of MLflow's client for a model, and retry it."""
    return retry(f"the aliases of {name} cannot be set", lambda: method(name, *args))


def _keep_choice(client: MlflowClient, name: str, version: int, before: int | None, *, newest: int) -> None:
    """Keep a user's choice against the versions up to `newest`, and move the alias."""
    _call(name, client.set_registered_model_tag, USER_CHOICE_TAG, f"{version}/{newest}")
    _move_alias(client, name, version, before)


def _move_alias(client: MlflowClient, name: str, version: int, before: int | None) -> None:
    """Make a version the champion, and nothing else, and `before` the previous champion."""
    _call(name, client.set_registered_model_alias, CHAMPION, str(version))
    if before not in (None, version):
        _call(name, client.set_registered_model_alias, PREVIOUS, str(before))
    aliases = aliases_of(_call(name, client.get_registered_model))
    for alias in (CHALLENGER, PREVIOUS):
        if aliases.get(alias) == version:
            _call(name, client.delete_registered_model_alias, alias)
