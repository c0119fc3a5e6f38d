"""A real PostgreSQL server of the tests' own, which listens on a socket only."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

DEBIAN = Path("/usr/lib/postgresql")
"""Debian's directory of the server's programs, by version; it is not on PATH."""


def _program(name: str) -> str | None:
    versions = sorted(DEBIAN.glob(f"*/bin/{name}"), key=lambda path: path.parts[-3], reverse=True)
    return shutil.which(name) or next(map(str, versions), None)


class Postgres:
    """A server in a directory, which can be stopped and started again.

    Attributes:
        url: Of an empty database.
    """

    def __init__(self, home: Path) -> None:
        initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
        if initdb is None or pg_ctl is None:
            pytest.skip("no PostgreSQL server (initdb, pg_ctl) is installed")
        pytest.importorskip("psycopg", reason="the package psycopg is not installed")
        # The server refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        self._data = data = home / "data"
        data.mkdir()
        if self._user is not None:
            shutil.chown(data, self._user)
        self._pg_ctl = [pg_ctl, "-D", str(data), "-w"]
        self.url = f"postgresql://ci@/postgres?host={data}"
        setup = [initdb, "-D", str(data), "-U", "ci", "-A", "trust", "-N", "-E", "UTF8"]
        subprocess.run(setup, user=self._user, cwd="/", check=True, capture_output=True)

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        data = self._data
        # fsync: what a test writes need not survive the machine.
        options = f"-c listen_addresses= -c unix_socket_directories={data} -c fsync=off"
        words = [*self._pg_ctl, "-l", str(data / "log"), "-o", options, "start"]
        subprocess.run(words, user=self._user, cwd="/", check=True, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        """Stops it at once: connections break, and what was not committed is lost."""
        words = [*self._pg_ctl, "-m", "immediate", "stop"]
        subprocess.run(words, user=self._user, cwd="/", check=True, capture_output=True)

    @property
    def runs(self) -> bool:
        """Whether it was started and not stopped since."""
        return (self._data / "postmaster.pid").exists()


@contextmanager
def server() -> Iterator[Postgres]:
    """Runs a server for the time of a block."""
    # Not below tmp_path, which only its owner may enter, and a socket's path is short.
    with TemporaryDirectory(prefix="opam-ci-pg-") as home:
        Path(home).chmod(0o755)
        made = Postgres(Path(home))
        made.start()
        try:
            yield made
        finally:
            if made.runs:
                made.stop()
