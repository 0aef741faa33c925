"""`--ensemble K`: chooses the networks that are averaged with the winner's, once for each set of trials."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from objectives.base import ImageClassifier
from objectives.metrics import metric_of
from search.commands.session.networks import StoredNetworks
from search.study import records
from search.study.records import TrialRecord
from search.study.selection.calibration import probabilities_at
from search.study.selection.ensembles import Selection
from search.study.selection.winner import completed
from search.study.space.limits import Limits
from search.study.space.objective_calls import call
from search.study.summary import Ensemble, Member, Summary
from search.study.texts.ensembles import alone_text
from search.study.texts.presenter import Decimals
from search.tracking.journal import trial_run

MAX_CANDIDATES = 25
"""Trials whose networks are compared: the best ones, and the winner."""


def with_ensemble(
    networks: StoredNetworks, winner: Summary, at_most: int, limits: Limits, check: Callable[[], None]
) -> Summary:
    """Return the winner with its ensemble if that pays, else with a note that says why it stays alone.

    The study stores the choice, so a killed search has the same one again. `check` is called between networks, and may
    raise. Raises TrackingError if MLflow has weights but does not answer.
    """
    trials = _candidates(networks, winner)
    asked = {"at_most": at_most, "winner": winner.number, "trials": [trial.number for trial in trials]}
    stored = networks.study.attrs().get(records.ENSEMBLE) or {}
    ensemble = Ensemble.from_dict(stored["chosen"]) if stored.get("asked") == asked else None
    deleted = {trial.number for trial in trials if trial.weights_deleted}
    if ensemble is None or (ensemble.pays and deleted & {member.number for member in ensemble.members}):
        found = _choose(networks, trials, at_most, limits, check)
        if isinstance(found, str):
            return winner.noted(f"--ensemble {at_most}: {found}, so the winner stays alone")
        ensemble = found
        networks.study.set_attr(records.ENSEMBLE, {"asked": asked, "chosen": asdict(ensemble)})
    if ensemble.pays:
        return winner.with_ensemble(ensemble)
    return winner.noted(alone_text(ensemble, at_most, Decimals().gain))


def _candidates(networks: StoredNetworks, winner: Summary) -> list[TrialRecord]:
    """The winning trial, then the best others that have weights, or had them at the stored choice, which thus stays."""
    best, stored = completed(networks.study.record()), networks.study.attrs().get(records.ENSEMBLE) or {}
    chosen_from = stored.get("asked", {}).get("trials", ())
    having = [trial for trial in best if not trial.weights_deleted or trial.number in chosen_from]
    others = [trial for trial in having if trial.number != winner.number]
    return [*(trial for trial in best if trial.number == winner.number), *others[: MAX_CANDIDATES - 1]]


def _choose(
    networks: StoredNetworks, trials: Sequence[TrialRecord], at_most: int, limits: Limits, check: Callable[[], None]
) -> Ensemble | str:
    """Choose by the validation predictions of the trials' networks; or say why there are none of the winner."""
    objective = networks.study.objective
    assert isinstance(objective, ImageClassifier), "the plan allows it only for these"
    images, labels = call("validation_images", objective.validation_images)
    if len(labels) < 2:
        return "there are fewer than two validation images"
    predicted: dict[int, NDArray[np.float32]] = {}
    for trial in trials:
        check()
        if trial.weights_deleted and trial is not trials[0]:
            continue
        logits = networks.logits(trial_run(trial.number), networks.study.params_of(trial.params), images)
        if not isinstance(logits, str):
            predicted[trial.number] = probabilities_at(1, logits).astype(np.float32)
        elif trial is trials[0]:
            return logits
    candidates = [trial for trial in trials if trial.number in predicted]

    def allows(members: Any) -> bool:
        costs = {name: sum(candidates[i].metrics.get(name, np.inf) for i in members) for name in limits.as_dict()}
        return limits.allow(costs)

    metric = metric_of(objective.metric)
    assert metric is not None, "the plan allows it only for these"
    selection, rows = Selection(metric, at_most, allows), list(predicted.values())
    gain, error = selection.gain(labels, rows)
    picks = selection.picks(labels, rows)
    members = [_member(candidates[index], picks.count(index)) for index in dict.fromkeys(picks)]
    return Ensemble(tuple(members), gain, error, len(labels), len(candidates))


def _member(trial: TrialRecord, picks: int) -> Member:
    return Member(trial.number, trial.label, trial_run(trial.number), picks, trial.metrics.get("parameters"))
