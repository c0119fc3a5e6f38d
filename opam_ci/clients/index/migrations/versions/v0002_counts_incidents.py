"""Counters kept by triggers, incidents, pools, and indexes for a million jobs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_WHY = "coalesce({row}.failure_reason, {row}.skip_reason, {row}.cause, '')"
_COUNTED = {
    "jobs": ("job_counts", "updated_at", ("standing", "platform", "kind")),
    "attempts": ("attempt_counts", "started_at", ("worker", "pool", "standing")),
}
"""Of each counted table: where it is counted, by the day of which moment, and by what."""


def upgrade() -> None:
    """Makes the tables and triggers, and counts what is there already."""
    _create_incidents()
    _create_counts()
    _replace_indexes()
    postgres = op.get_context().dialect.name == "postgresql"
    if postgres:
        op.execute('ALTER TABLE jobs ALTER COLUMN package TYPE text COLLATE "C"')
    for table, (counts, _, _) in _COUNTED.items():
        if postgres:
            _trigger_postgres(table)
        else:
            _trigger_sqlite(table)
        columns = f"{', '.join(_names(table))}, count, folded"
        chosen = ", ".join(_values(table, table))
        op.execute(
            f"INSERT INTO {counts} ({columns}) SELECT {chosen}, count(*), true FROM {table} "  # noqa: S608 - our own names
            f"GROUP BY {chosen}"
        )


def _names(table: str) -> tuple[str, ...]:
    return ("day", *_COUNTED[table][2], "why")


def _values(table: str, row: str) -> tuple[str, ...]:
    _, moment, columns = _COUNTED[table]
    postgres = op.get_context().dialect.name == "postgresql"
    day = f"substr({row}.{moment}, 1, 10)"
    if postgres:
        day = f"to_char({row}.{moment} AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
    return (day, *(f"coalesce({row}.{name}, '')" for name in columns), _WHY.format(row=row))


def _trigger_sqlite(table: str) -> None:
    names = ", ".join(_names(table))

    def change(row: str, sign: str) -> str:
        values = ", ".join(_values(table, row))
        return (
            f"INSERT INTO {_COUNTED[table][0]} ({names}, count, folded) "  # noqa: S608 - our own names
            f"VALUES ({values}, {sign}1, false);"
        )

    differs = f"({', '.join(_values(table, 'OLD'))}) IS NOT ({', '.join(_values(table, 'NEW'))})"
    for event, when, statements in (
        ("INSERT", "", change("NEW", "+")),
        ("DELETE", "", change("OLD", "-")),
        ("UPDATE", f" WHEN {differs}", change("OLD", "-") + change("NEW", "+")),
    ):
        op.execute(
            f"CREATE TRIGGER {table}_counted_{event.lower()} AFTER {event} ON {table} "
            f"FOR EACH ROW{when} BEGIN {statements} END"
        )


def _trigger_postgres(table: str) -> None:
    """One row for each group that a statement changes, also for a cascade's."""
    names = ", ".join(_names(table))
    parts = {
        "new": f"SELECT {', '.join(_values(table, 'n'))}, 1 FROM new_rows n",  # noqa: S608 - our own names
        "old": f"SELECT {', '.join(_values(table, 'o'))}, -1 FROM old_rows o",  # noqa: S608 - our own names
    }
    for event, kinds in (("INSERT", ("new",)), ("DELETE", ("old",)), ("UPDATE", ("old", "new"))):
        name = f"{table}_counted_{event.lower()}"
        op.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "  # noqa: S608 - our own names
            f"INSERT INTO {_COUNTED[table][0]} ({names}, count, folded) "
            f"SELECT {names}, sum(change), false "
            f"FROM ({' UNION ALL '.join(parts[kind] for kind in kinds)}) AS changes "
            f"({names}, change) GROUP BY {names} HAVING sum(change) <> 0; RETURN NULL; END $$"
        )
        tables = " ".join(f"{kind.upper()} TABLE AS {kind}_rows" for kind in kinds)
        op.execute(
            f"CREATE TRIGGER {name} AFTER {event} ON {table} REFERENCING {tables} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {name}()"
        )


def _create_incidents() -> None:
    instant = sa.DateTime(timezone=True)
    op.create_table(
        "incidents",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("pool", sa.Text),
        sa.Column("worker", sa.Text),
        sa.Column("first_seen_at", instant, nullable=False),
        sa.Column("last_seen_at", instant, nullable=False),
        sa.Column("resolved_at", instant),
        sa.Column("resolved_by", sa.Text),
        sa.Column("faults", sa.Integer, nullable=False),
        sa.Column("jobs", sa.Integer, nullable=False),
        sa.Column("pull_requests", sa.Integer, nullable=False),
        sa.Column("evidence", sa.JSON().with_variant(JSONB(), "postgresql"), nullable=False),
    )
    op.create_index("incidents_by_time", "incidents", ["last_seen_at", "id"])
    op.create_index("incidents_by_cause", "incidents", ["cause", "first_seen_at"])
    op.add_column("attempts", sa.Column("pool", sa.Text))
    if op.get_context().dialect.name == "postgresql":
        op.add_column(
            "attempts",
            sa.Column("incident_id", sa.Integer, sa.ForeignKey("incidents.id")),
        )
    else:
        # SQLite adds a column with its reference only in its own words.
        op.execute("ALTER TABLE attempts ADD COLUMN incident_id INTEGER REFERENCES incidents (id)")


def _create_counts() -> None:
    for counts, _, columns in _COUNTED.values():
        op.create_table(
            counts,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("day", sa.Text, nullable=False),
            *(sa.Column(name, sa.Text, nullable=False) for name in columns),
            sa.Column("why", sa.Text, nullable=False),
            sa.Column("count", sa.Integer, nullable=False),
            sa.Column("folded", sa.Boolean, nullable=False),
        )
        op.create_index(f"{counts}_by_day", counts, ["day"])
        _create_partial(f"{counts}_unfolded", counts, ["day"], "NOT folded")


def _replace_indexes() -> None:
    for name in ("counted", "by_time", "by_cause", "by_platform", "by_worker"):
        op.drop_index(f"jobs_{name}", "jobs")
    op.drop_index("attempts_by_cause", "attempts")
    op.create_index(
        "jobs_by_time", "jobs", ["updated_at", "id", "standing", "platform", "kind", "cause"]
    )
    for name, columns in (
        ("of_revision", "revision_id standing updated_at id platform kind worker"),
        ("by_platform", "platform updated_at id standing kind"),
        ("by_worker", "worker updated_at id standing platform"),
    ):
        op.create_index(f"jobs_{name}", "jobs", columns.split())
    op.create_index("jobs_by_kind", "jobs", ["kind", "updated_at", "id", "standing"])
    for name, column in (("reason", "failure_reason"), ("skip", "skip_reason")):
        _create_partial(
            f"jobs_by_{name}", "jobs", [column, "updated_at", "id"], f"{column} IS NOT NULL"
        )
    for column in ("cause", "revdep"):
        _create_partial(
            f"jobs_by_{column}",
            "jobs",
            [column, "updated_at", "id", "standing"],
            f"{column} IS NOT NULL",
        )
    _create_partial(
        "attempts_by_cause", "attempts", ["cause", "started_at", "id"], "cause IS NOT NULL"
    )
    _create_partial(
        "attempts_by_incident", "attempts", ["incident_id", "job_id"], "incident_id IS NOT NULL"
    )


def _create_partial(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
