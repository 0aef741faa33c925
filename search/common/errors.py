"""Errors that the program shows as one message instead of a traceback.

::

    SearchError                     exit status 1
    ├── UsageError                  status 2
    ├── StudyHeldError              status 3
    ├── StorageError
    │   └── DatabaseLockedError
    ├── StudyMismatchError
    ├── TrackingError
    │   └── TrackingRefusedError
    ├── UnpublishableError
    ├── ModelNotFoundError
    └── SearchStoppedError

`objectives` has its own tree under `objectives.base.ObjectiveError`.
"""

import shlex
from pathlib import Path

from search.common.passwords import mask


class SearchError(Exception):
    """Base class. The message says what was given, what is allowed, and what to type next."""

    exit_status = 1

    def __init__(self, message: str) -> None:
        super().__init__(mask(message))


class UsageError(SearchError):
    """The command, a flag or a file that the user gave cannot be used."""

    exit_status = 2


class StudyHeldError(SearchError):
    """Another process runs this study."""

    exit_status = 3


class StorageError(SearchError):
    """A database is damaged, foreign, too new, read-only or unreachable."""


class DatabaseLockedError(StorageError):
    """Another program has locked a SQLite file."""

    def __init__(self, path: Path, waited_s: float | None = None) -> None:
        time = "" if waited_s is None else f" for {waited_s:.0f} s"
        holders = "a database browser, a notebook or script with an open transaction, a backup"
        find = f"`fuser {shlex.quote(str(path))}` lists who has it open"
        advice = f"End what holds it ({holders}; {find}), and type the same command again"
        super().__init__(f"{path} has been locked by another program{time}. Nothing is lost. {advice}")


class StudyMismatchError(SearchError):
    """The study was made with another objective, dataset or space."""


class TrackingError(SearchError):
    """MLflow failed or did not answer."""


class TrackingRefusedError(TrackingError):
    """MLflow rejects the login or the host name."""


class RunGoneError(TrackingError):
    """MLflow has no such run: it was deleted for good."""


class UnpublishableError(SearchError):
    """A network cannot be registered: it cannot be exported for loading without this project, or its run is gone."""


class ModelNotFoundError(SearchError):
    """The registry has no such model, version or alias."""


class SearchStoppedError(SearchError):
    """All trials fail for the same reason, or another program writes to the study."""
