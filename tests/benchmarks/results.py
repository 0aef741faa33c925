"""Row 12: what whole searches find, and how soon: test accuracy and time on four datasets."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.ablation import CIFAR, cifar
from tests.benchmarks.commands import data_dir, finished, only_study
from tests.benchmarks.measure import Line, Options, Sample, Skipped, Target, alternate, sample

BEFORE = "BENCHMARK_BEFORE"
"""Environment variable with the folder of an earlier checkout, which does the same searches in turn."""


@dataclass(frozen=True)
class Found:
    """Figures of one search and its winner."""

    wall_s: float
    test: float
    notes: Mapping[str, Any]


def results(options: Options) -> Iterator[Line | Skipped]:
    """Whole commands with everything they do after their trials. Each seed is one repeat."""
    trials = options.size(50, 2)
    yield from reached(options)
    if not options.quick:
        yield from compared(options, "MNIST", 0.996, "--dataset", "mnist", "--trials", trials)
    seeds = options.size(10, 1)
    yield from compared(replace(options, repeats=seeds), "digits", None, "--dataset", "digits", "--trials", trials)
    if options.quick:
        return
    if (colours := cifar()) is None:
        yield Skipped(f"CIFAR-10 was not searched: name it in {CIFAR}, such as folder:PATH")
    elif options.left_s <= 0:
        yield Skipped("CIFAR-10 was not searched, since no time was left")
    else:
        accuracy, seconds = (0.94, 600) if torch.cuda.is_available() else (0.85, 3600)
        found = [search(0, "--dataset", colours, "--trials", trials)]
        yield accuracies("CIFAR-10", found, target=accuracy)
        yield times("CIFAR-10", found, target=Target(seconds, "at most", of="ours"))
    data_dir("fashion-mnist")
    yield from compared(
        replace(options, repeats=1), "Fashion-MNIST", None, "--dataset", "fashion-mnist", "--trials", trials
    )


def reached(options: Options) -> Iterator[Line | Skipped]:
    """How soon a search with a target has a confirmed and registered model."""
    if options.left_s <= 0:
        yield Skipped("--target was not measured, since no time was left")
        return
    dataset, target = ("digits", 0.9) if options.quick else ("mnist", 0.991)
    words = ("--dataset", dataset, "--target", target, "--trials", options.size(50, 2))
    (found,) = alternate(options.repeats, lambda repeat: search(repeat, *words))
    yield accuracies(f"{dataset}, --target {target:g}", found, target=0.995)
    yield times(f"{dataset}, --target {target:g}", found, target=Target(300, "at most", of="ours"))


def compared(options: Options, name: str, accuracy: float | None, *words: object) -> Iterator[Line | Skipped]:
    """Searches of several seeds, each beside the same one of an earlier version if its checkout is named."""
    if options.left_s <= 0:
        yield Skipped(f"{name} was not searched, since no time was left")
        return
    sides: list[Callable[[int], Found]] = [lambda repeat: search(repeat, *words)]
    if before := os.environ.get(BEFORE):
        folder = str(Path(before).absolute())
        sides.append(lambda repeat: search(repeat, *words, extra={"PYTHONPATH": folder}))
    found, *earlier = alternate(options.repeats, *sides)
    theirs = earlier[0] if earlier else None
    yield accuracies(f"{name}, {options.repeats} seeds", found, theirs, target=accuracy)
    if theirs:
        gains = sample([ours.test - before.test for ours, before in zip(found, theirs, strict=True)])
        not_below = Target(0, "at least", of="mean + 95%")
        yield Line(12, f"{name}, {options.repeats} seeds: test, gain", "accuracy", gains, target=not_below)
    yield times(f"{name}, {options.repeats} seeds", found, theirs, target=Target(1, "at least") if theirs else None)


def search(seed: int, *words: object, extra: Mapping[str, str] | None = None) -> Found:
    """Run one command in an empty folder."""
    command = [sys.executable, "-m", "search", *map(str, words), "--seed", str(seed)]
    with finished(command, extra) as ended:
        study = only_study(ended.folder)
        summary = study.user_attrs["summary"]
        names = ("label", "value", "params", "refit")
        notes = {name: summary.get(name) for name in names} | {"trials": len(study.get_trials(deepcopy=False))}
        return Found(ended.wall_s, summary["test"]["accuracy"], notes)


def accuracies(name: str, ours: list[Found], theirs: list[Found] | None = None, *, target: float | None) -> Line:
    """The test accuracies of some searches, as shares. Without a target, the means of both sides say who is ahead."""
    mine, their = _tests(ours), theirs and _tests(theirs)
    means = {"means": [statistics.mean(side.values) for side in (mine, their) if side]}
    reason = None if target is None else Target(target, "at least", of="ours")
    told = {**means, "winners": [found.notes["label"] for found in ours]}
    details = {"ours": [found.notes for found in ours], "theirs": [found.notes for found in theirs or ()]}
    return Line(12, f"{name}: test", "accuracy", mine, their, target=reason, notes=told, details=details)


def times(name: str, ours: list[Found], theirs: list[Found] | None = None, *, target: Target | None) -> Line:
    """The wall times of some searches, from the command to its end."""
    mine, their = (sample([found.wall_s for found in side]) if side else None for side in (ours, theirs))
    assert mine is not None
    return Line(12, f"{name}: whole command", "s", mine, their, higher_is_better=False, target=target)


def _tests(found: list[Found]) -> Sample:
    return sample([each.test for each in found])
