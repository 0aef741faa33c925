"""From Python: load a registered model, or the network of any trial."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from objectives.data.files.image_files import Framing
from search.commands.setup import stored_objective
from search.commands.studies import is_of_function, read_study, tracked_elsewhere
from search.common.config import Config
from search.common.errors import ModelNotFoundError, TrackingError, UsageError
from search.study import records
from search.study.selection.kept import why_deleted
from search.study.space.asked_trial import StoredTrial
from search.study.space.objective_calls import call, explain_errors
from search.study.space.space import WHOLE_SPACE
from search.tracking.registry.loading import download, load_registered, require_store
from search.tracking.registry.programs import NEVER_LOGGED, PROGRAM, as_module, read_program
from search.tracking.store import unchanged_process

if TYPE_CHECKING:
    import torch

BATCH_SIZE = 500


class Predictions(NamedTuple):
    """Predictions of a classifier for n images."""

    labels: NDArray[np.int64]
    """The most probable classes, shape (n,): indices into `Predictor.classes`."""
    probabilities: NDArray[np.float32]
    """Shape (n, k), in the order of `Predictor.classes`."""
    names: NDArray[np.str_]
    """Their names, shape (n,): texts, also where they are digits. Compare them with texts, and labels with integers."""


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A registered model."""

    uri: str
    """Its URI in MLflow, such as `models:/mnist@champion`."""
    version: str | None
    """Its version in the registry, also when `uri` is an alias; None for a model outside the registry."""
    metadata: Mapping[str, Any] = field(repr=False)
    """Stored by the search with the model: study, trial, dataset, figures."""
    model: Any = field(repr=False)
    """MLflow's `PyFuncModel`."""

    def __str__(self) -> str:
        """Its URI, and the version that an alias stands for."""
        return f"{self.uri}, version {self.version}" if "@" in self.uri else self.uri


