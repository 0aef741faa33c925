"""Is there anything left to do? A search that is complete ends without starting a worker."""

from __future__ import annotations

from search.commands.session.session import open_sampling
from search.commands.setup import SearchPlan
from search.coordinator.confirmation import may_improve
from search.study.records import StudyRecord
from search.study.study import StoredStudy
from search.tracking.journal import PARENT
from search.tracking.tracker import Tracking


def is_complete(plan: SearchPlan, study: StoredStudy, tracking: Tracking) -> bool:
    """Whether every trial has ended, and the winner was confirmed, refitted, registered and tracked as planned."""
    record = study.record()
    summary = record.summary
    if summary is None or record.finished < len(record.trials):
        return False
    if tracking.verdict(PARENT) != {"finished": record.finished, **plan.goal}:
        return False
    if may_improve(study.attrs(), summary, refits=plan.refits):
        return False
    if plan.register_as is not None and (summary.model is None or summary.model["name"] != plan.register_as):
        return False
    return record.finished >= plan.config.trials or _has_stopped(plan, study, record)


def _has_stopped(plan: SearchPlan, study: StoredStudy, record: StudyRecord) -> bool:
    """Whether no further trial would begin, though some are missing."""
    if plan.scope.stop_reason(plan.objective, record.trials) is not None:
        return True
    sampling, _ = open_sampling(plan, study)
    return sampling.proposals.is_exhausted()
