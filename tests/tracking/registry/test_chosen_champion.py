"""A user's choice of the champion: by the command, on MLflow's page and back. Searches respect it."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from champions import add, aliases, previous, register
from click.testing import CliRunner
from shell import Finished, one_file

from search.cli.main import cli
from search.common.errors import ModelNotFoundError, SearchError
from search.tracking.registry.loading import newest_champion
from search.tracking.registry.promotion import CHAMPION, promote_if_better, rollback, set_champion
from search.tracking.registry.version import why_not_champion
from search.tracking.store import connect_mlflow


@pytest.mark.slow
def test_searches_respect_promotions_and_rollbacks_by_a_user(store: mlflow.MlflowClient):
    for score in (0.9, 0.95, 0.8):
        register(store, score)
    assert aliases(store) == ("2", "3")
    set_champion(store, "toy", "3")
    assert (aliases(store), previous(store)) == (("3", None), "2")
    assert register(store, 0.7) != ""
    assert aliases(store) == ("3", "4")
    assert register(store, 0.85) == ""  # better than the user's choice, though not than version 2
    assert rollback(store, "toy") == ("5", "3")
    assert register(store, 0.7) == "version 3 of toy stays champion: accuracy 0.7000 is behind its 0.8000"
    assert rollback(store, "toy") == ("3", "5")
    assert (aliases(store), previous(store)) == (("5", "6"), "3")
    assert register(store, 0.84) == "version 5 of toy stays champion: accuracy 0.8400 is behind its 0.8500"
    assert rollback(store, "toy") == ("5", "3")
    assert register(store, 0.81) == ""
    assert (aliases(store)[0], previous(store)) == ("8", "3")


def test_a_better_version_that_a_user_passed_over_is_explained(store: mlflow.MlflowClient):
    register(store, 0.8)
    better = add(store, 0.9)
    set_champion(store, "toy", "1")
    assert promote_if_better(store, "toy", better) == "1"
    assert why_not_champion(store, "toy", better, "1") == (
        "version 1 of toy stays champion: it was promoted by hand when version 2 was already there"
    )
    assert register(store, 0.85) == ""


@pytest.mark.slow
def test_a_worse_version_promoted_on_the_page_stays(store: mlflow.MlflowClient):
    for score in (0.9, 0.95, 0.8):
        add(store, score)
    store.set_registered_model_alias("toy", CHAMPION, "3")
    assert register(store, 0.7) != ""
    assert aliases(store) == ("3", "4")
    assert register(store, 0.81) == ""


@pytest.mark.slow
def test_an_earlier_champion_brought_back_on_the_page_stays(store: mlflow.MlflowClient):
    for score in (0.9, 0.95):
        register(store, score)
    store.set_registered_model_alias("toy", CHAMPION, "1")
    assert register(store, 0.8) != ""
    assert aliases(store) == ("1", "3")
    assert register(store, 0.92) == ""
    store.set_registered_model_alias("toy", CHAMPION, "1")  # and a second time
    assert register(store, 0.85) != ""
    assert aliases(store) == ("1", "5")
    assert rollback(store, "toy") == ("1", "4")


def test_a_users_choice_is_forgotten_when_it_is_deleted(store: mlflow.MlflowClient):
    for score in (0.9, 0.95, 0.8):
        register(store, score)
    set_champion(store, "toy", "3")
    store.delete_model_version("toy", "3")
    assert aliases(store) == (None, None)
    assert register(store, 0.7) != ""
    assert (aliases(store), previous(store)) == (("2", "4"), None)


def test_a_missing_model_or_version_cannot_be_promoted(store: mlflow.MlflowClient):
    with pytest.raises(ModelNotFoundError, match="no champion is registered here yet. Run a search first"):
        newest_champion(store)
    for act in (lambda: set_champion(store, "toy", "1"), lambda: rollback(store, "toy")):
        with pytest.raises(ModelNotFoundError, match="there is no model 'toy' with versions; registered here: none"):
            act()
    add(store, 0.5)
    with pytest.raises(ModelNotFoundError, match="has a champion. Registered here: toy. .* promote toy/1"):
        newest_champion(store)
    with pytest.raises(ModelNotFoundError, match="there is no version 2 of 'toy'; it has 1"):
        set_champion(store, "toy", "2")
    with pytest.raises(ModelNotFoundError, match="toy has no champion; to choose one, type"):
        rollback(store, "toy")


def command(folder: Path, *words: str) -> str:
    return CliRunner().invoke(cli, ["promote", *words, "--workspace", str(folder)], catch_exceptions=False).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits/2"], "there is no version 2 of 'digits'; it has 1"),
        (["--rollback"], "no champion of digits before version 1 is known; to choose one, type: python -m search"),
        (["--rollback", "mnist"], "there is no model 'mnist' with versions; registered here: digits"),
        ([], "promote what[?] Type python -m search promote STUDY"),
        (["digitz"], "there is no study 'digitz' made by a search; there are: digits. A version of a model is typed"),
    ],
)
def test_an_impossible_promotion_is_explained(finished: Finished, words: list[str], message: str):
    with pytest.raises(SearchError, match=message):
        command(finished.folder, *words)


@pytest.mark.slow
def test_the_command_promotes_a_version_or_a_winner_and_rolls_back(finished: Finished, folder: Path):
    for name in ("optuna.db", "mlflow.db"):
        one_file(finished.folder / name, folder / name)
    client = connect_mlflow(f"sqlite:///{folder}/mlflow.db")
    add(client, 0.1, "digits")
    assert command(folder, "digits/2") == "champion of digits: version 2\n"
    assert aliases(client, "digits") == ("2", None)
    assert "registered: digits version 1, alias champion (models:/digits/1)" in command(folder, "digits")
    assert aliases(client, "digits") == ("1", None)
    assert command(folder, "--rollback") == "champion of digits: version 2 again, no longer version 1\n"
