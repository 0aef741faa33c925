"""What is stored with a registered version: the network, its tags, its metadata, and the protocol of its score."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from objectives.base import Exportable, ImageClassifier, Objective, Params
from search.study import records
from search.study.records import StudyRecord
from search.study.summary import Summary
from search.tracking.delivery import RUN_TAG
from search.tracking.registry.comparison import PROTOCOL_TAG, SCORE_TAG

if TYPE_CHECKING:
    from torch import nn


def can_be_made(objective: Objective) -> bool:
    """Tell whether the objective can build a network and example inputs, which registration needs."""
    return isinstance(objective, ImageClassifier | Exportable)


def network(objective: Objective, params: Params, weights: bytes) -> nn.Module:
    """Build the network to register, on the CPU. A classifier returns probabilities instead of logits."""
    if isinstance(objective, ImageClassifier):
        from objectives.images.models import Probabilities

        return Probabilities(objective.load_weights(params, weights)).eval()
    assert isinstance(objective, Exportable)
    return objective.load_weights(params, weights).eval()


def example(objective: Objective) -> NDArray[np.float32]:
    """Return a few inputs of the network, shape (n, ...)."""
    if isinstance(objective, ImageClassifier):
        images, _ = objective.validation_images()
        return (images[:4] / 255).astype(np.float32)
    assert isinstance(objective, Exportable)
    return objective.example_input()


def tags(study: StudyRecord, summary: Summary, objective: Objective, run: str) -> dict[str, str]:
    """Return the version's tags: its origin, figures and protocol. `run` is the journal's name of the winner's run."""
    figures = summary.figures(study.metric)
    shown = {name: f"{value:.4f}" for name, value in figures.items()}
    origin = {RUN_TAG: run, "study": study.name, "trial": str(summary.number), SCORE_TAG: repr(summary.score)}
    protocol = {f"{PROTOCOL_TAG}{key}": str(value) for key, value in _protocol(study, summary, objective).items()}
    return {**origin, "network": summary.network, **shown, **protocol}


def metadata(study: StudyRecord, summary: Summary, objective: Objective) -> dict[str, Any]:
    """Return the metadata stored in the model itself."""
    origin = {
        "study": study.name,
        "trial": summary.number,
        "architecture": summary.label,
        "network": summary.network,
        **summary.figures(study.metric),
    }
    if not isinstance(objective, ImageClassifier):
        return {"shape": list(example(objective).shape[1:]), "data": dict(objective.fingerprint()), **origin}
    data = dict(objective.dataset_info())
    return {
        "classes": list(objective.class_names()),
        "framing": dict(objective.framing()),
        "dataset": data["name"],
        "dataset_digest": data["digest"],
        "shape": list(data["shape"]),
        "n_train": data["n_train"],
        "n_validation": data["n_validation"],
        **origin,
    }


def _protocol(study: StudyRecord, summary: Summary, objective: Objective) -> dict[str, Any]:
    """Describe how the score was measured. Two versions are compared only if all of this is equal."""
    return {
        **_data(study, objective),
        "metric": study.metric,
        "direction": "maximize" if study.maximize else "minimize",
        "epochs": study.attrs[records.FINGERPRINT]["epochs"],
        "fresh_seeds": len(summary.confirmed.values) if summary.confirmed else 0,
        "refit": "yes" if summary.refit else "no",
    }


def _data(study: StudyRecord, objective: Objective) -> dict[str, str]:
    """Identify the data of training and validation. An objective without images has them in its fingerprint."""
    if not isinstance(objective, ImageClassifier):
        fingerprint = json.dumps(dict(objective.fingerprint()), sort_keys=True)
        return {"objective": str(study.attrs[records.FINGERPRINT]["objective"]), "dataset": fingerprint}
    info, (images, labels) = objective.dataset_info(), objective.validation_images()
    validation = hashlib.sha256(np.ascontiguousarray(images).data)
    validation.update(np.ascontiguousarray(labels).data)
    split = f"{info['n_train']} and {info['n_validation']}, {validation.hexdigest()[:12]}"
    return {"dataset": info["digest"], "split": split}
