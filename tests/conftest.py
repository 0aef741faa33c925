"""What several test files share: a clean environment, and searches that are run once and only looked at."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shell import IMPORTABLE, Finished, one_file, search, store, stored

if TYPE_CHECKING:
    from place import Place

# Small tensors on busy cores: threads that wait for each other take ten times as long as one alone.
os.environ["OMP_NUM_THREADS"] = "1"

# What a shell makes run in the background, or nohup, ignores signals, and so would the searches that tests start.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)


def only_gpu_tests(config: pytest.Config) -> bool:
    """Whether just the tests marked `gpu` are asked for. A machine with a GPU may lack what all others import."""
    return config.option.markexpr == "gpu"


def pytest_configure(config: pytest.Config) -> None:
    if only_gpu_tests(config):
        return
    from hypothesis import settings

    # How long an example takes says more of the machine than of what is tested.
    settings.register_profile("any machine", deadline=None)
    settings.load_profile("any machine")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m gpu`, import only the files of such tests, `test_gpu*.py`, and the conftest.py files above them."""
    if not only_gpu_tests(config):
        return None
    found = collection_path.rglob("*.py") if collection_path.is_dir() else [collection_path]
    return None if any(path.name.startswith("test_gpu") for path in found) else True


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person who runs the tests reaches them, except where real data lies; trainers find `toy`."""
    for name in list(os.environ):
        if name.startswith(("SEARCH_", "TOY_")) and name != "SEARCH_DATA_DIR":
            monkeypatch.delenv(name)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", IMPORTABLE)


@pytest.fixture(autouse=True)
def untouched_torch() -> Iterator[None]:
    """A trainer in the tests' own process leaves it without denormal numbers, and with as many threads as it had."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="module")
def device() -> None:
    """What tests on a CUDA device ask for first."""
    import torch

    if not torch.cuda.is_available():
        pytest.fail("SEARCH_EXPECT_GPU=1, but torch finds no CUDA device")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all of pytest's processes see."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextmanager
def made_once(path: Path) -> Iterator[bool]:
    """Whether this process is the one to make `path`; the others wait until it is made."""
    with open(path.with_name(f"{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not path.exists()


@pytest.fixture(scope="session")
def finished(shared: Path) -> Finished:
    """`python -m search --dataset digits --trials 3`, in an empty folder, with short trainings."""
    folder, said = shared / "finished", shared / "finished.json"
    with made_once(said) as ours:
        if ours:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            result = search("--dataset", "digits", "--trials", 3, "--epochs", 6, cwd=folder)
            assert result.returncode == 0, result.stderr
            store(said, result)
    return Finished(folder, stored(said))


@pytest.fixture(scope="session")
def fresh_mlflow(shared: Path) -> Path:
    """An MLflow database with nothing in it: making one takes seconds, copying it does not."""
    path = shared / "fresh_mlflow.db"
    with made_once(path) as ours:
        if ours:
            from search.tracking.store import connect_mlflow

            connect_mlflow(f"sqlite:///{shared}/mlflow.db")
            one_file(shared / "mlflow.db", path)  # MLflow keeps connections open, so there is a log beside it
    return path


@pytest.fixture(scope="session")
def fresh_optuna(shared: Path) -> Path:
    """An Optuna database with nothing in it."""
    path = shared / "fresh_optuna.db"
    with made_once(path) as ours:
        if ours:
            from search.study.storage.storage import open_storage

            open_storage(f"sqlite:///{shared}/optuna.db")
            one_file(shared / "optuna.db", path)
    return path


@pytest.fixture
def database(tmp_path: Path, fresh_optuna: Path) -> str:
    """The URL of one that a test may fill."""
    return f"sqlite:///{shutil.copy(fresh_optuna, tmp_path / 'optuna.db')}"


@pytest.fixture
def folder(tmp_path: Path, fresh_mlflow: Path, fresh_optuna: Path) -> Path:
    """A folder to search in whose databases are made already."""
    place = tmp_path / "place"
    place.mkdir()
    shutil.copy(fresh_mlflow, place / "mlflow.db")
    shutil.copy(fresh_optuna, place / "optuna.db")
    return place


@pytest.fixture
def place(folder: Path) -> Place:
    """The same folder for the loop on a tiny objective."""
    from place import Place

    return Place(folder)
