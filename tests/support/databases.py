"""Databases in a PostgreSQL that tests start, and processes that hold a study in one."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import sqlalchemy
from shell import environment

HOLDER = """
    import sys
    from search.study.storage.storage import hold_study

    with hold_study(sys.argv[1], sys.argv[2]):
        print("held", flush=True)
        sys.stdin.read()
"""


def url_of(server: Any, **parts: Any) -> str:
    """Return the server's URL with some parts replaced."""
    url = sqlalchemy.make_url(server.get_uri(driver="psycopg")).set(**parts)
    return url.render_as_string(hide_password=False)


def run_sql(url: str, *statements: str) -> list[Any]:
    """Run statements and return the first value of each."""
    with sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        results = [connection.execute(sqlalchemy.text(statement)) for statement in statements]
        return [result.scalar() if result.returns_rows else None for result in results]


def hold(url: str, study: str) -> subprocess.Popen[str]:
    """Start another process that locks a study."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), url, study]
    pipe = subprocess.PIPE
    holder = subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder
