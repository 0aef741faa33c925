"""The stored networks of a study's trainings: where their weights are, and what they predict."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from objectives.base import ImageClassifier, Params
from objectives.devices import is_out_of_memory
from objectives.functions.objective import FunctionObjective
from search.common.config import Config
from search.common.errors import RunGoneError, TrackingError
from search.common.workspace import TrainingFiles, Workspace
from search.study.selection.calibration import probabilities_at
from search.study.selection.ensembles import weighted_mean
from search.study.selection.kept import why_deleted
from search.study.space.objective_calls import ContractError, call
from search.study.study import StoredStudy
from search.study.summary import Ensemble, Summary
from search.tracking.journal import trial_run
from search.tracking.registry.programs import weights_artifact
from search.tracking.registry.version import TrainedNetwork
from search.tracking.tracker import Tracking


@dataclass(frozen=True)
class StoredNetworks:
    """The networks of one study. `device` is where they predict."""

    study: StoredStudy
    tracking: Tracking
    config: Config
    device: str

    @property
    def files(self) -> TrainingFiles:
        return Workspace(self.config.workspace).training_files(self.study.name, self.study.uid)

    def run_id(self, run: str, *, answers: bool) -> str | None:
        """MLflow's id of a run, None if unknown. If the journal was lost, a store that `answers` is asked."""
        if (run_id := self.tracking.mlflow_id(run)) is None and answers:
            from search.tracking.registry.registration import find_run

            run_id = find_run(self.config.mlflow_uri, self.study.uid, run)
            if run_id is not None:
                self.tracking.know(run, run_id)
        return run_id

    def weights(self, run: str) -> bytes | None:
        """Read a training's weights or program from the workspace or its run in MLflow. None if there are none."""
        if (path := self.files.weights_of(run)).exists():
            return path.read_bytes()
        from search.tracking.registry.loading import download

        if (run_id := self.run_id(run, answers=True)) is None:
            return None
        name = weights_artifact(is_function=isinstance(self.study.objective, FunctionObjective))
        return download(self.config.mlflow_uri, run_id, name)

    def read_weights(self, run: str) -> bytes:
        """A training's weights, or a function's program. Raises TrackingError if they are nowhere."""
        if (weights := self.weights(run)) is None:
            raise TrackingError(self._why_no_weights(run, f"at {self.files.weights_of(run)}"))
        return weights

    def _why_no_weights(self, run: str, place: str) -> str:
        """Say that a training's weights are neither in a place nor in MLflow, and that `--keep` deleted them if so."""
        study, missing = self.study.record(), f"the weights of {run} are neither {place} nor in MLflow"
        is_deleted = any(trial.weights_deleted and trial_run(trial.number) == run for trial in study.trials)
        return f"{missing}: {why_deleted(study)}" if is_deleted else missing

    def _params(self, ensemble: Ensemble) -> list[Params]:
        """The objective's parameters of each member."""
        sampled = {trial.number: trial.params for trial in self.study.record().trials}
        return [self.study.params_of(sampled[member.number]) for member in ensemble.members]

    def registered(self, summary: Summary) -> Sequence[TrainedNetwork]:
        """The network that is tested and registered: the winner's, or several that make an ensemble."""
        if summary.ensemble is None:
            params = self.study.params_of(summary.params)
            return [TrainedNetwork(params, lambda: self.read_weights(summary.run))]
        members, shares = summary.ensemble.members, summary.ensemble.shares
        return [
            TrainedNetwork(params, partial(self.read_weights, member.run), share)
            for member, params, share in zip(members, self._params(summary.ensemble), shares, strict=True)
        ]

    def logits(self, run: str, params: Params, images: NDArray[np.uint8]) -> NDArray[np.float32] | str:
        """The logits (n, k) of a training's network for images, or why there are none."""
        from objectives.images.training.loop import predict_logits

        objective = self.study.objective
        assert isinstance(objective, ImageClassifier)
        try:
            weights = self.weights(run)
        except RunGoneError:
            weights = None
        if weights is None:
            return self._why_no_weights(run, "in the workspace")
        network = call("load_weights", objective.load_weights, params, weights)
        try:
            logits: NDArray[np.float32] = call("the network", predict_logits, network, images, self.device)
        except ContractError as error:
            if self.device == "cpu" or not is_out_of_memory(error):
                raise
            logits = call("the network", predict_logits, network, images, "cpu")  # workers may still fill the GPU
        if logits.shape != (shape := (len(images), len(objective.class_names()))):
            return f"the network of {run} gives logits of shape {logits.shape} instead of {shape}"
        return logits if np.isfinite(logits).all() else f"the network of {run} gives logits that are not finite"

    def ensemble_logits(self, ensemble: Ensemble, images: NDArray[np.uint8]) -> NDArray[np.float32] | str:
        """The logits (n, k) of the trials' networks as an ensemble, or why there are none."""
        trained = zip(ensemble.members, self._params(ensemble), strict=True)
        found = [self.logits(trial_run(member.number), params, images) for member, params in trained]
        if problems := [rows for rows in found if isinstance(rows, str)]:
            return "; ".join(problems)
        rows = [probabilities_at(1, logits) for logits in found if not isinstance(logits, str)]
        mean = weighted_mean(rows, [member.picks for member in ensemble.members])
        return np.log(np.maximum(mean, np.finfo(np.float32).tiny)).astype(np.float32)
