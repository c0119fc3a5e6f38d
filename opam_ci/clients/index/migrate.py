"""Brings the database of the index to the newest schema, whoever opens it first."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from opam_ci.clients.index.engine import reading, shown, translated, writing
from opam_ci.clients.index.schema import SCHEMA_VERSION, VERSION_TABLE
from opam_ci.core.errors import UsageError

_ADVISORY_LOCK = 7_263_519_004
"""Any number: the name of our lock in a PostgreSQL database."""
_WAL_SECONDS = 30
_MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(engine: Engine) -> None:
    """Runs what is missing of the migrations, under a lock; blocks while another one does.

    Raises:
        UsageError: The database is of a newer version, or of something else.
        InfrastructureError: It is not reachable or damaged.
    """
    if engine.dialect.name == "sqlite":
        _use_write_ahead_log(engine)
    with reading(engine) as connection:
        if _version(connection) == SCHEMA_VERSION:
            return
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _ADVISORY_LOCK})
        found = _version(connection)
        if found == SCHEMA_VERSION:
            return
        _check(engine, connection, found)
        _upgrade(connection)


def _version(connection: Connection) -> str | None:
    """Returns the id of the database's last migration, None before the first."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    query = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608 - our own constant
    version: str | None = connection.scalar(query)
    return version


def _check(engine: Engine, connection: Connection, found: str | None) -> None:
    if found is None:
        if engine.dialect.name == "sqlite" and inspect(connection).get_table_names():
            raise UsageError(f"{shown(engine)} is a database of something else: give another file")
    elif not found.isdecimal() or int(found) > int(SCHEMA_VERSION):
        raise UsageError(
            f"{shown(engine)} was written by a newer opam-ci (schema {found}, this one knows "
            f"{SCHEMA_VERSION}): update opam-ci, or give another index"
        )


def _upgrade(connection: Connection, version: str = SCHEMA_VERSION) -> None:
    # Imported here, since it takes longer than opening an index that is up to date.
    from alembic import command  # noqa: PLC0415 - as said above
    from alembic.config import Config  # noqa: PLC0415 - as said above

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, version)


def _use_write_ahead_log(engine: Engine) -> None:
    """Turns the log on for good. SQLite itself does not wait for others here, so we do."""
    deadline = time.monotonic() + _WAL_SECONDS
    with translated(engine), closing(engine.raw_connection()) as connection:
        while True:
            try:
                connection.cursor().execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return
