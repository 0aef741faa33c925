"""The champion: how it is chosen, and what happens when many searches register at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pytest
from champions import UP, add, aliases, previous, register
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from shell import environment

from search.common.config import why_no_model_name
from search.common.errors import ModelNotFoundError, TrackingError
from search.tracking.registry.loading import newest_champion, uri_of
from search.tracking.registry.promotion import (
    CHAMPION,
    USER_CHOICE_TAG,
    promote_if_better,
    rollback,
    set_challenger,
    set_champion,
    successive_champions,
)
from search.tracking.registry.version import ScoredVersion, newest_versions, versions
from search.tracking.store import connect_mlflow

# The choice ---------------------------------------------------------------------------------------------------------

DOWN = {"direction": "minimize"}


def entries(*scores: float | None, protocol: dict[str, str] = UP) -> list[ScoredVersion]:
    return [ScoredVersion(version, score, protocol) for version, score in enumerate(scores, start=1)]


@pytest.mark.parametrize(
    ("scores", "protocol", "by_hand", "order"),
    [
        pytest.param((), UP, None, [], id="nothing"),
        pytest.param((None, None), UP, None, [], id="versions of others"),
        pytest.param((None, 0.5), UP, None, [2], id="first with a score"),
        pytest.param((0.9, 0.8, 0.95, 0.95), UP, None, [1, 3], id="best, the older on a tie"),
        pytest.param((0.9, 0.8, 0.95, 0.8), DOWN, None, [1, 2], id="minimised"),
        pytest.param((0.9, 0.8, 0.95), UP, (2, 3), [2], id="by hand"),
        pytest.param((0.9, 0.8, 0.95, 0.79, 0.81), UP, (2, 3), [2, 5], id="beats one by hand"),
        pytest.param((0.9, 0.95), UP, (7, 3), [1, 2], id="one by hand was deleted"),
        pytest.param((None, 0.8), UP, (1, 1), [1], id="one by hand has no score"),
    ],
)
def test_the_best_of_one_protocol_is_champion(
    scores: Sequence[float | None], protocol: dict[str, str], by_hand: tuple[int, int] | None, order: list[int]
):
    assert successive_champions(entries(*scores, protocol=protocol), by_hand) == order


def test_versions_of_another_protocol_do_not_compete():
    mixed = [ScoredVersion(1, 0.9, {**UP, "epochs": "4"}), ScoredVersion(2, 0.99, {**UP, "epochs": "16"})]
    assert successive_champions([*mixed, ScoredVersion(3, 0.91, mixed[0].protocol)], None) == [1, 3]
    assert successive_champions(mixed, (2, 2)) == [2]


def test_the_alias_stays_within_its_protocol():
    """Also after the first version was deleted or measured again."""
    left = [ScoredVersion(2, 0.8, {**UP, "epochs": "16"}), ScoredVersion(3, 0.9, UP)]
    assert successive_champions(left, None, 3) == [3]
    assert successive_champions(left, (1, 1), 3) == [3]
    measured_again = [ScoredVersion(1, 0.9, UP), ScoredVersion(2, 0.94, {**UP, "fresh_seeds": "4"})]
    assert successive_champions(measured_again, None, 2) == [2]
    assert successive_champions([*left, ScoredVersion(4, 0.95, UP)], None, 3) == [3, 4]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@pytest.mark.slow
def test_every_new_champion_beats_the_one_before(scores: list[float]):
    """A search that sees fewer versions finds a champion before the best, never one that is worse than an earlier."""
    order = successive_champions(entries(*scores), None)
    worths = [scores[version - 1] for version in order]
    assert worths == sorted(set(worths))
    assert worths[-1] == max(scores)
    for n in range(1, len(scores) + 1):
        assert successive_champions(entries(*scores[:n]), None) == [version for version in order if version <= n]


# The registry -------------------------------------------------------------------------------------------------------


def test_a_better_version_takes_the_alias_and_a_worse_one_is_explained(store: mlflow.MlflowClient):
    add(store, None)  # registered by another program
    stays = "version 2 of toy stays champion: "
    assert register(store, 0.9) == ""
    assert previous(store) is None
    assert register(store, 0.8) == f"{stays}accuracy 0.8000 is behind its 0.9000"
    assert register(store, 0.9) == f"{stays}accuracy 0.9000 equals its 0.9000"
    assert register(store, 0.99, epochs="16") == (
        f"{stays}the two cannot be compared, because they differ in epochs (4 there, 16 here). "
        "To move the alias anyway, type: python -m search promote toy/5"
    )
    assert aliases(store) == ("2", "5")
    assert register(store, 0.95) == ""
    assert (aliases(store), previous(store)) == (("6", "5"), "2")


def test_the_next_search_moves_the_alias_that_a_killed_one_left_behind(store: mlflow.MlflowClient):
    register(store, 0.9)
    better = add(store, 0.95)  # killed here
    assert register(store, 0.8) == f"version {better} of toy stays champion: accuracy 0.8000 is behind its 0.9500"
    assert (aliases(store), previous(store)) == (("2", "3"), "1")
    best = add(store, 0.96)  # killed after the alias moved, before it looked again
    store.set_registered_model_alias("toy", CHAMPION, best)
    assert promote_if_better(store, "toy", best) == best
    assert USER_CHOICE_TAG not in store.get_registered_model("toy").tags


def test_a_stale_move_is_repaired_by_the_search_that_made_it(store: mlflow.MlflowClient):
    """It read the versions before the best was there, and moves the alias after that became champion."""
    for score in (0.9, 0.91):
        register(store, score)
    own = add(store, 0.92)

    class DelayedClient:
        """A client that another search overtakes before its first move of the alias."""

        moved = False

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
            if not self.moved:
                self.moved = True
                assert register(store, 0.95) == ""
            store.set_registered_model_alias(name, alias, version)

    delayed: Any = DelayedClient()
    assert promote_if_better(delayed, "toy", own) == aliases(store)[0] == "4"
    assert USER_CHOICE_TAG not in store.get_registered_model("toy").tags


def test_a_model_with_the_history_of_an_earlier_release_is_promoted(store: mlflow.MlflowClient):
    """It has numbered tags instead of the alias previous-champion."""
    for score in (0.9, 0.95, 0.8):
        add(store, score)
    for number, version in enumerate("123", start=1):
        store.set_registered_model_tag("toy", f"champion.00000{number}.abcd", f"{version} best {number}")
    store.set_registered_model_tag("toy", "champion_by_hand", "3/3")
    store.set_registered_model_alias("toy", CHAMPION, "3")
    with pytest.raises(ModelNotFoundError, match="no champion of toy before version 3 is known; to choose one, type"):
        rollback(store, "toy")
    assert register(store, 0.7) == "version 3 of toy stays champion: accuracy 0.7000 is behind its 0.8000"
    assert register(store, 0.85) == ""
    assert rollback(store, "toy") == ("5", "3")


class Rejecting:
    """A client that cannot set aliases, `times` times."""

    def __init__(self, client: mlflow.MlflowClient, code: int, times: int) -> None:
        self._client, self._code, self.left = client, code, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        if self.left:
            self.left -= 1
            raise MlflowException("the store says no", error_code=self._code)
        self._client.set_registered_model_alias(name, alias, version)


@pytest.mark.parametrize("act", [promote_if_better, set_challenger, set_champion])
def test_a_busy_store_is_retried_and_a_rejection_is_reported(store: mlflow.MlflowClient, act: Callable[..., object]):
    own = add(store, 0.9)
    rejecting: Any = Rejecting(store, INVALID_PARAMETER_VALUE, 99)
    with pytest.raises(TrackingError, match=r"the aliases of toy cannot be set: .*the store says no"):
        act(rejecting, "toy", own)
    assert rejecting.left == 98
    act(Rejecting(store, TEMPORARILY_UNAVAILABLE, 2), "toy", own)
    assert own in aliases(store)


def test_a_version_of_another_protocol_does_not_take_the_alias(store: mlflow.MlflowClient):
    for score in (0.9, 0.95):
        register(store, score)
    store.set_model_version_tag("toy", "1", "protocol.epochs", "16")
    assert promote_if_better(store, "toy", "1") == "2"
    assert register(store, 0.96) == ""
    assert promote_if_better(store, "toy", "3") == "3"


@pytest.mark.slow
def test_what_counts_as_a_model_name_is_accepted_and_found(store: mlflow.MlflowClient):
    for name in ("a", "1", "m-1", "-x", "_", "a.b", "a..b", "a b", "a  b", "x" * 256, "плата", "猫"):
        assert why_no_model_name(name) is None
        promote_if_better(store, name, add(store, 0.5, name))
        assert uri_of(name) == f"models:/{name}@champion"
        assert str(store.get_model_version_by_alias(name, CHAMPION).version) == "1"


def test_the_newest_champion_is_the_one_that_is_loaded(store: mlflow.MlflowClient):
    for name in ("mnist", "digits"):
        promote_if_better(store, name, add(store, 0.5, name))
    assert newest_champion(store) == "digits"


PROMOTERS = 16
PUBLISH = """
    import os, signal, sys
    import mlflow, numpy
    from search.tracking.registry import promotion, registration

    registration._log = lambda *_: ("file:///nowhere", None)  # an export takes seconds, and they are to meet
    registration._restore = lambda *_: False  # there is no run
    registration._database_of_workspace = lambda *_: None

    def publish(number):
        protocol = {"protocol.epochs": str(number % 2), "protocol.direction": "maximize"}
        score = 0.5 + number / 100 if number < 16 else 0.5
        tags = {"search.run": str(number), "validation": str(score), **protocol}
        registration.publish(
            f"sqlite:///{sys.argv[1]}", run_id=None, name="toy", model=lambda: None, example=numpy.zeros(2),
            metadata={}, tags=tags, card=lambda version: f"# {version}",
        )

    first, last, killed = map(int, sys.argv[2:])
    gate, go = os.pipe()
    children = {}
    for number in range(first, last):
        if (pid := os.fork()) == 0:
            os.close(go)
            os.read(gate, 1)
            if number == killed:
                promotion._move_alias = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            publish(number)
            os._exit(0)
        children[pid] = number
    os.close(go)
    ends = {number: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid, number in children.items()}
    print({number: status for number, status in ends.items() if status})
