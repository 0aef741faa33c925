"""Every error that the product raises on purpose.

::

    SearchError                 one clear message for a person; exit status 1
    ├── UsageError              what was asked for is not possible as typed; status 2
    ├── StudyHeldError          another process runs this study; status 3
    ├── StorageError            a database is damaged, foreign, newer, unwritable or out of reach
    ├── StudyMismatchError      the study was made with another objective, dataset or space
    ├── TrackingError           MLflow cannot do what is needed now
    │   └── TrackingRefusedError    it answers, and does not let this user in
    ├── UnpublishableError      a network cannot be kept as a program that loads without this project
    ├── ModelNotFoundError      no such registered model, version or alias
    └── SearchStoppedError      the search cannot go on (every trial fails alike, another program writes to its study)

`objectives` has its own small tree in `objectives.base` (it imports nothing from here): `ObjectiveError`, whose
subclasses `DatasetError`, `PictureError` and `DeviceError` reach people the same way.

A message says what was given, what is allowed, and what to type next. It never has the password of a URL in it.
"""

from __future__ import annotations

from search.masking import mask


class SearchError(Exception):
    """Base of all errors that are shown to a person as one message."""

    exit_status = 1

    def __init__(self, message: str) -> None:
        super().__init__(mask(message))


class UsageError(SearchError):
    """The command, flag or file that a person gave cannot be used."""

    exit_status = 2


class StudyHeldError(SearchError):
    """Another live process coordinates this study."""

    exit_status = 3


class StorageError(SearchError):
    """A database cannot be opened, read or written."""


class StudyMismatchError(SearchError):
    """The study on disk was made with something else than what was asked for now."""


class TrackingError(SearchError):
    """MLflow refused or did not answer."""


class TrackingRefusedError(TrackingError):
    """MLflow answers, and does not take this user, this password or this name of its machine."""


class UnpublishableError(SearchError):
    """A network is not one that can be registered."""


class ModelNotFoundError(SearchError):
    """The registry has no such model, version or alias."""


class SearchStoppedError(SearchError):
    """The search stopped itself because it cannot succeed."""
