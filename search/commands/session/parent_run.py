"""The study's own run in MLflow, and the origin of the study: command, versions, commit and dataset."""

from collections.abc import Iterator
from contextlib import contextmanager

from objectives.base import ObjectiveError
from search.commands.session.session import SearchSession
from search.common.errors import SearchError
from search.common.passwords import bare
from search.common.signals import Interrupted
from search.common.system import provenance
from search.study import records
from search.study.study import StoredStudy
from search.tracking.journal import PARENT

TAGGED_FLAGS = ("trials", "sampler", "pruner", "seed", "patience", "warm_start")


@contextmanager
def parent_run(session: SearchSession, devices: list[str]) -> Iterator[None]:
    """Open or resume the study's run in MLflow. It ends as KILLED or FAILED if the block raises."""
    _store_origin(session)
    study, tracking = session.study, session.tracking
    tags = {**run_tags(study, devices), "kind": "study", "command": study.attrs()[records.PROVENANCE]["command"]}
    plan, config = session.plan, session.plan.config
    settings = {"objective": plan.spec.target, "epochs": study.epochs, "fix": ", ".join(config.fix)}
    settings |= {name: getattr(config, name) for name in TAGGED_FLAGS} | plan.limits.as_settings() | plan.goal
    tags |= {f"setting.{name}": str(value) for name, value in settings.items()}
    tracking.open_run(PARENT, f"search {study.name}", tags=tags, dataset=plan.dataset)
    try:
        yield
    except Interrupted:
        tracking.end_run(PARENT, "KILLED")
        raise
    except (SearchError, ObjectiveError):
        tracking.end_run(PARENT, "FAILED")
        raise


def run_tags(study: StoredStudy, devices: list[str]) -> dict[str, str]:
    """Tags of every run of the study: name, devices, versions, commit."""
    origin = study.attrs()[records.PROVENANCE]
    tags = {"optuna.study.name": study.name, "device": ", ".join(sorted(set(devices)))}
    tags |= {"mlflow.source.name": "python -m search", "mlflow.source.type": "LOCAL"}
    tags |= {f"version.{package}": version for package, version in origin["versions"].items()}
    return tags | ({"mlflow.source.git.commit": origin["git_commit"]} if origin["git_commit"] else {})


def _store_origin(session: SearchSession) -> None:
    """Store how the study is made, for later commands. The provenance of the first start stays."""
    plan, study = session.plan, session.study
    study.set_attr(records.OBJECTIVE, {"target": plan.spec.target, "options": dict(plan.spec.options)})
    study.set_attr(records.TARGET, plan.config.trials)
    study.set_attr(records.TRACKING, bare(plan.config.tracking_uri or ""))
    if records.PROVENANCE not in study.attrs():
        study.set_attr(records.PROVENANCE, provenance(plan.config.seed, plan.dataset))
