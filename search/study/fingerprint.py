"""The fingerprint of a study: objective, dataset, space, limits and epochs, without which values do not compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import distribution_to_json, json_to_distribution

from objectives.base import Objective
from search.study.space.limits import Limits
from search.study.space.space import Space, format_distribution, search_space

SPACE = "search space"


def fingerprint(objective: Objective, target: str, epochs: int | None, space: Space, limits: Limits) -> dict[str, Any]:
    """The fingerprint of a study. `target` names the objective as MODULE:ATTR."""
    return {
        "objective": target,
        "metric": f"{objective.direction} {objective.metric}",
        **objective.fingerprint(),
        "epochs": epochs,
        **limits.as_settings(),
        SPACE: {name: distribution_to_json(what) for name, what in search_space(objective, space).items()},
    }


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """How two fingerprints differ, in words."""
    for key in sorted({*stored, *wanted} - {SPACE}):
        if stored.get(key) == wanted.get(key):
            continue
        if key == "dataset":
            old, new = (str(digests.get(key))[:8] for digests in (stored, wanted))
            yield f"its images have changed (digest {old}, now {new})"
        else:
            yield f"{key} was {_value_in_words(stored.get(key))}, now {_value_in_words(wanted.get(key))}"
    yield from _space_differences(stored.get(SPACE, {}), wanted[SPACE])


def _space_differences(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if changed:
        texts = [
            f"{name} was {_range_in_words(old.get(name))}, now {_range_in_words(new.get(name))}" for name in changed
        ]
        yield f"in its search space {', '.join(texts[:5])}{' ...' if len(changed) > 5 else ''}"


def _value_in_words(value: object) -> str:
    return "not given" if value is None else str(value)


def _range_in_words(stored: str | None) -> str:
    return "absent" if stored is None else format_distribution(json_to_distribution(stored))
