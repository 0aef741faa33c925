"""A study in Optuna's storage: its attributes and trials, and how it is created or opened.

Its fingerprint holds objective, dataset, space, limits and epochs; values of another fingerprint cannot be compared.
`search.study.sampling.sampling_study` samples the trials.
"""

import uuid
import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.study import StudyDirection

from objectives.base import ImageClassifier, Objective, Params, Scaled
from objectives.functions.objective import FunctionObjective
from objectives.metrics import metric_of
from search.common.direction import Direction
from search.common.errors import StudyMismatchError
from search.common.workspace import slug
from search.study import records
from search.study.space.asked_trial import StoredTrial
from search.study.space.limits import Limits
from search.study.space.objective_calls import folds_of, require_fingerprint
from search.study.space.space import WHOLE_SPACE, Space, format_distribution, search_space
from search.study.storage.writer import WriterStorage
from search.study.summary import Folds

NO_LIMITS = Limits()
SPACE = "search space"
IMAGE_SIZE = "--image-size"  # key of a fingerprint, if it is given
CODE = "code"
SCALE = "scale"
METRIC = "metric"


class StoredStudy:
    """One study in the storage, and the objective it was made for. Used by one thread."""

    def __init__(self, storage: WriterStorage, study_id: int, objective: Objective) -> None:
        self.storage, self.study_id, self.objective = storage, study_id, objective

    @cached_property
    def name(self) -> str:
        return self.storage.get_study_name_from_id(self.study_id)

    @cached_property
    def uid(self) -> str:
        """An id that distinguishes this study from an earlier one of the same name."""
        return str(self.attrs()[records.UID])

    @property
    def direction(self) -> Direction:
        return Direction(self.objective.direction)

    @property
    def epochs(self) -> int | None:
        """Epochs of a whole training; None until the first worker's device has decided."""
        epochs: int | None = self.attrs()[records.FINGERPRINT]["epochs"]
        return epochs

    def fix_epochs(self, epochs: int) -> None:
        """Store the epochs of a study that has none yet."""
        self._fix({"epochs": epochs})

    @property
    def has_scale(self) -> bool:
        """False for a study whose objective has scales, until one is chosen."""
        return not isinstance(self.objective, Scaled) or stored_scale(self.attrs()) is not None

    def fix_scale(self, space: Space) -> None:
        """Store the objective's scale, and `space` as it is at that scale."""
        assert isinstance(self.objective, Scaled)
        self._fix({SCALE: self.objective.space_scale, SPACE: _distributions(self.objective, space)})

    def _fix(self, decided: Mapping[str, Any]) -> None:
        """Store a part of the fingerprint that was undecided."""
        self.set_attr(records.FINGERPRINT, {**self.attrs()[records.FINGERPRINT], **decided})

    @property
    def folds(self) -> Folds | None:
        """The folds that confirm its best trials, if it was made with them; None: they are confirmed by seeds."""
        folds = folds_of(self.objective)
        return folds if folds and folds.number == self.attrs().get(records.FOLDS) else None

    def attrs(self) -> dict[str, Any]:
        return self.storage.get_study_user_attrs(self.study_id)

    def set_attr(self, key: str, value: Any) -> None:
        self.storage.set_study_user_attr(self.study_id, key, value)

    def note(self, attr: str) -> None:
        """Set an attribute to true, if it is not."""
        if not self.attrs().get(attr):
            self.set_attr(attr, True)

    def params_of(self, sampled: Mapping[str, Any]) -> Params:
        """Convert a trial's sampled parameters to the objective's parameters. Raises ContractError."""
        if isinstance(self.objective, FunctionObjective):
            return dict(sampled)
        return WHOLE_SPACE.suggest(self.objective, StoredTrial(sampled))

    def name_metric(self) -> None:
        """Name the metric for Optuna's dashboard and plots, unless the study has a name for it."""
        if self.optuna_study.metric_names is None and self.objective.metric:
            with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
                self.optuna_study.set_metric_names([str(self.objective.metric)])

    def record(self) -> records.StudyRecord:
        return records.StudyRecord.of(self.optuna_study)

    @cached_property
    def optuna_study(self) -> optuna.Study:
        """The study as an Optuna object, which reads a trial that has ended only once."""
        return optuna.load_study(study_name=self.name, storage=self.storage)

    def delete(self) -> None:
        self.storage.delete_study(self.study_id)


