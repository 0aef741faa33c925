"""All errors that the program raises on purpose.

::

    SearchError                 one message for the user; exit status 1
    ├── UsageError              the command, a flag or a file cannot be used; status 2
    ├── StudyHeldError          another process runs this study; status 3
    ├── StorageError            a database is damaged, foreign, too new, read-only or unreachable
    ├── StudyMismatchError      the study was made with another objective, dataset or space
    ├── TrackingError           MLflow failed or does not answer
    │   └── TrackingRefusedError    MLflow rejects the login or the host name
    ├── UnpublishableError      a network cannot be exported for loading without this project
    ├── ModelNotFoundError      no such registered model, version or alias
    └── SearchStoppedError      all trials fail alike, or another program writes to the study

`objectives` has its own small tree in `objectives.base` (it imports nothing from here): `ObjectiveError`, whose
subclasses `DatasetError`, `PictureError` and `DeviceError` are shown in the same way.

A message says what was given, what is allowed, and what to type next. Passwords in URLs are removed from it.
"""

from __future__ import annotations

from search.common.passwords import mask


class SearchError(Exception):
    """Base of all errors that are shown to the user as one message."""

    exit_status = 1

    def __init__(self, message: str) -> None:
        super().__init__(mask(message))


class UsageError(SearchError):
    """A command, flag or file that the user gave cannot be used."""

    exit_status = 2


class StudyHeldError(SearchError):
    """Another live process coordinates this study."""

    exit_status = 3


class StorageError(SearchError):
    """A database cannot be opened, read or written."""


class StudyMismatchError(SearchError):
    """The stored study was made with another objective, dataset or space."""


class TrackingError(SearchError):
    """MLflow failed or did not answer."""


class TrackingRefusedError(TrackingError):
    """MLflow rejects the user, the password, or the host name it was called by."""


class UnpublishableError(SearchError):
    """A network cannot be registered."""


class ModelNotFoundError(SearchError):
    """The registry has no such model, version or alias."""


class SearchStoppedError(SearchError):
    """The search stopped because it cannot succeed."""
