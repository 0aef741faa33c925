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

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from search.testing.checks_network import (
    check_cost,
    check_images,
    check_network,
    check_whole,
)
from search.testing.checks_space import (
    check_baselines,
    check_names,
    check_schedule,
    check_suggest,
    check_words,
)
from search.testing.checks_training import (
    check_outcome,
    check_plain_data,
    check_repeats,
    check_resume,
    check_training,
)
from search.testing.specimen import ContractError, NotTried, Specimen

CHECKS: tuple[Callable[[Specimen], None], ...] = (
    check_names,
    check_suggest,
    check_baselines,
    check_words,
    check_schedule,
    check_training,
    check_repeats,
    check_resume,
    check_outcome,
    check_plain_data,
    check_whole,
    check_images,
    check_network,
    check_cost,
)


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
