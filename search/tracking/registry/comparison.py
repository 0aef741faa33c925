"""Which of a model's registered versions is best: only versions measured by the same protocol are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

SCORE_TAG = "validation"
"""A version's tag: its mean on fresh seeds, or its score in the search when it was not confirmed."""
PROTOCOL_TAG = "protocol."
"""Prefix of a version's tags that say how its score was measured."""


@dataclass(frozen=True)
class Entry:
    """A version's number, score and protocol."""

    version: int
    score: float | None
    protocol: Mapping[str, str]

    @classmethod
    def of(cls, version: ModelVersion) -> Entry:
        """Read a version's tags."""
        prefix, score = PROTOCOL_TAG, version.tags.get(SCORE_TAG)
        protocol = {key.removeprefix(prefix): value for key, value in version.tags.items() if key.startswith(prefix)}
        return cls(int(version.version), None if score is None else float(score), protocol)

    @property
    def worth(self) -> float:
        """The score, negated when it is minimised: larger is better."""
        assert self.score is not None, "only versions with a score are compared"
        return -self.score if self.protocol.get("direction") == "minimize" else self.score


def versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return all versions of a registered model, oldest first."""
    found = client.search_model_versions(f"name = '{name}'", max_results=1000)
    return sorted(found, key=lambda version: int(version.version))


def champions(entries: Sequence[Entry], by_hand: tuple[int, int] | None, present: int | None = None) -> list[int]:
    """Return the versions that became champion in turn, each better than the one before; the last is the best.

    entries: all versions, oldest first. by_hand: the version promoted by hand, and the newest version at that time;
    only later versions compete with it. It is ignored once that version is deleted. Otherwise all versions compete
    that were measured like the version with the alias, `present`, or like the first version with a score.
    """
    chosen, newest = by_hand or (0, 0)
    rivals = [entry for entry in entries if entry.score is not None]
    base = next((entry for entry in entries if entry.version == chosen), None)
    if base is not None and base.score is None:
        return [base.version]
    if base is not None:
        rivals = [base, *(entry for entry in rivals if entry.version > newest)]
    like = base or next((entry for entry in rivals if entry.version == present), rivals[0] if rivals else None)
    best: list[Entry] = []
    for entry in rivals:
        if like is not None and entry.protocol == like.protocol and (not best or entry.worth > best[-1].worth):
            best.append(entry)
    return [entry.version for entry in best]


def why_not_champion(client: MlflowClient, name: str, version: str, champion: str) -> str:
    """Explain to the user why a version did not replace the champion."""
    entries = {str(entry.version): entry for entry in map(Entry.of, versions(client, name))}
    return f"version {champion} of {name} stays champion: {_why_not(name, entries[version], entries[champion])}"


def _why_not(name: str, entry: Entry, champion: Entry) -> str:
    if champion.score is None or entry.score is None:
        return "it was promoted by hand, and there are no two scores to compare"
    differing = [
        f"{key.replace('_', ' ')} ({champion.protocol.get(key, 'unknown')} there, "
        f"{entry.protocol.get(key, 'unknown')} here)"
        for key in sorted({*entry.protocol, *champion.protocol})
        if entry.protocol.get(key) != champion.protocol.get(key)
    ]
    if differing:
        return (
            f"the two cannot be compared, because they differ in {', '.join(differing)}. To move the alias anyway, "
            f"type: python -m search promote {name}/{entry.version}"
        )
    if entry.worth > champion.worth:
        return f"it was promoted by hand when version {entry.version} was already there"
    metric, verb = entry.protocol.get("metric", SCORE_TAG), "equals" if entry.score == champion.score else "is behind"
    return f"{metric} {entry.score:.4f} {verb} its {champion.score:.4f}"
