"""gc --keep: the weights that a search with `--keep` would have deleted, of studies that exist already."""

from __future__ import annotations

import shutil
from pathlib import Path

import optuna
import pytest
from click.testing import CliRunner
from shell import Finished, in_process, rows
from studies import a_study, ask, train

import search
from search.cli.main import cli
from search.commands.studies import shared_trials
from search.common.errors import ModelNotFoundError, StorageError
from search.study import records
from search.study.storage.storage import hold_study, open_storage
from search.tracking.delivery import Delivery


@pytest.fixture
def folder(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished search, with no arrays beside it, as if it had confirmed nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = Path(shutil.copytree(finished.folder, tmp_path / "copy"))
    opened(copy).set_user_attr(records.EXTRA_TRAININGS, {})
    return copy


def opened(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="digits", storage=f"sqlite:///{folder}/optuna.db")


def kept(folder: Path) -> set[int]:
    """The trials whose runs have weights."""
    query = """SELECT a.run_uuid, a.value FROM tags a JOIN tags b USING (run_uuid)
        WHERE a.key = 'optuna.trial.number' AND b.key = 'kind' AND b.value = 'trial'"""
    runs = rows(folder / "mlflow.db", query)
    return {int(number) for run, number in runs if list(folder.rglob(f"{run}/artifacts/weights.pt"))}


def test_gc_lists_and_deletes_the_weights_of_other_trials(folder: Path, tmp_path: Path):
    models = sorted(folder.rglob("MLmodel"))
    gc = ("gc", "--keep", "best:1", "--workspace", folder, "--data-dir", tmp_path / "data")
    before = kept(folder)
    stays = {trial for trial in before if trial in best(folder) | {winner(folder)}}
    gone = sorted(before - stays)
    listed = in_process(*gc).output
    assert f"weights of {len(gone)} trial" in listed
    places = f"--workspace {folder} --data-dir {gc[-1]}"
    assert f"To remove them, type python -m search gc --keep best:1 {places} --delete" in listed
    assert kept(folder) == before
    with hold_study(f"sqlite:///{folder}/optuna.db", "digits"):
        said = " ".join(in_process(*gc, "--delete").output.split())
        assert "it is being searched by process" in said
        assert "wait until it has ended, or end it, and type this again" in said
    assert kept(folder) == before
    assert f"weights of trials: removed {len(gone)} of {len(gone)}" in in_process(*gc, "--delete").output
    assert kept(folder) == stays
    assert set(opened(folder).user_attrs[records.DELETED]) == set(gone)
    assert "no study has weights that --keep best:1 would delete" in in_process(*gc).output

    assert sorted(folder.rglob("MLmodel")) == models != []
    assert search.load_trial("digits", min(stays), workspace=folder) is not None
    with pytest.raises(
        ModelNotFoundError, match=r"--keep deleted them, in .* gc\. These trials have weights: \d.*\. To train"
    ):
        search.load_trial("digits", gone[0], workspace=folder)
    for words in (("show", "digits"), ("report",), ("promote", "digits")):
        assert in_process(*words, "--workspace", folder).exit_code == 0


def best(folder: Path) -> set[int]:
    return {opened(folder).best_trial.number}


def winner(folder: Path) -> int:
    return int(opened(folder).user_attrs[records.SUMMARY]["number"])


def test_a_setting_for_searches_deletes_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = kept(folder)
    gc = ("gc", "--delete", "--workspace", folder, "--data-dir", tmp_path / "data")
    (tmp_path / "search.toml").write_text('keep = "best:1"\n', encoding="utf-8")
    assert "weights" not in in_process(*gc, "--config", tmp_path / "search.toml").output
    monkeypatch.setenv("SEARCH_KEEP", "best:1")
    assert "weights" not in in_process(*gc).output
    assert kept(folder) == before
    assert len(before) > 1
    assert "weights of" in in_process(*gc[:1], "--keep", "best:1", *gc[2:]).output


def test_without_keep_no_study_is_opened(tmp_path: Path):
    said = in_process("gc", "--workspace", tmp_path, "--data-dir", tmp_path / "data").output
    assert "weights" not in said
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError, match=r"there is no study database at .*optuna\.db; run a search first"):
        in_process("gc", "--keep", "best:2", "--workspace", tmp_path, "--data-dir", tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_copy_and_its_original_share_trials(database: str):
    study = a_study(database)
    for _ in range(2):
        train(study, ask(study))
    assert shared_trials(open_storage(database), "toy") == set()
    optuna.copy_study(from_study_name="toy", from_storage=database, to_storage=database, to_study_name="fork")
    assert [shared_trials(open_storage(database), name) for name in ("toy", "fork")] == [{0, 1}] * 2
    copied = optuna.load_study(study_name="fork", storage=database)
    copied.set_user_attr(records.UID, f"{study.stored.uid}-01234567")
    train(study, ask(study))
    own = optuna.trial.create_trial(value=1.0, user_attrs={records.ORIGIN: f"{study.stored.uid}-01234567/2"})
    copied.add_trial(own)
    assert [shared_trials(open_storage(database), name) for name in ("toy", "fork")] == [{0, 1}] * 2


def test_on_a_terminal_it_asks_about_the_weights(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda stream: True, raising=False)
    before = kept(folder)
    gc = ["gc", "--keep", "best:1", "--workspace", str(folder), "--data-dir", str(tmp_path / "data")]
    shown = CliRunner().invoke(cli, gc, input="n\n").output
    assert "Remove the weights? [y/N]: n" in shown
    assert "Remove the arrays?" not in shown
    assert kept(folder) == before


def test_a_refusal_is_a_failure_and_is_listed_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As from a server whose user may not delete."""
    gc = ("gc", "--keep", "best:1", "--workspace", folder, "--data-dir", tmp_path / "data")
    before = kept(folder)
    gone = sorted(before - best(folder) - {winner(folder)})
    opened(folder).set_user_attr(records.DELETED, gone)  # an earlier search took the refusal for a deletion
    with monkeypatch.context() as patch:
        patch.setattr(Delivery, "_remove", lambda self, run_id, batch: None)
        result = in_process(*gc, "--delete")
    assert result.exit_code == 1
    assert f"weights of trials: removed 0 of {len(gone)}" in result.output
    assert f"digits: MLflow has not deleted those of {len(gone)} trial" in result.output
    assert opened(folder).user_attrs[records.DELETED] == []
    assert kept(folder) == before
    assert in_process(*gc, "--delete").exit_code == 0
    assert opened(folder).user_attrs[records.DELETED] == gone


def test_trials_that_have_not_ended_their_search_stay(folder: Path, tmp_path: Path):
    opened(folder).set_user_attr(records.TARGET, 10)
    before = kept(folder)
    gc = ("gc", "--keep", "best:1", "--workspace", folder, "--data-dir", tmp_path / "data", "--delete")
    assert "another trial may win" in " ".join(in_process(*gc).output.split())
    assert kept(folder) == before
