"""Calls of an objective, and the rules for its answers. Every error names the method.

A search applies these rules before it starts; `search.testing` applies them too, and checks more. The functions
`require_...` raise ContractError.
"""

import inspect
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from objectives.base import (
    Bounded,
    Diverged,
    Experienced,
    Exportable,
    Foldable,
    ImageClassifier,
    Objective,
    ObjectiveError,
    Params,
    Scaled,
    Selective,
)
from objectives.failures import describe_error, describe_value
from objectives.spec import ObjectiveSpec
from search.common.signals import is_interruption
from search.common.text import one_line, sentence
from search.study.space.plain_values import is_number, plain
from search.study.summary import Folds

LABEL_LENGTH = 150
"""Characters of a configuration's description. Names of runs in MLflow have room for 250 in all."""


class ContractError(ObjectiveError):
    """An objective breaks its contract. The message begins with the method's name and says what to change."""


def require(condition: object, message: str) -> None:
    """Raise ContractError with this message unless the condition holds."""
    if not condition:
        raise ContractError(message)


def missing_methods(objective: object) -> str | None:
    """Describe the methods that are missing from an optional part of an objective. None when no part is incomplete."""
    signs: tuple[tuple[type, set[str]], ...] = (
        (ImageClassifier, {"class_names", "validation_images", "score_test"}),
        (Exportable, {"example_input"}),
        (Scaled, {"space_scales", "space_scale", "choose_space_scale"}),
        (Foldable, {"n_folds", "fold_images"}),
    )
    for part, sign in signs:
        methods = [name for name in {**vars(part), **inspect.get_annotations(part)} if not name.startswith("_")]
        present = [name for name in methods if getattr(objective, name, None) is not None]
        if sign & set(present) and len(present) < len(methods):
            missing = ", ".join(name for name in methods if name not in present)
            effect = f"so it does not count as objectives.base.{part.__name__}"
            return f"the objective has {', '.join(present)} and lacks {missing}, {effect}"
    return None