"""


def publish(database: Path, first: int, last: int, *, killed: int = -1) -> str:
    """Register winners with these numbers at the same time, higher is better. Returns failures with exit status."""
    command = [sys.executable, "-c", textwrap.dedent(PUBLISH), database, *map(str, (first, last, killed))]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("repaired_by", ["the same search", "the next search"])
def test_16_register_at_the_same_time(folder: Path, repaired_by: str):
    """Real processes, forked after the imports so that they meet; the best is killed as it moves the alias.

    They have two protocols. In the end the best one of the first protocol is champion.
    """
    database, best = folder / "mlflow.db", PROMOTERS - 2
    assert publish(database, 0, 1) == "{}"
    died = publish(database, 1, PROMOTERS, killed=best)
    assert died in (f"{{{best}: -9}}", "{}")  # another search may have moved the alias to it before
    number = best if repaired_by == "the same search" else PROMOTERS + 1
    assert publish(database, number, number + 1) == "{}"
    client = connect_mlflow(f"sqlite:///{database}")
    by_run = {version.tags["search.run"]: str(version.version) for version in versions(client, "toy")}
    assert len(by_run) == len(versions(client, "toy")) == len({*range(PROMOTERS), number})
    champion, challenger = aliases(client)
    assert champion == by_run[str(best)]
    assert challenger not in (None, champion)
    assert USER_CHOICE_TAG not in client.get_registered_model("toy").tags  # no move was mistaken for a user's


def test_a_model_without_versions_is_not_called_registered(store: mlflow.MlflowClient):
    add(store, 0.5)
    add(store, 0.6)
    assert newest_versions(store) == {"toy": 2}
    for version in "12":
        store.delete_model_version("toy", version)
    with pytest.raises(ModelNotFoundError, match="no champion is registered here yet. Run a search first"):
        newest_champion(store)
