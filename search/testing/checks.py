"""Does an objective keep the contract of `objectives.base`? It is tried for a few seconds.

`python -m search check-objective MODULE:ATTR` runs all checks. In your own tests:

    @pytest.fixture(scope="module")
    def specimen():
        return Specimen.of("my_module:MyObjective")

    @pytest.mark.parametrize("check", CHECKS)
    def test_my_objective(specimen, check):
        check(specimen)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from search.study.space.objective_calls import ContractError
from search.testing import checks_answers, checks_training
from search.testing.specimen import NotTried, Specimen

CHECKS: Sequence[Callable[[Specimen], None]] = (*checks_answers.CHECKS, *checks_training.CHECKS)


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    title: str
    wrong: str | None = None
    not_tried: str | None = None


def examine(specimen: Specimen) -> Iterator[Finding]:
    """Run every check, one after the other."""
    for check in CHECKS:
        title = (check.__doc__ or check.__name__).splitlines()[0].rstrip(".")
        try:
            check(specimen)
        except ContractError as error:
            yield Finding(title, wrong=str(error))
        except NotTried as error:
            yield Finding(title, not_tried=str(error))
        except Exception as error:  # an objective can be wrong in unforeseen ways
            yield Finding(title, wrong=f"{type(error).__name__}: {error}")
        else:
            yield Finding(title)
