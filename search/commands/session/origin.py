"""Where a study comes from: command, versions and dataset, stored with it and tagged on its MLflow runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.commands.setup import SearchPlan
from search.common.passwords import bare
from search.common.system import provenance
from search.study import records
from search.study.study import StoredStudy
from search.tracking.journal import PARENT
from search.tracking.tracker import Tracking


def store_origin(plan: SearchPlan, study: StoredStudy) -> None:
    """Store how the study is made, for commands that open it later. The first start's provenance stays."""
    study.set_attr(records.OBJECTIVE, {"target": plan.spec.target, "options": dict(plan.spec.options)})
    study.set_attr(records.TARGET, plan.config.trials)
    study.set_attr(records.TRACKING, bare(plan.config.tracking_uri or ""))
    if records.PROVENANCE not in study.attrs():
        study.set_attr(records.PROVENANCE, provenance(plan.config.seed, plan.dataset))


def run_tags(study: StoredStudy, devices: list[str]) -> dict[str, str]:
    """Tags of every run of the study: name, devices, versions, commit."""
    origin = study.attrs()[records.PROVENANCE]
    tags = {"optuna.study.name": study.name, "device": ", ".join(sorted(set(devices)))}
    tags |= {"mlflow.source.name": "python -m search", "mlflow.source.type": "LOCAL"}
    tags |= {f"version.{package}": installed for package, installed in origin["versions"].items()}
    if origin["git_commit"]:
        tags["mlflow.source.git.commit"] = origin["git_commit"]
    return tags


def open_parent_run(plan: SearchPlan, study: StoredStudy, tracking: Tracking, devices: list[str]) -> None:
    """Open the study's own run in MLflow, or go on with it."""
    tags = {**run_tags(study, devices), "kind": "study", "command": study.attrs()[records.PROVENANCE]["command"]}
    tags |= {f"setting.{name}": str(value) for name, value in _settings(plan, study).items()}
    tracking.open_run(PARENT, f"search {study.name}", tags=tags, dataset=plan.dataset)


def _settings(plan: SearchPlan, study: StoredStudy) -> Mapping[str, Any]:
    config = plan.config
    return {
        "trials": config.trials,
        "epochs": study.epochs,
        "sampler": config.sampler,
        "pruner": config.pruner,
        "seed": config.seed,
        "objective": plan.spec.target,
        "fix": ", ".join(config.fix),
        **plan.scope.limits.as_settings(),
        "patience": config.patience,
        "warm_start": config.warm_start,
        **plan.goal,
    }
