"""From older schemas to the newest one, step by step.

A step is SQL of its own time, on SQLite and PostgreSQL, and is not changed once released. With a
change of `schema.py`, raise its version and add a step; a test compares both ways to it.
"""

from collections.abc import Callable

from sqlalchemy import Connection

_TO_0005 = """
ALTER TABLE jobs ADD COLUMN rank INTEGER DEFAULT '0' NOT NULL;
ALTER TABLE jobs ADD COLUMN needs TEXT;
ALTER TABLE jobs ADD COLUMN follows BOOLEAN DEFAULT {false} NOT NULL;
UPDATE jobs SET
  rank = CASE kind WHEN 'lint' THEN 1 WHEN 'build' THEN 2 WHEN 'test' THEN 3
    WHEN 'lower-bounds' THEN 4 WHEN 'list-revdeps' THEN 4
    WHEN 'revdep' THEN 5 WHEN 'revdep-test' THEN 5 ELSE 0 END,
  needs = CASE
    WHEN kind IN ('test', 'lower-bounds', 'list-revdeps')
      THEN 'build ' || platform || ' ' || package
    WHEN kind = 'revdep-test' THEN 'revdep ' || platform || ' ' || package || ' ' || revdep END,
  follows = coalesce({rule} IN ('build-errored', 'build-not-passed'), false);
CREATE INDEX jobs_queued ON jobs (revision_id, platform, rank, id) WHERE standing = 'queued';
CREATE INDEX jobs_following ON jobs (revision_id, needs) WHERE {follows};
DROP INDEX jobs_by_worker;
CREATE INDEX jobs_by_worker ON jobs (worker, updated_at, id, standing, platform)
  WHERE worker IS NOT NULL
"""


def _to_0005(connection: Connection) -> None:
    """Turns the list of jobs into a queue: an order, which job must pass first, and indexes.

    The index of workers leaves out jobs that none has run: each plan would write all of them.
    On PostgreSQL a reverse dependency is sorted by characters from now on, as its package is.
    """
    if connection.dialect.name == "postgresql":
        rule = "outcome #>> '{evidence,rule}'"
        script = _TO_0005.format(false="false", follows="follows", rule=rule)
        script += '; ALTER TABLE jobs ALTER COLUMN revdep TYPE text COLLATE "C"'
    else:
        rule = "outcome ->> '$.evidence.rule'"
        script = _TO_0005.format(false="0", follows="follows = 1", rule=rule)
    for statement in script.split(";"):
        connection.exec_driver_sql(statement)


def _to_0006(connection: Connection) -> None:
    """Names the authors of pull requests; those before have none."""
    connection.exec_driver_sql("ALTER TABLE pull_requests ADD COLUMN author TEXT")


def _to_0007(connection: Connection) -> None:
    """Makes room for the processor time of attempts; of those before it is unknown."""
    connection.exec_driver_sql("ALTER TABLE attempts ADD COLUMN cpu_seconds FLOAT")


STEPS: dict[str, Callable[[Connection], None]] = {
    "0004": _to_0005,
    "0005": _to_0006,
    "0006": _to_0007,
}
"""By schema, the step to the next one; oldest first."""
