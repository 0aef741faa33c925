"""Which version of a registered model is the champion, and who may change that.

The registry cannot compare and set, so the champion is a function of what it holds, which everybody who looks computes
alike: of the versions measured as the base was, the best. The base is the version that a person made champion, else the
first one. Whoever registers a version looks again after setting the alias, and the last one to look sees all versions:
so the alias ends at the best of them, however many promote at once.

Every champion is written into a tag of the registered model before the alias moves. An alias at a version that has no
such tag was set by a person, elsewhere, and counts as such.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from search.errors import ModelNotFoundError, TrackingError
from search.trouble import is_denied

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION, CHALLENGER = "champion", "challenger"
SCORE_TAG = "validation"
"""A version's tag: its confirmed mean, or what else there is of its kind."""
PROTOCOL_TAG = "protocol."
"""Begins a version's tags that say how its score was measured: only scores of one protocol are compared."""
HISTORY_TAG = "champion."
"""Begins a model's tags that keep who was champion; the rest of the name is the time, so that they sort."""
BASE_TAG = "champion_by_hand"
"""A model's tag, `VERSION/NEWEST`: what a person chose, and the newest version then. Later ones compete with it."""
TRIES = 60


@dataclass(frozen=True)
class Entry:
    """One version as the choice sees it."""

    version: int
    score: float | None
    protocol: Mapping[str, str]

    @classmethod
    def of(cls, version: ModelVersion) -> Entry:
        """Read a version's tags."""
        protocol = {
            key.removeprefix(PROTOCOL_TAG): value for key, value in version.tags.items() if key.startswith(PROTOCOL_TAG)
        }
        score = version.tags.get(SCORE_TAG)
        return cls(int(version.version), None if score is None else float(score), protocol)

    @property
    def worth(self) -> float:
        """Its score, larger when better."""
        assert self.score is not None, "only versions with a score compete"
        return -self.score if self.protocol.get("direction") == "minimize" else self.score


def elect(entries: Sequence[Entry], by_hand: tuple[int, int] | None) -> Entry | None:
    """The champion among versions, oldest first; None when none has a score.

    by_hand: the version that a person chose and the newest version then. A newer one of the same protocol must beat it;
    on equal scores the older one stays.
    """
    scored = [entry for entry in entries if entry.score is not None]
    chosen, newest = by_hand or (None, 0)
    base = next((entry for entry in entries if entry.version == chosen), scored[0] if scored else None)
    if base is None or base.score is None:
        return base
    rivals = [entry for entry in scored if entry.version > newest and entry.protocol == base.protocol]
    return max([base, *rivals], key=lambda entry: (entry.worth, -entry.version))


def versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions of a registered model, oldest first."""
    found = client.search_model_versions(f"name = '{name}'", max_results=1000)
    return sorted(found, key=lambda version: int(version.version))


def settle(client: MlflowClient, name: str, own: str) -> str:
    """Point the alias at the champion, now that version `own` has been registered; returns the champion's version.

    Raises TrackingError when others keep moving the alias.
    """
    import mlflow

    for _ in range(TRIES):
        try:
            model = client.get_registered_model(name)
            present, by_hand = alias(model, CHAMPION), _by_hand(model)
            if present is not None and present not in {version for version, _ in _events(model)}:
                if by_hand is None or by_hand[0] != int(present):
                    _pin(client, name, present, newest=int(own) - 1)
                _note(client, name, present, "found")
                continue
            elected = elect([Entry.of(version) for version in versions(client, name)], by_hand)
            assert elected is not None, "the version that asks has a score"
            if present == str(elected.version):
                return present
            _move(client, name, str(elected.version), "best")
        except mlflow.exceptions.MlflowException as error:
            _pause_unless_denied(error)  # two first settings of an alias can collide, and SQLite can be busy
    raise TrackingError(f"the alias {CHAMPION} of {name} did not settle; type the same command again")


def challenge(client: MlflowClient, name: str, version: str) -> None:
    """Point the other alias at a version that did not become champion, unless a newer one has it."""
    import mlflow

    for _ in range(TRIES):
        try:
            present = alias(client.get_registered_model(name), CHALLENGER)
            if present is not None and int(present) >= int(version):
                return
            client.set_registered_model_alias(name, CHALLENGER, version)
        except mlflow.exceptions.MlflowException as error:
            _pause_unless_denied(error)
    raise TrackingError(f"the alias {CHALLENGER} of {name} did not settle; type the same command again")


def _pause_unless_denied(error: Exception) -> None:
    """Wait a moment before the next try, which would be denied like this one where a permission is missing."""
    if is_denied(error):
        raise error
    time.sleep(random.uniform(0.0, 0.2))


def why_behind(client: MlflowClient, name: str, version: str, champion: str) -> str:
    """Why a version is not the champion, for people."""
    found = {entry.version: entry for entry in map(Entry.of, versions(client, name))}
    mine, other = found[int(version)], found.get(int(champion))
    if other is None or other.score is None or mine.score is None:
        return f"version {champion} of {name} stays champion: a person chose it, and it has no score to compare with"
    differing = [
        f"{key.replace('_', ' ')} ({other.protocol.get(key, 'not said')} there, "
        f"{mine.protocol.get(key, 'not said')} here)"
        for key in sorted({*mine.protocol, *other.protocol})
        if mine.protocol.get(key) != other.protocol.get(key)
    ]
    if differing:
        return (
            f"version {champion} of {name} stays champion: the two cannot be compared, because they differ in "
            f"{', '.join(differing)}. To move the alias all the same, type: python -m search promote {name}/{version}"
        )
    if mine.worth > other.worth:
        return f"version {champion} of {name} stays champion: a person chose it when version {version} was there"
    metric = mine.protocol.get("metric", SCORE_TAG)
    verb = "equals" if mine.score == other.score else "is behind"
    return f"version {champion} of {name} stays champion: {metric} {mine.score:.4f} {verb} its {other.score:.4f}"


# ---- by hand


def appoint(client: MlflowClient, name: str, version: str) -> None:
    """Make a version the champion because a person says so. Raises ModelNotFoundError when there is no such version."""
    known = [str(found.version) for found in versions(client, name)]
    if version not in known:
        models = ", ".join(sorted(model.name for model in client.search_registered_models())) or "none"
        raise ModelNotFoundError(
            f"there is no version {version} of {name!r}; it has {', '.join(known)}" if known
            else f"there is no model {name!r} with versions; registered here: {models}"
        )  # fmt: skip
    _pin(client, name, version, newest=max(map(int, known)))
    _move(client, name, version, "by-hand")


def rollback(client: MlflowClient, name: str) -> tuple[str, str]:
    """Give the alias back to the champion before the present one; returns both versions, the present one first.

    Raises ModelNotFoundError when there is no champion, or none before it.
    """
    import mlflow

    try:
        model = client.get_registered_model(name)
    except mlflow.exceptions.MlflowException:
        names = ", ".join(sorted(found.name for found in client.search_registered_models())) or "none"
        raise ModelNotFoundError(f"there is no model {name!r}; registered here: {names}") from None
    present = alias(model, CHAMPION)
    if present is None:
        raise ModelNotFoundError(f"{name} has no champion to take the alias from")
    known = {str(version.version) for version in versions(client, name)}
    earlier = [version for version in reigns(model) if version != present and version in known]
    if not earlier:
        raise ModelNotFoundError(f"version {present} is the first champion of {name}; there is none to go back to")
    _pin(client, name, earlier[-1], newest=max(map(int, known)))
    _move(client, name, earlier[-1], f"after-{present}")
    return present, earlier[-1]


def reigns(model: RegisteredModel) -> list[str]:
    """The champions of a model in order, without those that a person took the alias from."""
    stack: list[str] = []
    for version, how in _events(model):
        taken = how.removeprefix("after-") if how.startswith("after-") else None
        stack = [other for other in stack if other not in (taken, version)] + [version]
    return stack


def alias(model: RegisteredModel, name: str) -> str | None:
    """The version that an alias points to."""
    return str(model.aliases[name]) if name in model.aliases else None


def _events(model: RegisteredModel) -> list[tuple[str, str]]:
    """(version, how) of every time that the alias moved, oldest first."""
    keys = sorted(key for key in model.tags if key.startswith(HISTORY_TAG))
    return [(version, how) for version, _, how in (model.tags[key].partition(" ") for key in keys)]


def _by_hand(model: RegisteredModel) -> tuple[int, int] | None:
    if (pinned := model.tags.get(BASE_TAG)) is None:
        return None
    version, _, newest = pinned.partition("/")
    return int(version), int(newest)


def _note(client: MlflowClient, name: str, version: str, how: str) -> None:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    client.set_registered_model_tag(name, f"{HISTORY_TAG}{stamp}.{version}", f"{version} {how}")


def _pin(client: MlflowClient, name: str, version: str, *, newest: int) -> None:
    """Keep what a person chose; versions up to `newest` compete no more."""
    client.set_registered_model_tag(name, BASE_TAG, f"{version}/{newest}")


def _move(client: MlflowClient, name: str, version: str, how: str) -> None:
    """Note the champion, then set the alias; it is no challenger any more."""
    _note(client, name, version, how)
    client.set_registered_model_alias(name, CHAMPION, version)
    if alias(client.get_registered_model(name), CHALLENGER) == version:
        client.delete_registered_model_alias(name, CHALLENGER)
