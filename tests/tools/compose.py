"""The services of docker/compose.yaml, started by hand: their very commands, against each other, on loopback.

    python tests/tools/compose.py [FOLDER]    start the servers, run a small search through them, load its champion

No Docker engine is needed. What a container would bring is put in place: secrets as files, volumes as folders, names of
machines as ports of 127.0.0.1; and a PostgreSQL from pip instead of the image of that name.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from postgres import Postgres
from shell import CHECKOUT, environment, free_port

DOCKER = Path(CHECKOUT) / "docker"
SERVERS = ("mlflow", "dashboard")
READY_S = 90.0


def entrypoint(stage: str) -> list[str]:
    """What the Dockerfile runs before a command, in one stage."""
    text = (DOCKER / "Dockerfile").read_text()
    (_, after) = re.split(rf"^FROM .* AS {stage}\n", text, flags=re.M)
    words: list[str] = json.loads(re.findall(r"^ENTRYPOINT (\[.*\])$", after.partition("\nFROM ")[0], re.M)[-1])
    return words


class Stack:
    """One set of services in a folder; `start`, use, `stop`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.compose: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
        self.secrets = folder / "secrets"
        subprocess.run([DOCKER / "make-secrets", self.secrets], check=True, capture_output=True)
        self.ports = {name: free_port() for name in SERVERS}
        self.postgres = Postgres(folder / "postgres")
        login = self.secrets / "mlflow-auth.ini"
        login.write_text(self._here("mlflow", login.read_text()))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['mlflow']}"

    @property
    def dashboard_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['dashboard']}"

    def secret(self, name: str) -> str:
        """What is secret in one of the files."""
        return (self.secrets / name).read_text().split("password = ")[-1].split(":")[-1].split()[0]

    def passwords(self) -> list[str]:
        """Everything that must never be seen."""
        names = ("postgres-password", "search-password", "mlflow-password", "mlflow-secret-key", "mlflow-credentials")
        return [self.secret(name) for name in names]

    # ---- services

    def start(self) -> None:
        """All servers, each when those that it waits for are healthy."""
        self.postgres.prepare(self._here("postgres", self.compose["configs"]["databases"]["content"]))
        self.postgres.start()
        self._until_healthy("postgres")
        for name in SERVERS:
            words = [*entrypoint("servers"), *self.compose["services"][name]["command"]]
            self.begin(name, [self._here(name, word) for word in words])
        for name in SERVERS:
            self._until_healthy(name)

    def begin(self, name: str, command: Sequence[str]) -> None:
        """Start one server; what it prints goes to NAME.txt."""
        with (self.folder / f"{name}.txt").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                command,
                env=self.variables(name),
                cwd=self.volume(name),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def end(self, name: str) -> None:
        """Stop one server."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """Stop everything and leave no database behind."""
        for name in list(self.processes):
            self.end(name)
        self.postgres.remove()

    def search(self, *words: object, env: Mapping[str, str] = {}) -> subprocess.Popen[str]:
        """`docker compose run search-cpu WORDS`."""
        return subprocess.Popen(
            [*entrypoint("cpu"), *map(str, words)],
            env={**self.variables("search-cpu"), **env},
            cwd=self.volume("search-cpu"),
            text=True,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    # ---- what a container would bring

    def variables(self, name: str) -> dict[str, str]:
        """The environment of a service; its home has the secrets that are mounted there."""
        service = self.compose["services"][name]
        home = self.folder / "home" / name
        home.mkdir(parents=True, exist_ok=True)
        for mounted in service["secrets"]:
            if isinstance(mounted, dict):
                target = home / mounted["target"].removeprefix("/home/search/")
                target.parent.mkdir(exist_ok=True)
                target.write_text((self.secrets / mounted["source"]).read_text())
        given = {key: self._here(name, value) for key, value in service["environment"].items()}
        path = os.pathsep.join((str(DOCKER), str(Path(sys.executable).parent), os.environ["PATH"]))
        return environment({"PATH": path, "HOME": str(home), "TMPDIR": str(home), **given})

    def volume(self, name: str) -> Path:
        """The folder that is /workspace in a service."""
        folder = self.folder / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _here(self, name: str, text: str) -> str:
        """A command or a variable, with the addresses and the paths of a container as they are here."""
        text = re.sub(r"(?<![\w.])/workspace\b", str(self.volume(name)), text)
        text = text.replace("/run/secrets", str(self.secrets)).replace("0.0.0.0", "127.0.0.1")
        text = text.replace("@postgres/", f"@127.0.0.1:{self.postgres.port}/")
        text = text.replace("http://mlflow:5000", self.mlflow_url)
        for server, port in (("mlflow", 5000), ("dashboard", 8080)):
            text = re.sub(rf"(--port[ =]|http://127\.0\.0\.1:){port}\b", rf"\g<1>{self.ports[server]}", text)
        return text

    def _until_healthy(self, name: str) -> None:
        """Ask as compose.yaml asks."""
        kind, *question = self.compose["services"][name]["healthcheck"]["test"]
        assert kind == "CMD"
        deadline = time.monotonic() + READY_S
        while not self._is_healthy(name, question):
            said = self.folder / f"{name}.txt"
            late = f"{name} is not healthy: {said.read_text() if said.exists() else ''}"
            assert name not in self.processes or self.processes[name].poll() is None, late
            assert time.monotonic() < deadline, late
            time.sleep(0.3)

    def _is_healthy(self, name: str, question: Sequence[str]) -> bool:
        if name == "postgres":
            return self.postgres.run(*question).returncode == 0
        return subprocess.run(question, env=self.variables(name), capture_output=True).returncode == 0


@contextmanager
def running(folder: Path) -> Iterator[Stack]:
    """A stack that is stopped in the end."""
    stack = Stack(folder)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def main(folder: Path) -> int:
    """A small search through the servers, and its champion loaded through them."""
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with running(folder) as stack:
        print(f"servers ready after {time.monotonic() - began:.0f} s")
        small = ("--dataset", "digits", "--trials", 3, "--epochs", 1, "--jobs", 2, "--confirm", 0, "--no-refit")
        for words in (small, ("predict", "digits:0-4")):
            process = stack.search(*words)
            out, err = process.communicate(timeout=120)
            print(out, err, sep="")
            if process.returncode:
                return process.returncode
    print(f"all of it took {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(Path(sys.argv[1]).absolute()))
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(Path(temporary)))