def open_study(
    storage: WriterStorage,
    name: str,
    objective: Objective,
    target: str,
    epochs: int | None,
    space: Space = WHOLE_SPACE,
    limits: Limits = NO_LIMITS,
    dataset: str | None = None,
    identity: str | None = None,
) -> StoredStudy:
    """Open a study, or create it if it does not exist.

    With `epochs` None, an existing study keeps its own. `dataset` is the name that an own objective was given, and
    `identity` the digest of an objective that has no name to import. Raises StudyMismatchError if the fingerprints
    or the numbers of folds differ.
    """
    wanted = _fingerprint(objective, target, epochs, space, limits)
    if dataset is not None and "dataset" not in wanted:  # the objective's own word, such as a digest, says more
        wanted["--dataset"] = dataset
    if identity is not None:
        wanted.setdefault(CODE, identity)
    study_id = find_study(storage, name)
    if study_id is None:
        return _create(storage, name, objective, wanted)
    stored = storage.get_study_user_attrs(study_id).get(records.FINGERPRINT)
    if stored is None and storage.get_n_trials(study_id):
        raise StudyMismatchError(f"study {name!r} was not made by this program; choose another name with --study NAME")
    if stored is None:  # a search was killed while it created the study
        storage.delete_study(study_id)
        return _create(storage, name, objective, wanted)
    study, stored_epochs = StoredStudy(storage, study_id, objective), stored.get("epochs")
    if epochs is None or stored_epochs is None:
        wanted["epochs"] = stored_epochs
    if SCALE in stored:
        wanted[SCALE] = stored[SCALE]
    if different := [*_differences(stored, wanted), *_fold_differences(study)]:
        raise StudyMismatchError(
            f"study {name!r} was made with other settings: {'; '.join(different)}.\n"
            f"Give the original settings, or start another study: add --study {slug(name)}-2 to what you typed"
        )
    if stored_epochs is None and epochs is not None:  # no trial was trained yet
        study.fix_epochs(epochs)
    study.name_metric()
    return study


def require_same_images(study: StoredStudy) -> None:
    """Raise StudyMismatchError if the images of a classifier changed since the study was made.

    Their test split would be another one, in which there are images that the study's networks were trained on.
    """
    if not isinstance(study.objective, ImageClassifier):
        return
    stored, wanted = study.attrs()[records.FINGERPRINT], study.objective.fingerprint()
    if different := list(_differences({**stored, SPACE: {}}, {**stored, **wanted, SPACE: {}})):
        raise StudyMismatchError(
            f"study {study.name!r} was made with other settings: {'; '.join(different)}.\n"
            "Undo the changes, and type the same command again"
        )


def new_uid() -> str:
    """Return an id for a study."""
    return uuid.uuid4().hex[:8]


def stored_scale(attrs: Mapping[str, Any]) -> str | None:
    """Return the scale of a study with these attributes: "" for studies before there were scales, None for undecided.

    `objectives.base.Scaled` explains scales.
    """
    scale: str | None = attrs.get(records.FINGERPRINT, {SCALE: None}).get(SCALE, "")
    return scale


def find_study(storage: RDBStorage, name: str) -> int | None:
    """Return the id of a study, or None if there is none of that name."""
    try:
        return storage.get_study_id_from_name(name)
    except KeyError:
        return None


def _create(storage: WriterStorage, name: str, objective: Objective, fingerprint: Mapping[str, Any]) -> StoredStudy:
    study_id = storage.create_new_study([StudyDirection[objective.direction.upper()]], name)
    study = StoredStudy(storage, study_id, objective)
    study.set_attr(records.UID, new_uid())
    study.set_attr(records.METRIC, objective.metric)
    study.set_attr(records.STEPS_PER_EPOCH, int(objective.steps_per_epoch()))
    study.set_attr(records.FOLDS, folds.number if (folds := folds_of(objective)) else 0)
    study.set_attr(records.FINGERPRINT, fingerprint)
    study.name_metric()
    return study


def _fingerprint(objective: Objective, target: str, epochs: int | None, space: Space, limits: Limits) -> dict[str, Any]:
    """Return the fingerprint of a study. `target` names the objective as MODULE:ATTR."""
    return {
        "objective": target,
        METRIC: f"{objective.direction} {objective.metric}",
        **require_fingerprint(objective),
        "epochs": epochs,
        **({SCALE: None} if isinstance(objective, Scaled) else {}),
        **limits.as_settings(),
        **({"--fix": dict(space.fixed)} if space.fixed else {}),
        SPACE: _distributions(objective, space),
    }


def _distributions(objective: Objective, space: Space) -> dict[str, str]:
    return {name: distribution_to_json(values) for name, values in search_space(objective, space).items()}


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """Describe how two fingerprints differ."""
    for key in sorted({*stored, *wanted} - {SPACE}):
        if stored.get(key) == wanted.get(key):
            continue
        old, new = ("not given" if values.get(key) is None else str(values[key]) for values in (stored, wanted))
        if key == "dataset":
            if stored.get(IMAGE_SIZE) == wanted.get(IMAGE_SIZE):  # of another size, they must differ
                yield f"its images or splits have changed (digest {old[:8]}, now {new[:8]})"
        elif key == METRIC and all(map(metric_of, (old.split()[-1], new.split()[-1]))):
            yield f"--metric was {metric_of(old.split()[-1])}, now {metric_of(new.split()[-1])}"
        elif key == CODE:
            yield "the objective's code, or what it holds, has changed"
        else:
            yield f"{key} was {old}, now {new}"
    yield from _space_differences(stored.get(SPACE, {}), wanted[SPACE])


def _fold_differences(study: StoredStudy) -> Iterator[str]:
    """Describe how the objective's folds differ from the study's. Studies before there were folds have no number."""
    old = study.attrs().get(records.FOLDS)
    new = folds.number if (folds := folds_of(study.objective)) else 0
    if old not in (None, new):
        yield f"n_folds was {old}, now {new}"


def _space_differences(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    texts = [f"{name} was {_range_text(old.get(name))}, now {_range_text(new.get(name))}" for name in changed]
    if texts:
        yield f"in its search space {', '.join(texts[:5])}{' ...' if len(texts) > 5 else ''}"


def _range_text(stored: str | None) -> str:
    return "absent" if stored is None else format_distribution(json_to_distribution(stored))
