"""Single settings of a space: what an objective asks for, and every setting there is, where they can be counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from objectives.base import Params, ParamValue, Suggest

COUNTABLE = 5_000
"""A space of more settings is taken as endless: no search tries them all."""

Key = tuple[tuple[str, ParamValue], ...]


def key(params: Mapping[str, ParamValue]) -> Key:
    """What two trials with the same sampled parameters have in common.

    Values of a stepped range differ in their last bits, by how each sampler comes to them.
    """
    return tuple(
        (name, float(f"{value:.12g}") if isinstance(value, float) else value) for name, value in sorted(params.items())
    )


class Recorder:
    """Suggests known values, and notes which parameters were asked for that are not known."""

    def __init__(self, params: Mapping[str, ParamValue]) -> None:
        self._params = params
        self.asked: dict[str, ParamValue] = {}
        self.unknown: set[str] = set()

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """The known number, or the lowest."""
        return float(self._take(name, low))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """The known number, or the lowest."""
        return int(self._take(name, low))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The known choice, or the first."""
        return self._take(name, choices[0])

    def _take(self, name: str, otherwise: Any) -> Any:
        if name not in self._params:
            self.unknown.add(name)
        self.asked[name] = self._params.get(name, otherwise)
        return self.asked[name]


class Endless(Exception):
    """A parameter has more values than can be tried."""


class Path:
    """Suggests the choices of one path through a space in which every parameter has few values."""

    def __init__(self, turns: Sequence[int]) -> None:
        self._turns = turns
        self.taken: list[tuple[int, int]] = []
        """At each parameter, in the order of asking: which value, of how many."""
        self.params: dict[str, ParamValue] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number of a stepped range. Raises Endless for another range."""
        if low == high:
            return float(self._turn(name, 1, lambda index: low))
        if step is None:
            raise Endless
        # As Optuna does it, to the last bit: low + index * step, and never above the end.
        n = int((high - low) / step + 1e-8) + 1
        return float(self._turn(name, n, lambda index: min(low + index * step, high)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number."""
        return int(self._turn(name, (high - low) // step + 1, lambda index: low + index * step))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """A choice."""
        return self._turn(name, len(choices), lambda index: choices[index])

    def _turn(self, name: str, n: int, value: Callable[[int], Any]) -> Any:
        if name in self.params:
            return self.params[name]
        if n > COUNTABLE:
            raise Endless
        at = len(self.taken)
        index = self._turns[at] if at < len(self._turns) else 0
        self.taken.append((index, n))
        self.params[name] = value(index)
        return self.params[name]


def every_setting(suggest: Callable[[Suggest], Params]) -> list[dict[str, ParamValue]] | None:
    """The sampled parameters of every setting that `suggest` can give; None where they cannot be counted."""
    found: list[dict[str, ParamValue]] = []
    turns: list[int] = []
    while len(found) < COUNTABLE:
        path = Path(turns)
        try:
            suggest(path)
        except Endless:
            return None
        found.append(path.params)
        taken = path.taken
        while taken and taken[-1][0] + 1 == taken[-1][1]:  # the last turn that has another way to go
            taken.pop()
        if not taken:
            return found
        turns = [index for index, _ in taken]
        turns[-1] += 1
    return None