def call(method: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a method of an objective. Raises ContractError when it fails; passes on Diverged and ObjectiveError."""
    try:
        return function(*arguments)
    except (Diverged, ObjectiveError):
        raise
    except BaseException as error:  # sys.exit() ends a call, and not the search
        if is_interruption(error):
            raise
        raise ContractError(f"{method} failed: {describe_error(error)}") from error


@contextmanager
def explain_errors(target: str) -> Iterator[None]:
    """Replace a ContractError by an ObjectiveError whose message says how to find out more about MODULE:ATTR."""
    try:
        yield
    except ContractError as error:
        raise ObjectiveError(f"the objective's {sentence(str(error))} {check_hint(target)}") from error


def check_hint(target: str) -> str:
    """Say how to learn more about an objective: by a command, unless it exists only in the program that gave it."""
    if ObjectiveSpec(target).is_unnamed:
        return "To see more, call it in your program; optuna.create_study().ask() makes a trial for it"
    return f"To see more, type: python -m search check-objective {shlex.quote(target)}"


def check_answers(objective: Objective) -> None:
    """Raise ContractError for answers that no search can start with."""
    require_texts(objective)
    require_schedule(objective, "cpu")
    require_fingerprint(objective)
    require_baselines(objective)
    if isinstance(objective, Experienced):
        require_portfolio(objective)
    require_dataset(objective)
    metric_range(objective)
    folds_of(objective)
    if isinstance(objective, Scaled):
        choose_space_scale(objective, "cpu", 0)


def described(objective: Objective, params: Params) -> str:
    """The objective's description of a configuration, on one line. Raises ContractError if it is not a text."""
    text = call("describe", objective.describe, params)
    shown = describe_value(text)
    require(isinstance(text, str), f"describe gave {shown}; give a few words on one line, such as 'lr 0.01'")
    return one_line(text, limit=LABEL_LENGTH)


def metric_range(objective: Objective) -> tuple[float | None, float | None] | None:
    """The smallest and the largest possible value of the metric; None if the objective does not say.

    Raises ContractError for anything but two numbers, or None, in order.
    """
    if not isinstance(objective, Bounded):
        return None
    given = objective.metric_range
    shown = f"metric_range is {describe_value(given)}; give the smallest and the largest value, such as (0, 1)"
    require(isinstance(given, tuple | list) and len(given) == 2, shown)
    low, high = given
    require(all(bound is None or is_number(bound) for bound in (low, high)), shown)
    require(low is None or high is None or low < high, shown)
    return None if low is None else float(low), None if high is None else float(high)


def folds_of(objective: Objective) -> Folds | None:
    """The folds by which an objective's candidates are confirmed; None: by seeds. Raises ContractError if unusable."""
    if not isinstance(objective, ImageClassifier) or not isinstance(objective, Foldable):
        return None
    number = plain(objective.n_folds)
    valid = isinstance(number, int) and not isinstance(number, bool) and (number == 0 or number > 1)
    require(valid, f"n_folds is {describe_value(number)}; give a whole number above 1, or 0")
    info = call("dataset_info", objective.dataset_info)
    return Folds(int(number), int(info["n_train"]) + int(info["n_validation"])) if number else None


def scored_images(objective: ImageClassifier, fold: int | None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, c, h, w) and labels (n,) on which a training is scored: those of its fold, or of validation."""
    if fold is not None and isinstance(objective, Foldable):
        images, labels = call("fold_images", objective.fold_images, fold)
    else:
        images, labels = call("validation_images", objective.validation_images)
    return images, labels


def choose_space_scale(objective: Scaled, device: str, free_bytes: int) -> str:
    """The objective's scale for a device. Raises ContractError if it is not one of its scales."""
    scales, shown = objective.space_scales, describe_value(objective.space_scales)
    valid = isinstance(scales, tuple | list) and scales and all(isinstance(name, str) and name for name in scales)
    require(valid, f"space_scales is {shown}; give names, the largest space last, such as ('small', 'wide')")
    scale = call("choose_space_scale", objective.choose_space_scale, device, free_bytes)
    names = ", ".join(map(repr, scales))
    require(scale in scales, f"choose_space_scale gave {describe_value(scale)}; give one of {names}")
    return str(scale)


def set_space_scale(objective: Scaled, scale: str) -> None:
    """Let the objective sample at this scale. Raises ContractError if it cannot be set."""
    try:
        objective.space_scale = scale
    except Exception as error:  # as of a frozen dataclass
        raise ContractError(f"space_scale cannot be set: {describe_error(error)}; make it a plain attribute") from error


def may_propose(objective: Selective, params: Params, narrowed: Set[str]) -> bool:
    """Whether a sampler may propose a configuration. Raises ContractError if the answer is not True or False."""
    answer = call("may_propose", objective.may_propose, params, narrowed)
    require(isinstance(answer, bool), f"may_propose gave {describe_value(answer)}; give True or False")
    return bool(answer)


def require_texts(objective: Objective) -> None:
    """The name and the metric are texts that can be shown."""
    for part in ("name", "metric"):
        value = getattr(objective, part)
        require(isinstance(value, str), f"{part} is {describe_value(value)}; give a text")
        valid = value.strip() and value.isprintable() and len(value) <= 200
        require(valid, f"{part} is {describe_value(value)}; give a text of 1 to 200 printable characters")


def require_schedule(objective: Objective, device: str) -> None:
    """The epochs, and the steps of an epoch, are whole numbers above 0."""
    for method, arguments in (("epochs", [device]), ("steps_per_epoch", [])):
        count = plain(call(method, getattr(objective, method), *arguments))
        valid = isinstance(count, int) and not isinstance(count, bool) and count > 0
        require(valid, f"{method} gave {describe_value(count)}; give a whole number above 0")


def require_fingerprint(objective: Objective) -> Mapping[str, str]:
    """Return the fingerprint, a dict of plain data."""
    fingerprint = call("fingerprint", objective.fingerprint)
    shown = describe_value(fingerprint)
    require(isinstance(fingerprint, Mapping), f"fingerprint gave {shown}; give a dict")
    try:
        stored: dict[str, str] = json.loads(json.dumps(dict(fingerprint)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ContractError(f"fingerprint gave {shown}, which is not plain data; give texts by name") from error
    return stored


def require_dataset(objective: Objective) -> None:
    """The dataset of a classifier has the figures that tracking needs, and classes."""
    if not isinstance(objective, ImageClassifier):
        return
    info, classes = call("dataset_info", objective.dataset_info), call("class_names", objective.class_names)
    keys = ("name", "digest", "source", "n_train", "n_validation", "shape")
    known = isinstance(info, Mapping) and all(key in info for key in keys)
    require(known, f"dataset_info gave {describe_value(info)}; give a dict with {', '.join(keys)}")
    valid = isinstance(classes, tuple | list) and all(isinstance(name, str) for name in classes)
    require(valid, f"class_names gave {describe_value(classes)}; give a tuple of texts")


def require_baselines(objective: Objective) -> dict[str, Params]:
    """Return the baselines, a dict of configurations by name, with plain values."""
    baselines = call("baselines", objective.baselines)
    valid = isinstance(baselines, Mapping) and all(isinstance(params, Mapping) for params in baselines.values())
    shown = describe_value(baselines)
    require(valid, f"baselines gave {shown}; give a dict of configurations by name, or an empty one")
    return {
        one_line(str(name), limit=LABEL_LENGTH): {key: plain(value) for key, value in params.items()}
        for name, params in baselines.items()
    }


def require_portfolio(objective: Experienced) -> list[Params]:
    """Return the portfolio, a list of configurations with plain values."""
    portfolio = call("portfolio", objective.portfolio)
    valid = isinstance(portfolio, tuple | list) and all(isinstance(params, Mapping) for params in portfolio)
    require(valid, f"portfolio gave {describe_value(portfolio)}; give a list of configurations, or an empty one")
    return [{key: plain(value) for key, value in params.items()} for params in portfolio]
