"""Migration of the database to the newest schema, by the first process that opens it."""

import sqlite3
import time
from contextlib import closing

from sqlalchemy import Connection, Engine, insert, inspect, select, update

from opam_ci.clients.index.engine import lock, reading, shown, translated, writing
from opam_ci.clients.index.migrations import STEPS
from opam_ci.clients.index.schema import METADATA, SCHEMA_VERSION, VERSION
from opam_ci.clients.index.triggers import create_triggers
from opam_ci.core.errors import UsageError

_LOCK = 7_263_519_004
_WAL_SECONDS = 30


def migrate(engine: Engine) -> None:
    """Makes the tables, or runs the steps that are missing; blocks while another one does.

    Raises:
        UsageError: The database is of a newer version or too old, or not an index.
        InfrastructureError: It is not reachable or damaged.
    """
    if engine.dialect.name == "sqlite":
        _use_write_ahead_log(engine)
    with reading(engine) as connection:
        if _version(connection) == SCHEMA_VERSION:
            return
    with writing(engine) as connection:
        lock(connection, _LOCK)
        found = _version(connection)
        if found is None:
            _create(engine, connection)
        elif found != SCHEMA_VERSION:
            _upgrade(engine, connection, found)


def _version(connection: Connection) -> str | None:
    """Returns the schema of the database, None if it has no tables of an index."""
    if not inspect(connection).has_table(VERSION.name):
        return None
    return connection.scalar(select(VERSION.c.version_num))


def _create(engine: Engine, connection: Connection) -> None:
    if engine.dialect.name == "sqlite" and inspect(connection).get_table_names():
        raise UsageError(f"{shown(engine)} has tables that are not an index's: give another file")
    # Unchecked: in a shared database, a table of the same name is not ours.
    METADATA.create_all(connection, checkfirst=False)
    create_triggers(connection)
    connection.execute(insert(VERSION).values(version_num=SCHEMA_VERSION))


def _upgrade(engine: Engine, connection: Connection, found: str) -> None:
    if not found.isdecimal() or int(found) > int(SCHEMA_VERSION):
        raise UsageError(
            f"{shown(engine)} was written by a newer opam-ci (schema {found}, this one knows "
            f"{SCHEMA_VERSION}): update opam-ci, or give another index"
        )
    if found not in STEPS:
        raise UsageError(
            f"{shown(engine)} was written by an opam-ci that is too old (schema {found}, this one "
            f"migrates {min(STEPS)} and newer): move it away, or give another index"
        )
    for step in (STEPS[version] for version in sorted(STEPS) if version >= found):
        step(connection)
    connection.execute(update(VERSION).values(version_num=SCHEMA_VERSION))


def _use_write_ahead_log(engine: Engine) -> None:
    """Turns the log on permanently. SQLite itself does not wait for others here, so we do."""
    deadline = time.monotonic() + _WAL_SECONDS
    with translated(engine), closing(engine.raw_connection()) as connection:
        while True:
            try:
                connection.cursor().execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return
