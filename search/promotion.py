"""Which version of a registered model is the champion, and who may change that.

The registry cannot compare and set, so the champion is a function of what it holds, which everybody who looks computes
alike: of the versions measured as the base was, the best. The base is the version that a person made champion, else the
present champion, else the first one. Whoever registers a version looks again after setting the alias, and the last one
to look sees all versions: so the alias ends at the best of them, however many promote at once.

Every champion is written into a tag of the registered model before the alias moves, and again when it has moved; the
tags are numbered so that each is above all that its writer had seen. An alias at a version that no tag explains was set
by a person, elsewhere, and counts as such.

A process that is killed between the two, or before its second look, can leave the alias at an earlier version. The next
one that registers a version, or the same search started again, moves it on.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from search.errors import ModelNotFoundError, TrackingError
from search.masking import first_line
from search.mlflow_store import is_denied

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION, CHALLENGER = "champion", "challenger"
SCORE_TAG = "validation"
"""A version's tag: its confirmed mean, or what else there is of its kind."""
PROTOCOL_TAG = "protocol."
"""Begins a version's tags that say how its score was measured: only scores of one protocol are compared."""
HISTORY_TAG = "champion."
"""Begins a model's tags that keep who was champion; the rest of the name sorts them."""
BASE_TAG = "champion_by_hand"
"""A model's tag, `VERSION/NEWEST`: what a person chose, and the newest version then. Later ones compete with it."""
TRIES = 60
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
"""What MLflow will say again; its BAD_REQUEST is a collision with another writer here."""
T = TypeVar("T")


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


def elect(entries: Sequence[Entry], by_hand: tuple[int, int] | None, present: int | None = None) -> Entry | None:
    """The champion among versions, oldest first; None when none has a score.

    by_hand: the version that a person chose and the newest version then. A newer one of the same protocol must beat it;
    on equal scores the older one stays. It means nothing any more when that version was deleted. `present` is where
    the alias is: it goes only to a version of the same protocol.
    """
    scored = [entry for entry in entries if entry.score is not None]
    chosen, newest = by_hand or (None, 0)
    base = next((entry for entry in entries if entry.version == chosen), None)
    if base is None:
        newest = 0
        base = next((entry for entry in scored if entry.version == present), scored[0] if scored else None)
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

    Raises TrackingError when MLflow refuses, or others keep moving the alias.
    """

    def look() -> str | None:
        model = client.get_registered_model(name)
        present, by_hand = alias(model, CHAMPION), _by_hand(model)
        if present is not None and not _is_ours(model, present):
            again = client.get_registered_model(name)  # MLflow does not read aliases and tags at one moment
            if alias(again, CHAMPION) == present and not _is_ours(again, present):
                _pin(client, name, present, newest=int(own) - 1)
                _note(client, name, present, "found", moved=True)
            return None
        entries = [Entry.of(version) for version in versions(client, name)]
        elected = elect(entries, by_hand, None if present is None else int(present))
        assert elected is not None, "the version that asks has a score"
        if present == str(elected.version):
            return present
        _move(client, name, str(elected.version), "best")
        return None

    return _until_done(look, f"the alias {CHAMPION} of {name}")


def challenge(client: MlflowClient, name: str, version: str) -> None:
    """Point the other alias at a version that did not become champion, unless a newer one has it.

    Raises TrackingError as `settle` does.
    """

    def look() -> bool:
        present = alias(client.get_registered_model(name), CHALLENGER)
        if present is None or int(present) < int(version):
            client.set_registered_model_alias(name, CHALLENGER, version)
            return False
        return True

    _until_done(look, f"the alias {CHALLENGER} of {name}")


def _until_done(step: Callable[[], T | None], what: str) -> T:
    """Repeat a step until it gives something. Two first settings of an alias can collide, and SQLite can be busy.

    Raises TrackingError, which says why, at once when MLflow refuses it.
    """
    import mlflow

    why: Exception | None = None
    for _ in range(TRIES):
        try:
            if done := step():
                return done
        except mlflow.exceptions.MlflowException as error:
            if is_denied(error):
                raise  # whoever called says by whom
            if error.error_code in REFUSALS:
                raise TrackingError(f"{what} cannot be set: {first_line(error)}") from error
            why = error
            time.sleep(random.uniform(0.0, 0.2))
    said = f" ({first_line(why)})" if why else ""
    raise TrackingError(f"{what} did not settle{said}; type the same command again") from why


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
    """Make a version the champion because a person says so.

    Raises ModelNotFoundError when there is no such version, TrackingError as `settle` does.
    """
    known = _numbers(client, name)
    if version not in known:
        models = ", ".join(sorted(model.name for model in client.search_registered_models())) or "none"
        raise ModelNotFoundError(
            f"there is no version {version} of {name!r}; it has {', '.join(known)}" if known
            else f"there is no model {name!r} with versions; registered here: {models}"
        )  # fmt: skip
    _hand_over(client, name, version, "by-hand", newest=max(map(int, known)))


def rollback(client: MlflowClient, name: str) -> tuple[str, str]:
    """Give the alias back to the champion before the present one; returns both versions, the present one first.

    Raises ModelNotFoundError when there is no champion, or none before it, TrackingError as `settle` does.
    """
    import mlflow

    def read() -> RegisteredModel:
        try:
            return client.get_registered_model(name)
        except mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        names = ", ".join(sorted(found.name for found in client.search_registered_models())) or "none"
        raise ModelNotFoundError(f"there is no model {name!r}; registered here: {names}")

    model = _until_done(read, f"the alias {CHAMPION} of {name}")
    present = alias(model, CHAMPION)
    if present is None:
        raise ModelNotFoundError(f"{name} has no champion to take the alias from")
    known = _numbers(client, name)
    earlier = [version for version in reigns(model) if version != present and version in known]
    if not earlier:
        raise ModelNotFoundError(f"version {present} is the first champion of {name}; there is none to go back to")
    _hand_over(client, name, earlier[-1], f"after-{present}", newest=max(map(int, known)))
    return present, earlier[-1]


def _numbers(client: MlflowClient, name: str) -> list[str]:
    """All versions by their numbers, oldest first; asked until the store answers."""
    read = lambda: [[str(found.version) for found in versions(client, name)]]  # noqa: E731  # one list, empty or not
    return _until_done(read, f"the alias {CHAMPION} of {name}")[0]


def _hand_over(client: MlflowClient, name: str, version: str, how: str, *, newest: int) -> None:
    """Let a person's choice stand against the versions up to `newest`, and move the alias."""

    def step() -> bool:
        _pin(client, name, version, newest=newest)
        _move(client, name, version, how)
        return True

    _until_done(step, f"the alias {CHAMPION} of {name}")


