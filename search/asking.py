"""Questions to an objective: what goes wrong while it answers is said with the name of its part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from objectives.base import ObjectiveError


@contextmanager
def asking(part: str) -> Iterator[None]:
    """Raise ObjectiveError for whatever the block raises while `part` of an objective is called."""
    try:
        yield
    except ObjectiveError:
        raise
    except Exception as error:
        raise ObjectiveError(
            f"the objective's {part} failed: {type(error).__name__}: {error}. "
            "To see more, type: python -m search check-objective MODULE:ATTR"
        ) from error
