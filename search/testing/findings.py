"""The results of checks of an objective."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from objectives.base import ObjectiveError
from objectives.failures import describe_error
from search.common.signals import is_interruption


class Absent(str):
    """Returned by a check instead of a remark, if the objective lacks the part to check."""


class NotTried(Exception):
    """A check needs something that an earlier check found missing, or that takes too long."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    title: str
    wrong: str | None = None
    not_tried: str | None = None
    absent: str | None = None  # which part the objective lacks, so that there was nothing to check
    remark: str | None = None  # worth knowing, and not wrong


def titles(checks: Sequence[Callable[..., Any]]) -> tuple[str, ...]:
    """Return what each check shows, from the first line of its docstring."""
    return tuple((check.__doc__ or check.__name__).splitlines()[0].rstrip(".") for check in checks)


def examine(specimen: Any, checks: Sequence[Callable[[Any], str | None]]) -> Iterator[Finding]:
    """Run every check, one after the other."""
    for check, title in zip(checks, titles(checks), strict=True):
        try:
            remark = check(specimen)
        except ObjectiveError as error:
            yield Finding(title, wrong=str(error))
        except NotTried as error:
            yield Finding(title, not_tried=str(error))
        except BaseException as error:  # an objective can be wrong in unforeseen ways
            if is_interruption(error):
                raise
            yield Finding(title, wrong=describe_error(error))
        else:
            absent = isinstance(remark, Absent)
            yield Finding(title, absent=remark if absent else None, remark=None if absent else remark)
