"""Deliver the writes to MLflow that a search had to leave in its journal."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from search.commands.setup import open_tracking, tracking_destination
from search.commands.studies import patience, tracked_elsewhere
from search.common.config import Config
from search.common.direction import Direction
from search.common.errors import StudyHeldError
from search.common.workspace import Workspace
from search.study import records
from search.study.storage.storage import hold_study, oldest_first, open_storage
from search.tracking.journal import Journal
from search.tracking.locations import settle

DELIVERY_S = 600.0  # how long to wait for one study's writes


class SyncResult(NamedTuple):
    """The writes of one study."""

    study: str
    delivered: int
    pending: int
    reason: str | None  # why writes are pending


def sync(config: Config) -> Iterator[SyncResult]:
    """Deliver the journal of every study, one after the other."""
    seen = set[Path]()
    for study in oldest_first(open_storage(config.storage_url, create=False, retry=patience(config))):
        name, attrs = study.study_name, study.user_attrs
        path = Workspace(config.workspace).journal(name, attrs.get(records.UID, ""))
        if path in seen or not path.exists():  # a copy that no search has continued has no journal of its own
            continue
        seen.add(path)
        try:
            with hold_study(config.storage_url, name), closing(Journal(path)) as journal:
                yield _deliver(config, name, attrs, Direction.of_study(study.direction), journal.n_pending())
        except StudyHeldError:
            yield SyncResult(name, 0, 0, "it is being searched now, which delivers too")


def _deliver(config: Config, study: str, attrs: Mapping[str, Any], direction: Direction, n: int) -> SyncResult:
    """Deliver the `n` writes that are pending. In a workspace that was moved, also point MLflow to its new place."""
    if (reason := tracked_elsewhere(config, attrs)) is not None:
        return SyncResult(study, 0, n, reason if n else None)
    if n == 0:
        settle(tracking_destination(config, study, attrs))
        return SyncResult(study, 0, 0, None)
    tracking = open_tracking(config, study, attrs, direction)
    try:
        tracking.ready()
        pending = tracking.flush(DELIVERY_S)
        return SyncResult(study, n - pending, pending, tracking.last_error)
    finally:
        tracking.close(1.0)
