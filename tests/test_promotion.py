"""The champion: who becomes it, what people may do about it, and that any number may promote at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from shell import Finished, environment, one_file

from search.cli import cli
from search.errors import ModelNotFoundError, SearchError, TrackingError
from search.mlflow_store import connect_mlflow
from search.promotion import (
    BASE_TAG,
    CHALLENGER,
    CHAMPION,
    HISTORY_TAG,
    Entry,
    alias,
    appoint,
    challenge,
    elect,
    reigns,
    rollback,
    settle,
    versions,
    why_behind,
)
from search.registry import newest_champion

# The choice ---------------------------------------------------------------------------------------------------------

UP, DOWN = {"direction": "maximize"}, {"direction": "minimize"}


def entries(*scores: float | None, protocol: dict[str, str] = UP) -> list[Entry]:
    return [Entry(version, score, protocol) for version, score in enumerate(scores, start=1)]


@pytest.mark.parametrize(
    ("scores", "protocol", "by_hand", "champion"),
    [
        ((), UP, None, None),
        ((None, None), UP, None, None),
        ((None, 0.5), UP, None, 2),
        ((0.9, 0.8, 0.95, 0.95), UP, None, 3),
        ((0.9, 0.8, 0.95, 0.8), DOWN, None, 2),
        ((0.9, 0.8, 0.95), UP, (2, 3), 2),
        ((0.9, 0.8, 0.95, 0.79, 0.81), UP, (2, 3), 5),
        ((0.9, 0.95), UP, (7, 3), 2),
        ((None, 0.8), UP, (1, 1), 1),
    ],
    ids=["nothing", "of others", "first of ours", "best, the older on a tie", "loss", "a person's", "beats a person's",
         "a person's was deleted", "a person's has no score"],
)  # fmt: skip
def test_the_best_of_one_protocol_is_champion(
    scores: Sequence[float | None], protocol: dict[str, str], by_hand: tuple[int, int] | None, champion: int | None
):
    elected = elect(entries(*scores, protocol=protocol), by_hand)
    assert (elected and elected.version) == champion


def test_what_was_measured_otherwise_does_not_compete():
    mixed = [Entry(1, 0.9, {**UP, "epochs": "4"}), Entry(2, 0.99, {**UP, "epochs": "16"})]
    assert elect([*mixed, Entry(3, 0.91, mixed[0].protocol)], None) == Entry(3, 0.91, mixed[0].protocol)
    assert elect(mixed, (2, 2)) == mixed[1]


def test_the_alias_stays_with_what_it_was_measured_by():
    """The first version is gone, or measured anew: that hands the alias to nobody who was not compared."""
    left = [Entry(2, 0.8, {**UP, "epochs": "16"}), Entry(3, 0.9, UP)]
    assert elect(left, None, 3) == left[1]
    assert elect(left, (1, 1), 3) == left[1]
    anew = [Entry(1, 0.9, UP), Entry(2, 0.94, {**UP, "fresh_seeds": "4"})]
    assert elect(anew, None, 2) == anew[1]
    assert elect([*left, Entry(4, 0.95, UP)], None, 3) == Entry(4, 0.95, UP)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.data())
def test_every_new_champion_beats_the_one_before(scores: list[float], data: st.DataObject):
    """Whatever order versions come in: one by one, the champion's score never falls, and the last look is enough."""
    champions = [elect(entries(*scores[:n]), None) for n in range(1, len(scores) + 1)]
    worths = [champion.worth for champion in champions if champion is not None]
    assert len(worths) == len(scores)
    assert worths == sorted(worths)
    assert worths[-1] == max(scores)


# The registry -------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(folder: Path) -> mlflow.MlflowClient:
    return connect_mlflow(f"sqlite:///{folder}/mlflow.db")