def reigns(model: RegisteredModel) -> list[str]:
    """The champions of a model in order, without those that a person took the alias from."""
    stack: list[str] = []
    for event in _events(model):
        taken = event.how.removeprefix("after-") if event.how.startswith("after-") else None
        stack = [other for other in stack if other not in (taken, event.version)] + [event.version]
    return stack


def alias(model: RegisteredModel, name: str) -> str | None:
    """The version that an alias points to."""
    return str(model.aliases[name]) if name in model.aliases else None


@dataclass(frozen=True)
class Event:
    """One move of the alias: what was noted before it, and when it was done."""

    began: int
    version: str
    how: str
    done: int | None
    """None: it is under way, or whoever moved it was killed."""


def _events(model: RegisteredModel) -> list[Event]:
    """Every move, in the order in which they began."""
    found = []
    for key in sorted(key for key in model.tags if key.startswith(HISTORY_TAG)):
        version, how, done = f"{model.tags[key]} ".split(" ")[:3]
        found.append(Event(int(key.split(".")[1]), version, how, int(done) if done else None))
    return found


def _is_ours(model: RegisteredModel, present: str) -> bool:
    """Whether a move that was noted explains where the alias is: the latest there, or one that others overlapped.

    Where a later move elsewhere was done, and began after all moves there were done, a person has brought it back.
    """
    events = _events(model)
    there = [event for event in events if event.version == present]
    if not there or any(event.done is None for event in there):
        return bool(there)
    last = max(event.done or 0 for event in there)
    return not any(event.began > last and event.done is not None for event in events)


def _by_hand(model: RegisteredModel) -> tuple[int, int] | None:
    if (pinned := model.tags.get(BASE_TAG)) is None:
        return None
    version, _, newest = pinned.partition("/")
    return int(version), int(newest)


def _note(client: MlflowClient, name: str, version: str, how: str, *, moved: bool = False) -> str:
    """Write down a move that begins, or that was `moved` by somebody else; returns the tag's name."""
    now = _next(client, name)
    key = f"{HISTORY_TAG}{now:06}.{secrets.token_hex(4)}"  # two that move the alias to one version are two moves
    client.set_registered_model_tag(name, key, f"{version} {how}" + (f" {now}" if moved else ""))
    return key


def _next(client: MlflowClient, name: str) -> int:
    """A number above all that are there: no clock, since machines disagree."""
    events = _events(client.get_registered_model(name))
    return 1 + max((max(event.began, event.done or 0) for event in events), default=0)


def _pin(client: MlflowClient, name: str, version: str, *, newest: int) -> None:
    """Keep what a person chose; versions up to `newest` compete no more."""
    client.set_registered_model_tag(name, BASE_TAG, f"{version}/{newest}")


def _move(client: MlflowClient, name: str, version: str, how: str) -> None:
    """Note the champion, set the alias, note that it is set; it is no challenger any more."""
    key = _note(client, name, version, how)
    client.set_registered_model_alias(name, CHAMPION, version)
    client.set_registered_model_tag(name, key, f"{version} {how} {_next(client, name)}")
    if alias(client.get_registered_model(name), CHALLENGER) == version:
        client.delete_registered_model_alias(name, CHALLENGER)
