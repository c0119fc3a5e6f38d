"""The triggers that update the counters with every change of jobs or attempts."""

from collections.abc import Iterator
from itertools import product

from sqlalchemy import Connection, Table

from opam_ci.clients.index.schema import ATTEMPT_COUNTS, ATTEMPTS, JOB_COUNTS, JOBS

_COUNTED = ((JOBS, "updated_at", JOB_COUNTS), (ATTEMPTS, "started_at", ATTEMPT_COUNTS))
"""Tables, the time whose day their rows are counted by, and the table of counters."""

_CHANGES = {"INSERT": ("NEW",), "DELETE": ("OLD",), "UPDATE": ("OLD", "NEW")}
"""Which rows a change counts: new ones are added, old ones subtracted."""


def create_triggers(connection: Connection) -> None:
    """Makes the triggers of a new index."""
    create = _in_postgres if connection.dialect.name == "postgresql" else _in_sqlite
    for (table, moment, counts), event in product(_COUNTED, _CHANGES):
        for statement in create(table, moment, counts, event):
            connection.exec_driver_sql(statement)


def groups(counts: Table) -> list[str]:
    """Returns the names of the columns by which a table of counters counts."""
    return [column.name for column in counts.c if column.name not in {"id", "count", "folded"}]


def _values(day: str, counts: Table, row: str) -> str:
    """The values of a row in the columns of `groups`."""
    columns = (f"coalesce({row}.{name}, '')" for name in groups(counts)[1:-1])
    why = f"coalesce({row}.failure_reason, {row}.skip_reason, {row}.cause, '')"
    return ", ".join((day, *columns, why))


def _in_sqlite(table: Table, moment: str, counts: Table, event: str) -> Iterator[str]:
    """Counts each changed row; an update only if it changes what is counted."""
    values = {
        row: _values(f"substr({row}.{moment}, 1, 10)", counts, row) for row in _CHANGES[event]
    }
    inserts = "".join(
        f"INSERT INTO {counts} ({', '.join(groups(counts))}, count, folded) "  # noqa: S608 - our own names
        f"VALUES ({of_row}, {'+1' if row == 'NEW' else '-1'}, false);"
        for row, of_row in values.items()
    )
    differs = f" WHEN ({') IS NOT ('.join(values.values())})" if len(values) > 1 else ""
    yield (
        f"CREATE TRIGGER {table}_counted_{event.lower()} AFTER {event} ON {table} "
        f"FOR EACH ROW{differs} BEGIN {inserts} END"
    )


def _in_postgres(table: Table, moment: str, counts: Table, event: str) -> Iterator[str]:
    """Counts each group that a statement changes once, also for a cascade's statement."""
    name, names = f"{table}_counted_{event.lower()}", ", ".join(groups(counts))
    day = f"to_char({{row}}.{moment} AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
    rows = {row: row[0].lower() for row in _CHANGES[event]}
    changes = " UNION ALL ".join(
        f"SELECT {_values(day.format(row=short), counts, short)}, "  # noqa: S608 - our own names
        f"{'1' if row == 'NEW' else '-1'} FROM {row.lower()}_rows {short}"
        for row, short in rows.items()
    )
    yield (
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "  # noqa: S608 - our own names
        f"INSERT INTO {counts} ({names}, count, folded) SELECT {names}, sum(change), false "
        f"FROM ({changes}) AS changes ({names}, change) "
        f"GROUP BY {names} HAVING sum(change) <> 0; RETURN NULL; END $$"
    )
    tables = " ".join(f"{row} TABLE AS {row.lower()}_rows" for row in rows)
    yield (
        f"CREATE TRIGGER {name} AFTER {event} ON {table} REFERENCING {tables} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {name}()"
    )
