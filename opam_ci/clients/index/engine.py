"""Connections to the database of the index, on SQLite and PostgreSQL alike."""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import to_json
from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from opam_ci.core.batched import batched
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause

_BUSY_SECONDS = 30
"""How long a writer waits for another one; a batch takes milliseconds."""

_SQLITE_FULL = sqlite3.SQLITE_FULL
_SQLITE_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_POSTGRES_FULL = "53100"
_POSTGRES_MEMORY = "32MB"
"""What a step of a query may use before it writes to a disk."""

_PARAMETERS = 500
"""Values in a statement: below every database's limit of parameters."""

_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""NUL as JSON escapes it, and not the same six characters after an escaped backslash."""

T = TypeVar("T")


def create(address: str) -> Engine:
    """Makes an engine; no connection is opened yet.

    Raises:
        UsageError: It is not the URL of a database that the index can use.
        InfrastructureError: The directory of the file cannot be made.
    """
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        # Not `from error`: its text has the URL, which may have a password.
        raise _refused() from None
    match url.get_backend_name():
        # A file is on no host: two slashes instead of three make its first folder one.
        case "sqlite" if url.database not in {None, "", ":memory:"} and not (
            url.host or url.username
        ):
            return _sqlite(url)
        case "postgresql":
            return _postgres(url)
        case _:
            raise _refused()


def shown(engine: Engine) -> str:
    """Returns the URL without its password, which may be an option too."""
    return engine.url.set(query={}).render_as_string(hide_password=True)


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Opens a transaction that writes: all of it is stored, or nothing.

    Raises:
        InfrastructureError: The database is not reachable, full, locked or damaged.
    """
    with translated(engine), engine.connect() as connection:
        connection.execution_options(opam_ci_writes=True)
        with connection.begin():
            yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Opens a transaction that reads: all of it is from the same moment.

    Raises:
        InfrastructureError: The database is not reachable or damaged.
    """
    with translated(engine), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection


def insertion(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Returns an insert that supports `ON CONFLICT`."""
    postgres = connection.dialect.name == "postgresql"
    return postgresql.insert(table) if postgres else sqlite.insert(table)


def lock(connection: Connection, number: int) -> None:
    """Takes an exclusive lock until the transaction ends; on SQLite a writer has one anyway.

    Args:
        connection: In a transaction that writes.
        number: Id of the lock, any number.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": number})


class Connected:
    """A part of the index, or a user of its database; every method blocks on it.

    Args:
        engine: To the database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()


def portions(values: Iterable[T]) -> Iterator[tuple[T, ...]]:
    """Yields values in portions of which each fits into a statement."""
    return batched(values, _PARAMETERS)


@contextmanager
def translated(engine: Engine) -> Iterator[None]:
    """Turns errors of the database into ours, with a cause."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise _fault(engine, error) from error


def _fault(engine: Engine, error: Exception) -> InfrastructureError:
    orig = error.orig if isinstance(error, DBAPIError) else error
    message = " ".join(str(orig).split())[:300]
    # Extended codes of SQLite hold the primary one in their low byte.
    code = (getattr(orig, "sqlite_errorcode", None) or 0) & 0xFF
    if code in _SQLITE_DAMAGED:
        return InfrastructureError(
            f"{shown(engine)} is damaged or not an index ({message}): "
            "move the file away to begin with an empty one, or restore it from a backup",
            cause=Cause.STORAGE,
        )
    full = code == _SQLITE_FULL or getattr(orig, "sqlstate", None) == _POSTGRES_FULL
    return InfrastructureError(
        f"the index at {shown(engine)} does not work: {message}",
        cause=Cause.DISK_FULL if full else Cause.STORAGE,
    )


def _refused() -> UsageError:
    return UsageError(
        "OPAM_CI_INDEX is not the URL of an index: give sqlite:///FILE or "
        "postgresql://USER@HOST/DATABASE"
    )


def _sqlite(url: URL) -> Engine:
    try:
        Path(url.database or "").absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InfrastructureError(
            f"cannot make the directory of {url.database}: {error}", cause=Cause.STORAGE
        ) from error
    engine = create_engine(
        url.set(drivername="sqlite+pysqlite"),
        connect_args={"timeout": _BUSY_SECONDS},
        json_serializer=_json_text,
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _json_text(value: Any) -> str:
    """Makes JSON of our values, without NUL, which PostgreSQL cannot store."""
    return _NUL.sub(r"\1\\ufffd", to_json(value).decode())


def _postgres(url: URL) -> Engine:
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            json_serializer=_json_text,
            connect_args={"connect_timeout": 10},
        )
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise UsageError(
            "an index on PostgreSQL needs the Python package psycopg: install psycopg[binary]"
        ) from error
    event.listen(engine, "connect", _prepare_postgres)
    return engine


def _prepare_postgres(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    """Sets up a new connection.

    Queries take milliseconds: to compile one, or to start processes for it, takes longer than
    the query. What a head's jobs are compared with is hashed, for which 50,000 names need room.
    """
    with closing(connection.cursor()) as cursor:
        cursor.execute("SET jit = off; SET max_parallel_workers_per_gather = 0")
        cursor.execute(f"SET work_mem = '{_POSTGRES_MEMORY}'")
    connection.commit()


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    """Sets up a new connection.

    The driver's own transactions begin too late: of two writers, both could fail. Ours begin
    in `_begin_sqlite`. With a write-ahead log, NORMAL loses nothing
    when a process is killed; a power failure may cost the last transactions, which the
    activities' retries and Temporal's histories can bring back.
    """
    assert isinstance(connection, sqlite3.Connection)  # noqa: S101 - narrows the type only
    connection.isolation_level = None
    # 8 MiB of pages: a process has some five connections, and the kernel caches the file anyway.
    for pragma in ("foreign_keys = ON", "synchronous = NORMAL", "cache_size = -8192"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """Takes the write lock at the start: a reader that becomes a writer cannot wait."""
    writes = connection.get_execution_options().get("opam_ci_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
