"""Which version of a registered model is the champion, and what moves the alias.

MLflow's registry has no compare-and-set. A search therefore compares all versions, moves the alias to the best one, and
looks once more. The last search to look has seen every version, so the alias ends at the best. A search that is killed
before it looks again can leave the alias behind; the next one that registers a version moves it.

A version promoted by hand competes only with later versions. A tag of the model keeps that choice. A move on MLflow's
page leaves no tag, but it shows: a search never moves the alias to an older or a worse version.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from search.common.errors import ModelNotFoundError, TrackingError
from search.common.passwords import first_line
from search.tracking.registry.comparison import Entry, champions, versions
from search.tracking.store import is_denied

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous-champion"
BY_HAND_TAG = "champion_by_hand"
"""A model's tag, `VERSION/NEWEST`: the version promoted by hand, and the newest version at that time."""
TRIES = 60
DOUBTS = 15
"""Looks, about 0.1 s apart, before an unexplained alias counts as moved by hand: another search may be moving it."""
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
"""Errors that a repetition does not help. BAD_REQUEST is not one: writers that collide get it."""


def model_names(client: MlflowClient) -> str:
    """List the registered models for a message."""
    return ", ".join(sorted(model.name for model in client.search_registered_models())) or "none"


def alias(model: RegisteredModel, name: str) -> str | None:
    """Return the version that an alias points to."""
    return str(model.aliases[name]) if name in model.aliases else None


def promote_if_better(client: MlflowClient, name: str, own: str) -> str:
    """Move the alias to the best version, now that version `own` is registered. Return the champion's version.

    Raises TrackingError when MLflow refuses, or when other searches keep moving the alias.
    """
    moved, doubts = set[int](), 0
    for _ in range(TRIES):
        aliases, by_hand, entries = _look(client, name)
        present, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS)
        order = champions(entries, by_hand, present)
        if order[-1] == present:
            return str(present)
        # Searches move the alias forward in `order`: anything else is a user's move, or one that is under way.
        went_back = present not in order or (previous in order and order.index(previous) >= order.index(present))
        if present is None or present in moved or not went_back:
            _move(client, name, order[-1], present)
            moved.add(order[-1])
        elif (doubts := doubts + 1) > DOUBTS:
            before = max((version for version in order if version < int(own)), default=None)
            _promote_by_hand(client, name, present, before, newest=int(own) - 1)
        time.sleep(random.uniform(0.0, 0.2))
    raise TrackingError(f"other searches keep moving the alias {CHAMPION} of {name}; type the same command again")


def set_challenger(client: MlflowClient, name: str, version: str) -> None:
    """Give the alias `challenger` to a version that is not the champion, unless a newer version has it."""
    for _ in range(TRIES):
        present = alias(_retry(name, client.get_registered_model, name), CHALLENGER)
        if present is not None and int(present) >= int(version):
            return
        _retry(name, client.set_registered_model_alias, name, CHALLENGER, version)


def set_champion(client: MlflowClient, name: str, version: str) -> None:
    """Promote a version by hand.

    Raises ModelNotFoundError when there is no such version, TrackingError when MLflow refuses.
    """
    aliases, _, entries = _look(client, name)
    known = [str(entry.version) for entry in entries]
    if version not in known:
        raise ModelNotFoundError(f"there is no version {version} of {name!r}; it has {', '.join(known)}")
    _promote_by_hand(client, name, int(version), aliases.get(CHAMPION), newest=int(known[-1]))


def rollback(client: MlflowClient, name: str) -> tuple[str, str]:
    """Swap the champion and the champion before it. Return both, the one that had the alias first.

    Raises ModelNotFoundError when either is missing, TrackingError when MLflow refuses.
    """
    aliases, _, entries = _look(client, name)
    present, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS)
    command = f"to choose one, type: python -m search promote {name}/VERSION"
    if present is None:
        raise ModelNotFoundError(f"{name} has no champion; {command}")
    if previous is None or previous == present:
        raise ModelNotFoundError(f"no champion of {name} before version {present} is known; {command}")
    _promote_by_hand(client, name, previous, present, newest=entries[-1].version)
    return str(present), str(previous)


def _look(client: MlflowClient, name: str) -> tuple[dict[str, int], tuple[int, int] | None, list[Entry]]:
    """Read a model's aliases, the choice made by hand, and then all versions. Raises ModelNotFoundError."""
    models = _retry(name, client.search_registered_models, f"name = '{name}'")
    entries = [Entry.of(version) for version in _retry(name, versions, client, name)]
    if not models or not entries:
        raise ModelNotFoundError(f"there is no model {name!r} with versions; registered here: {model_names(client)}")
    version, _, newest = models[0].tags.get(BY_HAND_TAG, "").partition("/")
    by_hand = (int(version), int(newest)) if newest else None
    return {name: int(number) for name, number in models[0].aliases.items()}, by_hand, entries


def _promote_by_hand(client: MlflowClient, name: str, version: int, before: int | None, *, newest: int) -> None:
    """Keep a user's choice against the versions up to `newest`, and move the alias."""
    _retry(name, client.set_registered_model_tag, name, BY_HAND_TAG, f"{version}/{newest}")
    _move(client, name, version, before)


def _move(client: MlflowClient, name: str, version: int, before: int | None) -> None:
    """Make a version the champion, and `before` the champion before it. It loses its other aliases."""
    _retry(name, client.set_registered_model_alias, name, CHAMPION, str(version))
    if before not in (None, version):
        _retry(name, client.set_registered_model_alias, name, PREVIOUS, str(before))
    model = _retry(name, client.get_registered_model, name)
    for other in (CHALLENGER, PREVIOUS):
        if alias(model, other) == str(version):
            _retry(name, client.delete_registered_model_alias, name, other)


def _retry(name: str, call: Callable[..., Any], *args: Any) -> Any:
    """Call MLflow again while SQLite is busy or other writers collide. Raises TrackingError when MLflow refuses."""
    import mlflow

    for attempt in range(TRIES):
        try:
            return call(*args)
        except mlflow.exceptions.MlflowException as error:
            if is_denied(error):
                raise  # the caller names the server and the user
            if error.error_code in REFUSALS or attempt == TRIES - 1:
                raise TrackingError(f"the aliases of {name} cannot be set: {first_line(error)}") from error
            time.sleep(random.uniform(0.0, 0.2))
    raise AssertionError("the last attempt returns or raises")
