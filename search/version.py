"""What a registered version says of itself: its tags, its metadata, and how its figures were measured."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from objectives.base import Exportable, ImageClassifier, Objective, Params
from search import records
from search.delivery import RUN_TAG
from search.promotion import PROTOCOL_TAG, SCORE_TAG
from search.records import StudyRecord
from search.summary import Summary

if TYPE_CHECKING:
    from torch import nn


def can_be_made(objective: Objective) -> bool:
    """Whether the objective's winner can be registered: its network can be built, and what that takes is known."""
    return isinstance(objective, ImageClassifier | Exportable)


def network(objective: Objective, params: Params, weights: bytes) -> nn.Module:
    """What is registered, on the CPU: a classifier gives probabilities, any other network what it gives."""
    if isinstance(objective, ImageClassifier):
        from objectives.models import Probabilities

        return Probabilities(objective.load_weights(params, weights)).eval()
    assert isinstance(objective, Exportable)
    return objective.load_weights(params, weights).eval()


def example(objective: Objective) -> NDArray[np.float32]:
    """A few inputs of it, shape (n, ...)."""
    if isinstance(objective, ImageClassifier):
        images, _ = objective.validation_images()
        return (images[:4] / 255).astype(np.float32)
    assert isinstance(objective, Exportable)
    return objective.example_input()


def tags(study: StudyRecord, summary: Summary, objective: Objective, run: str) -> dict[str, str]:
    """Whose the version is, its figures, and its protocol; `run` is the search's own name of the winner's run."""
    figures = summary.figures(study.metric)
    shown = {name: f"{value:.4f}" for name, value in figures.items()}
    own = {RUN_TAG: run, "study": study.name, "trial": str(summary.number), SCORE_TAG: repr(summary.score)}
    protocol = {f"{PROTOCOL_TAG}{key}": str(value) for key, value in _protocol(study, summary, objective).items()}
    return {**own, "network": summary.network, **shown, **protocol}


def metadata(study: StudyRecord, summary: Summary, objective: Objective) -> dict[str, Any]:
    """What is kept in the model itself, for whoever loads it."""
    found = {
        "study": study.name,
        "trial": summary.number,
        "architecture": summary.label,
        "network": summary.network,
        **summary.figures(study.metric),
    }
    if not isinstance(objective, ImageClassifier):
        return {"shape": list(example(objective).shape[1:]), "data": dict(objective.fingerprint()), **found}
    data = dict(objective.dataset_info())
    return {
        "classes": list(objective.class_names()),
        "framing": dict(objective.framing()),
        "dataset": data["name"],
        "dataset_digest": data["digest"],
        "shape": list(data["shape"]),
        "n_train": data["n_train"],
        "n_validation": data["n_validation"],
        **found,
    }


def _protocol(study: StudyRecord, summary: Summary, objective: Objective) -> dict[str, Any]:
    """How the score was measured: what must be equal for two versions to be compared."""
    return {
        **_data(study, objective),
        "metric": study.metric,
        "direction": "maximize" if study.maximize else "minimize",
        "epochs": study.attrs[records.FINGERPRINT]["epochs"],
        "fresh_seeds": len(summary.confirmed.values) if summary.confirmed else 0,
        "refit": "yes" if summary.refit else "no",
    }


def _data(study: StudyRecord, objective: Objective) -> dict[str, str]:
    """What was trained and measured on; an objective without images says it in its fingerprint."""
    if not isinstance(objective, ImageClassifier):
        said = json.dumps(dict(objective.fingerprint()), sort_keys=True)
        return {"objective": str(study.attrs[records.FINGERPRINT]["objective"]), "dataset": said}
    info, (images, labels) = objective.dataset_info(), objective.validation_images()
    held_back = hashlib.sha256(np.ascontiguousarray(images).data)
    held_back.update(np.ascontiguousarray(labels).data)
    split = f"{info['n_train']} and {info['n_validation']}, {held_back.hexdigest()[:12]}"
    return {"dataset": info["digest"], "split": split}
