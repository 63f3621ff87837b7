"""A real PostgreSQL server in a folder of its own, from the programs of Debian's package.

It listens on a socket in that folder and on no port. PostgreSQL does not run as root, so a test run
by root gives the folder to the account that the package makes.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin")
_SETTINGS = "-c fsync=off -c max_connections=20 -c shared_buffers=16MB -c listen_addresses="


class Postgres:
    """A server that can be stopped and started again."""

    def __init__(self, programs: Path, folder: Path, account: str | None) -> None:
        self._programs, self._folder, self._account = programs, folder, account
        self.url = f"postgresql://tester@/postgres?host={folder}"
        self._run("initdb", "-U", "tester", "-A", "trust", "--no-sync", "-D", "data")

    def start(self) -> None:
        options = f"-k {self._folder} {_SETTINGS}"
        self._run("pg_ctl", "start", "-w", "-D", "data", "-l", "server.log", "-o", options)

    def stop(self) -> None:
        """End at once, as a crash would."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", "data")

    def _run(self, program: str, *arguments: str) -> None:
        # To a file: a server that was started keeps a pipe open.
        with (self._folder / f"{program}.log").open("w+") as log:
            code = subprocess.run(
                [self._programs / program, *arguments],
                user=self._account,
                stdout=log,
                stderr=log,
                check=False,
                cwd=self._folder,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                timeout=280,
            ).returncode
            log.seek(0)
            assert code == 0, log.read()


def find_programs() -> Path:
    """The folder of initdb and pg_ctl; without one the test is skipped."""
    for pattern in _PLACES:
        for folder in sorted(Path("/").glob(pattern[1:]), reverse=True):
            if (folder / "initdb").exists():
                return folder
    pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")


def find_account() -> str | None:
    """The account for the server: None is that of the test."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no account postgres")


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    programs, account = find_programs(), find_account()
    # Not in pytest's folder, which only the user of the test may enter; paths of sockets are short.
    folder = Path(tempfile.mkdtemp(prefix="headrace-pg-"))
    try:
        if account is not None:
            shutil.chown(folder, account)
        server = Postgres(programs, folder, account)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