@dataclass(frozen=True, kw_only=True)
class Model(Registered):
    """A registered model of any kind, such as one that a function has logged."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its inputs."""
        dtype: np.dtype[Any] = np.dtype(self.metadata.get("dtype", "float32"))
        return dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, without n."""
        return tuple(self.metadata["shape"])

    def predict(self, inputs: ArrayLike) -> NDArray[Any]:
        """Return the outputs, shape (n, ...), for inputs of shape (n, *shape).

        Numbers are converted to the type that the model takes. Raises ValueError, with advice, for anything else.
        """
        array, dtype = np.asarray(inputs), self.dtype
        if array.ndim == 0 or array.shape[1:] != self.shape:
            allowed = f"({', '.join(['n', *map(str, self.shape)])})"
            hint = "; a single input goes in as inputs[None]" if array.shape == self.shape else ""
            raise ValueError(f"inputs have shape {array.shape}, this model wants {allowed}{hint}")
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise ValueError(
                f"inputs are {array.dtype}, this model wants {dtype}; convert them with .astype('{dtype}')"
            )
        with warnings.catch_warnings(action="ignore"):
            return np.asarray(self.model.predict(array.astype(dtype)))


@dataclass(frozen=True, kw_only=True)
class Predictor(Registered):
    """A registered classifier of images."""

    classes: tuple[str, ...]
    """Names of the k classes, in the order of the network's outputs: a folder's in alphabetical order."""
    framing: Framing
    """Size, channels and polarity of the images in training."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of its images."""
        return self.framing.channels, *self.framing.size

    def predict(self, images: ArrayLike) -> Predictions:
        """Classify images.

        images: (n, h, w) if the network takes one channel, else (n, c, h, w); uint8, or floats in [0, 1]. They must be
        bright on dark, or dark on bright, as in training: nothing is inverted, scaled or centred here.
        Raises ValueError, with advice, for anything else.
        """
        pixels = as_input(images, self.shape)
        parts = [np.empty((0, len(self.classes)), np.float32)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for first in range(0, len(pixels), BATCH_SIZE):
                parts.append(np.asarray(self.model.predict(pixels[first : first + BATCH_SIZE]), dtype=np.float32))
        probabilities = np.concatenate(parts)
        labels = probabilities.argmax(1).astype(np.int64)
        return Predictions(labels, probabilities, np.array(self.classes)[labels])


def load(model: str | None = None, *, workspace: str | Path = ".", tracking_uri: str | None = None) -> Predictor:
    """Load a registered classifier of images: `mnist` is the champion of that name, `mnist/3` a version.

    `mnist@challenger` is an alias. Without a name, load the newest champion. `workspace` is the folder where the search
    ran. Raises ModelNotFoundError for an unknown model and for one of another kind, which `load_model` loads, and
    TrackingError if MLflow does not answer.
    """
    loaded = load_model(model, workspace=workspace, tracking_uri=tracking_uri)
    about, metadata = {key.name: getattr(loaded, key.name) for key in fields(loaded)}, loaded.metadata
    if "classes" not in metadata or "framing" not in metadata:
        advice = f"Name another model, or load this one in Python with search.load_model({loaded.uri!r})"
        raise ModelNotFoundError(f"{loaded.uri} is not a classifier of images that a search registered. {advice}")
    return Predictor(classes=tuple(metadata["classes"]), framing=Framing.of(metadata["framing"]), **about)


def load_model(model: str | None = None, *, workspace: str | Path = ".", tracking_uri: str | None = None) -> Model:
    """Load a registered model of any kind, named as for `load`. It takes and returns arrays. Raises as `load` does."""
    config = Config(workspace=Path(workspace), tracking_uri=tracking_uri)
    require_store(config)
    with unchanged_process():
        uri, version, loaded = load_registered(config.mlflow_uri, model)
    return Model(uri=uri, version=version, metadata=loaded.metadata.metadata or {}, model=loaded)


def load_trial(
    study: str,
    number: int | str,
    *,
    workspace: str | Path = ".",
    storage: str | None = None,
    tracking_uri: str | None = None,
) -> torch.nn.Module:
    """Load the network of any trial with its weights, on the CPU, in evaluation mode.

    number: the trial's, also as text: 2, "2" and "#002" are the same. The study's objective builds the network. It maps
    float32 (n, c, h, w) in [0, 1] to logits (n, k). If the objective is a function, the module is what the trial gave
    to `search.log_model`. Raises UsageError for an unknown study or trial, ModelNotFoundError for a trial without
    weights or model, ObjectiveError if the objective fails here.
    """
    config = Config(workspace=Path(workspace), storage=storage, tracking_uri=tracking_uri)
    record = read_study(config, study)
    trial = _trial(record, number)
    if records.OBJECTIVE not in record.attrs:
        raise UsageError(f"study {study!r} was not made by a search, so its networks are unknown")
    if (hint := tracked_elsewhere(config, record.attrs)) is not None:
        raise UsageError(f"study {study!r}: {hint}")
    if is_of_function(record.attrs):  # it is not needed here, and may be in a notebook that is gone
        if not record.attrs.get(records.MODELS):
            raise ModelNotFoundError(f"study {study!r} has no models: {NEVER_LOGGED}")
        program = _stored(config, record, trial, PROGRAM, "model that can be read")
        with unchanged_process():
            return as_module(read_program(program))
    spec = stored_objective(record.attrs)
    objective = spec.load()
    if not hasattr(objective, "load_weights"):
        advice = "give it a method load_weights(params, weights)"
        raise UsageError(f"the objective of study {study!r} cannot load weights; {advice}")
    weights = _stored(config, record, trial, "weights.pt", "weights that can be read")
    with explain_errors(spec.target):
        params = WHOLE_SPACE.suggest(objective, StoredTrial(trial.params))
        network: torch.nn.Module = call("load_weights", objective.load_weights, params, weights)
    return network


def _stored(config: Config, study: records.StudyRecord, trial: records.TrialRecord, artifact: str, what: str) -> bytes:
    """Read an artifact of a trial's run. Raises ModelNotFoundError if there is none; `what` names it."""
    absent = f"trial {trial.number} of {study.name!r} ({trial.state.name.lower()}) has no {what}"
    if trial.run_id is None:
        raise ModelNotFoundError(f"{absent}: it has no MLflow run")
    require_store(config)
    try:
        with unchanged_process():
            content = download(config.mlflow_uri, trial.run_id, artifact)
    except TrackingError as error:
        raise ModelNotFoundError(f"{absent}: {error}") from None
    if content is None and trial.weights_deleted:
        raise ModelNotFoundError(f"{absent}: {why_deleted(study)}")
    if content is None:
        raise ModelNotFoundError(f"{absent}: its run {trial.run_id} has no {artifact}")
    return content


def _trial(study: records.StudyRecord, number: int | str) -> records.TrialRecord:
    """Find a trial by its number, or by a text of it as the pages show it. Raises UsageError."""
    allowed = f"it has 0 to {len(study.all_trials) - 1}" if study.all_trials else "it has none yet"
    try:
        wanted = int(number.strip().removeprefix("#")) if isinstance(number, str) else operator.index(number)
    except (TypeError, ValueError):
        raise UsageError(f"trial {number!r} of study {study.name!r}: give a whole number; {allowed}") from None
    trial = next((trial for trial in study.trials if trial.number == wanted), None)
    if any(trial.number == wanted for trial in study.foreign):
        raise UsageError(f"trial {wanted} of study {study.name!r} has no network here: another program has added it")
    if trial is None:
        raise UsageError(f"study {study.name!r} has no trial {wanted}; {allowed}")
    return trial


def as_input(images: ArrayLike, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Convert images of `shape` (c, h, w) to float32 (n, c, h, w) in [0, 1]. Raises ValueError with advice."""
    c, h, w = shape
    allowed = f"(n, {c}, {h}, {w})" + (f" or (n, {h}, {w})" if c == 1 else "")
    try:
        array = np.asarray(images)
    except ValueError:
        raise ValueError(f"images differ in shape; each must be {allowed}") from None
    if array.dtype.kind in "OSU":
        advice = "Image files are read by python -m search predict FILE"
        raise ValueError(f"images hold no numbers; give an array of shape {allowed}. {advice}")
    if array.ndim == 3 and c == 1 and array.shape[1:] == (h, w):
        array = array[:, None]
    if array.ndim != 4 or array.shape[1:] != shape:
        raise ValueError(f"images have shape {array.shape}, this network wants {allowed}{_shape_hint(array, shape)}")
    if array.dtype == np.uint8:
        return (array / 255).astype(np.float32)
    if not np.issubdtype(array.dtype, np.floating):
        advice = "Whole numbers from 0 to 255 become the former with .astype('uint8')"
        raise ValueError(f"images are {array.dtype}; give uint8 (0 to 255), or floats in [0, 1]. {advice}")
    if not np.isfinite(array).all():
        raise ValueError("images hold values that are not finite (NaN or infinity)")
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        advice = "(divide by 255 what goes to 255), not normalised: the network does that itself"
        raise ValueError(f"images are floats from {array.min():g} to {array.max():g}; give floats in [0, 1] {advice}")
    return array.astype(np.float32)


def _shape_hint(array: NDArray[np.generic], shape: tuple[int, int, int]) -> str:
    c, h, w = shape
    if array.shape in (shape, (h, w)):
        return "; a single image goes in as images[None]"
    if array.shape[1:] == (h, w, c):
        return "; channels come first: images.transpose(0, 3, 1, 2)"
    if array.ndim == 2 and array.shape[1] == c * h * w:
        return f"; rows of pixels become images with images.reshape(-1, {c}, {h}, {w})"
    return ""
