"""The tags and metadata of a registered version, and the comparison of two versions.

A version's tags hold its score and the protocol by which it was measured. Only equal protocols are compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from objectives.base import Exportable, ImageClassifier, Objective, Params
from objectives.functions.objective import FunctionObjective
from search.common.direction import Direction
from search.study import records
from search.study.records import StudyRecord
from search.study.space.mlflow_names import mlflow_name
from search.study.space.objective_calls import call
from search.study.summary import Summary
from search.study.texts.ensembles import members_text
from search.tracking import lengths
from search.tracking.registry.programs import as_model, read_program
from search.tracking.store import RUN_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from torch import nn

SCORE_TAG = "validation"  # the confirmed mean, or else the score in the search; and the gain of an ensemble
PROTOCOL_TAG = "protocol."  # prefix of the tags that say how the score was measured


def can_be_registered(objective: Objective) -> bool:
    """Return whether the objective can build a network and example inputs, or is a function, which may log a model."""
    return isinstance(objective, ImageClassifier | Exportable | FunctionObjective)


class TrainedNetwork(NamedTuple):
    """The results of a training, to be registered alone or as a member of an ensemble."""

    params: Params
    weights: Callable[[], bytes]  # reads its state_dict, or the program that a function has logged
    share: float = 1.0  # its weight in the ensemble


@dataclass(frozen=True)
class TrainedModel:
    """A trained network to register."""

    build: Callable[[], nn.Module]  # on the CPU, in evaluation mode
    example: NDArray[Any]  # a few of its inputs, shape (n, ...)

    @classmethod
    def of(cls, objective: Objective, trained: Sequence[TrainedNetwork], temperature: float = 1.0) -> Self:
        """Make the model of a training. A classifier returns probabilities: the softmax of logits / temperature.

        trained: one training; of a classifier, several make an ensemble. Raises UnpublishableError.
        """
        (params, weights, _), *_ = trained
        if isinstance(objective, FunctionObjective):
            network, example = as_model(read_program(weights()))
            return cls(lambda: network, example)
        if isinstance(objective, ImageClassifier):
            images, _ = objective.validation_images()
            example = (images[:4] / 255).astype(np.float32)
            return cls(lambda: _probabilities(objective, trained, temperature), example)
        assert isinstance(objective, Exportable)
        example = np.asarray(call("example_input", objective.example_input))
        return cls(lambda: call("load_weights", objective.load_weights, params, weights()).eval(), example)


def classifier(objective: ImageClassifier, trained: Sequence[TrainedNetwork], temperature: float) -> nn.Module:
    """Return the network that gives logits / temperature, on the CPU, in evaluation mode.

    It is the trained one or, of several, an ensemble, whose logits are the logarithm of the mean probabilities.
    """
    from objectives.images.models import Averaged, Tempered

    networks = [call("load_weights", objective.load_weights, each.params, each.weights()) for each in trained]
    whole: nn.Module = networks[0] if len(networks) == 1 else Averaged(networks, [each.share for each in trained])
    return (whole if temperature == 1 else Tempered(whole, temperature)).eval()


def _probabilities(objective: ImageClassifier, trained: Sequence[TrainedNetwork], temperature: float) -> nn.Module:
    from objectives.images.models import Probabilities

    return Probabilities(classifier(objective, trained, temperature)).eval()


def tags(study: StudyRecord, summary: Summary, objective: Objective, example: NDArray[Any], run: str) -> dict[str, str]:
    """Return the version's tags: its origin, figures and protocol. `run` is the winner's run as `RUN_TAG` has it."""
    figures = {name: f"{value:.4f}" for name, value in summary.figures(study.metric).items()}
    score = summary.score + (study.direction.sign * summary.ensemble.gain if summary.ensemble else 0.0)
    origin = {RUN_TAG: run, "study": study.name, "trial": str(summary.number), SCORE_TAG: repr(score)}
    if summary.ensemble:
        origin["ensemble"] = members_text(summary.ensemble)
    measured = {**_data(study, objective, example), **_protocol(study, summary)}
    protocol = {f"{PROTOCOL_TAG}{key}": str(value) for key, value in measured.items()}
    values = {**origin, "network": summary.network, **figures, **protocol}
    limit = lengths.VERSION_TAG_VALUE
    return {mlflow_name(name): lengths.cut_distinct(value, limit) for name, value in values.items()}


def metadata(study: StudyRecord, summary: Summary, objective: Objective, example: NDArray[Any]) -> dict[str, Any]:
    """Return the metadata stored in the model itself."""
    origin = {"study": study.name, "trial": summary.number, "architecture": summary.label, "network": summary.network}
    origin |= summary.figures(study.metric)
    if summary.ensemble:
        origin |= {"ensemble": members_text(summary.ensemble), "parameters": summary.ensemble.parameters}
    if not isinstance(objective, ImageClassifier):
        inputs = {"shape": list(example.shape[1:]), "dtype": str(example.dtype)}
        return {**inputs, "data": dict(objective.fingerprint()), **origin}
    info = objective.dataset_info()
    data = {"dataset": info["name"], "dataset_digest": info["digest"], "shape": list(info["shape"])}
    data["image_size"] = info.get("image_size")
    data |= {"n_train": info["n_train"], "n_validation": info["n_validation"]}
    return {"classes": list(objective.class_names()), "framing": dict(objective.framing()), **data, **origin}


def _protocol(study: StudyRecord, summary: Summary) -> dict[str, Any]:
    trainings = len(summary.confirmed.values) if summary.confirmed else 0
    folds = summary.confirmation.folds if summary.confirmation else None
    return {
        "metric": study.metric,
        "direction": study.direction.value,
        "epochs": study.attrs[records.FINGERPRINT]["epochs"],
        "fresh_seeds": f"{trainings} on {folds.number} folds" if folds else trainings,
        "refit": "yes" if summary.refit else "no",
    }


def _data(study: StudyRecord, objective: Objective, example: NDArray[Any]) -> dict[str, str]:
    """Identify the data of training and validation. An objective without images has them in its fingerprint.

    A function says nothing about its data. Models that take other inputs cannot replace each other, so these count.
    """
    target = str(study.attrs[records.FINGERPRINT]["objective"])
    if isinstance(objective, FunctionObjective):
        return {"objective": target, "input": f"{example.dtype} {('n', *example.shape[1:])}".replace("'", "")}
    if not isinstance(objective, ImageClassifier):
        return {"objective": target, "dataset": json.dumps(dict(objective.fingerprint()), sort_keys=True)}
    info, (images, labels) = objective.dataset_info(), objective.validation_images()
    validation = hashlib.sha256(np.ascontiguousarray(images).data)
    validation.update(np.ascontiguousarray(labels).data)
    split = f"{info['n_train']} and {info['n_validation']}, {validation.hexdigest()[:12]}"
    return {"dataset": info["digest"], "split": split}


@dataclass(frozen=True)
class ScoredVersion:
    """A version's number, score and protocol. Versions of other programs have no score."""

    number: int
    score: float | None
    protocol: Mapping[str, str]

    @classmethod
    def of(cls, version: ModelVersion) -> ScoredVersion:
        """Read a version's tags."""
        tags, n = version.tags, len(PROTOCOL_TAG)
        protocol = {key[n:]: value for key, value in tags.items() if key.startswith(PROTOCOL_TAG)}
        return cls(int(version.version), float(tags[SCORE_TAG]) if SCORE_TAG in tags else None, protocol)

    def beats(self, other: ScoredVersion) -> bool:
        """Return whether this score is better. Both versions have one."""
        assert self.score is not None
        assert other.score is not None
        return Direction.of(maximize=self.protocol.get("direction") != "minimize").better(self.score, other.score)


def versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return all versions of a registered model, oldest first."""
    return sorted(client.search_model_versions(f"name = '{name}'", max_results=1000), key=lambda v: int(v.version))


def newest_versions(client: MlflowClient) -> dict[str, int]:
    """Return the newest version of each registered model that has one, by name."""
    models = sorted(client.search_registered_models(), key=lambda model: str(model.name))
    numbers = {str(model.name): [int(version.version) for version in model.latest_versions] for model in models}
    return {name: max(found) for name, found in numbers.items() if found}


def model_names(client: MlflowClient) -> str:
    """List the registered models that have versions, for a message."""
    return ", ".join(newest_versions(client)) or "none"


def why_not_champion(client: MlflowClient, name: str, version: str, champion: str) -> str:
    """Explain to the user why a version did not replace the champion."""
    scored = {str(entry.number): entry for entry in map(ScoredVersion.of, versions(client, name))}
    return f"version {champion} of {name} stays champion: {_why_not(name, scored[version], scored[champion])}"


def _why_not(name: str, version: ScoredVersion, champion: ScoredVersion) -> str:
    if champion.score is None or version.score is None:
        return "it was promoted by hand, and one of the two versions has no score"
    here, there = version.protocol, champion.protocol
    keys = [key for key in sorted({*here, *there}) if here.get(key) != there.get(key)]
    if "metric" in keys:  # it has its direction
        keys = ["metric", *(key for key in keys if key not in ("metric", "direction"))]
    differing = [
        f"{key.replace('_', ' ')} ({there.get(key, 'unknown')} there, {here.get(key, 'unknown')} here)" for key in keys
    ]
    if differing:
        reason = f"the two cannot be compared, because they differ in {', '.join(differing)}"
        return f"{reason}. To move the alias anyway, type: python -m search promote {name}/{version.number}"
    if version.beats(champion):
        return f"it was promoted by hand when version {version.number} was already there"
    metric, verb = here.get("metric", SCORE_TAG), "equals" if version.score == champion.score else "is behind"
    return f"{metric} {version.score:.4f} {verb} its {champion.score:.4f}"
