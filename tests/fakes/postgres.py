"""A real PostgreSQL server of the tests' own, reached by a socket only."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DEBIAN = Path("/usr/lib/postgresql")
"""Where Debian keeps the server's programs, by version, and not on PATH."""


def _program(name: str) -> str | None:
    versions = sorted(DEBIAN.glob(f"*/bin/{name}"), key=lambda path: path.parts[-3], reverse=True)
    return shutil.which(name) or next(map(str, versions), None)


@contextmanager
def running(home: Path) -> Iterator[str]:
    """Runs a server in a directory; yields the URL of an empty database."""
    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("no PostgreSQL server (initdb, pg_ctl) is installed")
    pytest.importorskip("psycopg", reason="the package psycopg is not installed")
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    data = home / "data"
    data.mkdir()
    if user is not None:
        shutil.chown(data, user)
    # fsync: what a test writes need not survive the machine.
    options = f"-c listen_addresses= -c unix_socket_directories={data} -c fsync=off"
    setup = [initdb, "-D", str(data), "-U", "ci", "-A", "trust", "-N", "-E", "UTF8"]
    start = [pg_ctl, "-D", str(data), "-w", "-l", str(data / "log"), "-o", options, "start"]
    stop = [pg_ctl, "-D", str(data), "-w", "-m", "immediate", "stop"]
    subprocess.run(setup, user=user, cwd="/", check=True, capture_output=True)
    subprocess.run(start, user=user, cwd="/", check=True, stdout=subprocess.DEVNULL)
    try:
        yield f"postgresql://ci@/postgres?host={data}"
    finally:
        subprocess.run(stop, user=user, cwd="/", check=True, capture_output=True)
