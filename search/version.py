"""What a registered version says of itself: its tags, its metadata, and how its figures were measured."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from objectives.base import ImageClassifier
from search import records
from search.promotion import PROTOCOL_TAG, SCORE_TAG
from search.records import StudyRecord, Summary


def tags(study: StudyRecord, summary: Summary, objective: ImageClassifier, run: str) -> dict[str, str]:
    """Whose the version is, its figures, and its protocol; `run` is the search's own name of the winner's run."""
    figures = summary.figures(study.metric)
    shown = {name: f"{value:.4f}" for name, value in figures.items()}
    own = {"search.run": run, "study": study.name, "trial": str(summary.number), SCORE_TAG: repr(summary.score)}
    protocol = {f"{PROTOCOL_TAG}{key}": str(value) for key, value in _protocol(study, summary, objective).items()}
    return {**own, "network": summary.network, **shown, **protocol}


def metadata(study: StudyRecord, summary: Summary, objective: ImageClassifier) -> dict[str, Any]:
    """What is kept in the model itself, for whoever loads it."""
    data = dict(objective.dataset_info())
    return {
        "classes": list(objective.class_names()),
        "framing": dict(objective.framing()),
        "dataset": data["name"],
        "dataset_digest": data["digest"],
        "shape": list(data["shape"]),
        "n_train": data["n_train"],
        "n_validation": data["n_validation"],
        "study": study.name,
        "trial": summary.number,
        "architecture": summary.label,
        "network": summary.network,
        **summary.figures(study.metric),
    }


def _protocol(study: StudyRecord, summary: Summary, objective: ImageClassifier) -> dict[str, Any]:
    """How the score was measured: what must be equal for two versions to be compared."""
    info, (images, labels) = objective.dataset_info(), objective.validation_images()
    held_back = hashlib.sha256(np.ascontiguousarray(images).data)
    held_back.update(np.ascontiguousarray(labels).data)
    return {
        "dataset": info["digest"],
        "split": f"{info['n_train']} and {info['n_validation']}, {held_back.hexdigest()[:12]}",
        "metric": study.metric,
        "direction": "maximize" if study.maximize else "minimize",
        "epochs": study.attrs[records.FINGERPRINT]["epochs"],
        "fresh_seeds": summary.confirmation.seeds if summary.confirmation and summary.confirmed else 0,
        "refit": "yes" if summary.refit else "no",
    }