def add(client: mlflow.MlflowClient, score: float | None, name: str = "toy", **protocol: str) -> str:
    """A version with a score, without a model behind it."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    tags = {f"protocol.{key}": value for key, value in ({**UP, "metric": "accuracy", "epochs": "4"} | protocol).items()}
    tags |= {} if score is None else {"validation": repr(score)}
    return str(client.create_model_version(name, "file:///nowhere", tags=tags).version)


def aliases(client: mlflow.MlflowClient, name: str = "toy") -> tuple[str | None, str | None]:
    model = client.get_registered_model(name)
    return alias(model, CHAMPION), alias(model, CHALLENGER)


def register(client: mlflow.MlflowClient, score: float, **protocol: str) -> str:
    """What a search does; returns why its version is not champion."""
    own = add(client, score, **protocol)
    champion = settle(client, "toy", own)
    if champion == own:
        return ""
    challenge(client, "toy", own)
    return why_behind(client, "toy", own, champion)


def test_a_better_one_takes_the_alias_and_others_are_told_why_not(store: mlflow.MlflowClient):
    add(store, None)  # somebody else's
    stays = "version 2 of toy stays champion: "
    assert register(store, 0.9) == ""
    assert register(store, 0.8) == f"{stays}accuracy 0.8000 is behind its 0.9000"
    assert register(store, 0.9) == f"{stays}accuracy 0.9000 equals its 0.9000"
    assert register(store, 0.99, epochs="16") == (
        f"{stays}the two cannot be compared, because they differ in epochs (4 there, 16 here). "
        "To move the alias all the same, type: python -m search promote toy/5"
    )
    assert aliases(store) == ("2", "5")
    assert register(store, 0.95) == ""
    assert aliases(store) == ("6", "5")


def test_people_promote_and_go_back_and_searches_respect_it(store: mlflow.MlflowClient):
    for score in (0.9, 0.95, 0.8):
        register(store, score)
    assert aliases(store) == ("2", "3")
    appoint(store, "toy", "3")
    assert aliases(store) == ("3", None)
    assert register(store, 0.7) != ""
    assert aliases(store) == ("3", "4")
    assert register(store, 0.85) == ""  # better than what the person chose, though not than all there ever was
    assert reigns(store.get_registered_model("toy")) == ["1", "2", "3", "5"]
    assert rollback(store, "toy") == ("5", "3")
    assert rollback(store, "toy") == ("3", "2")
    assert rollback(store, "toy") == ("2", "1")
    assert aliases(store) == ("1", "4")
    with pytest.raises(ModelNotFoundError, match="version 1 is the first champion of toy; there is none to go back to"):
        rollback(store, "toy")
    assert register(store, 0.89) == "version 1 of toy stays champion: accuracy 0.8900 is behind its 0.9000"


def test_an_alias_that_was_set_elsewhere_is_a_persons_choice(store: mlflow.MlflowClient):
    for score in (0.9, 0.95, 0.8):
        add(store, score)
    store.set_registered_model_alias("toy", CHAMPION, "3")
    assert register(store, 0.7) != ""
    assert aliases(store) == ("3", "4")
    assert register(store, 0.81) == ""


def test_a_champion_that_a_person_brought_back_elsewhere_stays(store: mlflow.MlflowClient):
    for score in (0.9, 0.95):
        register(store, score)
    store.set_registered_model_alias("toy", CHAMPION, "1")  # it was champion before, by our own doing
    assert register(store, 0.8) != ""
    assert aliases(store) == ("1", "3")
    assert register(store, 0.92) == ""
    store.set_registered_model_alias("toy", CHAMPION, "1")  # once more
    assert register(store, 0.85) != ""
    assert aliases(store) == ("1", "5")
    assert rollback(store, "toy") == ("1", "4")


def test_a_persons_choice_that_was_deleted_is_forgotten(store: mlflow.MlflowClient):
    for score in (0.9, 0.95, 0.8):
        register(store, score)
    appoint(store, "toy", "3")
    store.delete_model_version("toy", "3")
    assert aliases(store) == (None, None)
    assert register(store, 0.7) != ""
    assert aliases(store) == ("2", "4")


@pytest.mark.parametrize("kept", ["note", "alias"])
def test_a_move_that_was_cut_short_is_nobodys_choice(store: mlflow.MlflowClient, kept: str):
    """Killed between the note and the alias, or between the alias and the second note."""
    register(store, 0.9)
    better = add(store, 0.95)
    key = f"{HISTORY_TAG}000003.other"
    store.set_registered_model_tag("toy", key, f"{better} best")
    if kept == "alias":
        store.set_registered_model_alias("toy", CHAMPION, better)
    best = add(store, 0.96)
    assert settle(store, "toy", best) == best
    assert reigns(store.get_registered_model("toy")) == ["1", better, best]


class Refusing:
    """A client whose aliases cannot be set, `times` or for ever."""

    def __init__(self, client: mlflow.MlflowClient, code: int, times: int) -> None:
        self._client, self._code, self.left = client, code, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        if self.left:
            self.left -= 1
            raise MlflowException("the store says no", error_code=self._code)
        self._client.set_registered_model_alias(name, alias, version)


@pytest.mark.parametrize("act", [settle, challenge, appoint])
def test_a_busy_store_is_asked_again_and_a_refusal_is_said(store: mlflow.MlflowClient, act: Callable[..., object]):
    own = add(store, 0.9)
    refusing: Any = Refusing(store, INVALID_PARAMETER_VALUE, 99)
    with pytest.raises(TrackingError, match=r"the alias \w+ of toy cannot be set: .*the store says no"):
        act(refusing, "toy", own)
    assert refusing.left == 98
    act(Refusing(store, TEMPORARILY_UNAVAILABLE, 2), "toy", own)
    assert own in aliases(store)


def test_a_version_that_is_measured_otherwise_takes_no_alias_uncompared(store: mlflow.MlflowClient):
    for score in (0.9, 0.95):
        register(store, score)
    store.set_model_version_tag("toy", "1", "protocol.epochs", "16")
    assert settle(store, "toy", "1") == "2"
    assert register(store, 0.96) == ""
    assert settle(store, "toy", "3") == "3"


def test_what_is_not_there_cannot_be_promoted(store: mlflow.MlflowClient):
    with pytest.raises(ModelNotFoundError, match="no champion is registered here yet. Run a search first"):
        newest_champion(store)
    with pytest.raises(ModelNotFoundError, match="there is no model 'toy' with versions; registered here: none"):
        appoint(store, "toy", "1")
    with pytest.raises(ModelNotFoundError, match="there is no model 'toy'; registered here: none"):
        rollback(store, "toy")
    add(store, 0.5)
    with pytest.raises(ModelNotFoundError, match="there is no version 2 of 'toy'; it has 1"):
        appoint(store, "toy", "2")
    with pytest.raises(ModelNotFoundError, match="toy has no champion to take the alias from"):
        rollback(store, "toy")


def test_the_newest_champion_is_the_one_that_is_loaded(store: mlflow.MlflowClient):
    for name in ("mnist", "digits"):
        settle(store, name, add(store, 0.5, name))
    assert newest_champion(store) == "digits"


PROMOTERS = 16
PUBLISH = """
    import os, signal, sys
    import mlflow, numpy
    from search import promotion, registry

    registry._log = lambda *_: ("file:///nowhere", None)  # an export takes seconds, and they are to meet

    def publish(number):
        protocol = {"protocol.epochs": str(number % 2), "protocol.direction": "maximize"}
        tags = {"search.run": str(number), "validation": str(0.5 + number / 100), **protocol}
        registry.publish(
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
                note = promotion._note
                promotion._note = lambda *words, **more: (note(*words, **more), os.kill(os.getpid(), signal.SIGKILL))
            publish(number)
            os._exit(0)
        children[pid] = number
    os.close(go)
    ends = {number: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid, number in children.items()}
    print({number: status for number, status in ends.items() if status})
"""


def publish(database: Path, first: int, last: int, *, killed: int = -1) -> str:
    """Register winners of these numbers at once, the better the higher; returns who did not end well."""
    command = [sys.executable, "-c", textwrap.dedent(PUBLISH), database, *map(str, (first, last, killed))]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_16_publish_at_once(folder: Path):
    """Real processes, forked after the imports so that they meet: two protocols, and the best is killed as it moves.

    Of the first one's protocol the best is champion, whoever comes last; the killed one once it is started again.
    """
    database, best = folder / "mlflow.db", PROMOTERS - 2
    assert publish(database, 0, 1) == "{}"
    died = publish(database, 1, PROMOTERS, killed=best)
    assert died in (f"{{{best}: -9}}", "{}")  # another one that elects it may have moved the alias before
    assert publish(database, best, best + 1) == "{}"
    client = connect_mlflow(f"sqlite:///{database}")
    found = {version.tags["search.run"]: str(version.version) for version in versions(client, "toy")}
    assert len(found) == len(versions(client, "toy")) == PROMOTERS
    champion, challenger = aliases(client)
    assert champion == found[str(best)]
    assert challenger not in (None, champion)
    model = client.get_registered_model("toy")
    assert reigns(model)[-1] == champion
    assert BASE_TAG not in model.tags  # nobody took another's move for a person's


# The command --------------------------------------------------------------------------------------------------------


def command(folder: Path, *words: str) -> str:
    return CliRunner().invoke(cli, ["promote", *words, "--workspace", str(folder)], catch_exceptions=False).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits/2"], "there is no version 2 of 'digits'; it has 1"),
        (["--rollback"], "version 1 is the first champion of digits; there is none to go back to"),
        (["--rollback", "mnist"], "there is no model 'mnist'; registered here: digits"),
        ([], "promote what[?] Type python -m search promote STUDY"),
        (["digitz"], "there is no study 'digitz' made by a search; there are: digits. A version of a model is typed"),
    ],
)
def test_what_cannot_be_promoted_is_said(finished: Finished, words: list[str], message: str):
    with pytest.raises(SearchError, match=message):
        command(finished.folder, *words)


def test_a_version_a_studys_winner_and_back(finished: Finished, folder: Path):
    for name in ("optuna.db", "mlflow.db"):
        one_file(finished.folder / name, folder / name)
    client = connect_mlflow(f"sqlite:///{folder}/mlflow.db")
    add(client, 0.1, "digits")
    assert command(folder, "digits/2") == "champion of digits: version 2\n"
    assert aliases(client, "digits") == ("2", None)
    assert "registered: digits version 1, alias champion (models:/digits/1)" in command(folder, "digits")
    assert aliases(client, "digits") == ("1", None)
    assert command(folder, "--rollback") == "champion of digits: version 2 again, no longer version 1\n"
