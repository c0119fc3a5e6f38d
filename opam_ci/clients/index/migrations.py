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


_TO_0008 = """
ALTER TABLE revisions ADD COLUMN concluded BOOLEAN DEFAULT {true} NOT NULL;
ALTER TABLE revisions ADD COLUMN changes {json} DEFAULT '[]' NOT NULL;
ALTER TABLE revisions ADD COLUMN hold {json};
ALTER TABLE jobs ADD COLUMN cause_group TEXT;
ALTER TABLE jobs ADD COLUMN blame TEXT;
UPDATE jobs SET
  cause_group = coalesce(failure_reason, skip_reason, cause),
  blame = {blame}
  WHERE NOT follows AND coalesce(failure_reason, skip_reason, cause) IS NOT NULL;
CREATE INDEX jobs_grouped ON jobs
  (revision_id, cause_group, standing, platform, blame, kind, revdep, package, id, failure_reason,
   skip_reason, cause)
  WHERE cause_group IS NOT NULL;
CREATE INDEX jobs_of_packages ON jobs (revision_id, package, standing, platform, kind, id)
  WHERE revdep IS NULL;
CREATE INDEX jobs_of_revdeps ON jobs (revision_id, revdep, standing, platform, kind, id)
  WHERE revdep IS NOT NULL;
CREATE INDEX jobs_by_cause_group ON jobs (cause_group, decided_at) WHERE cause_group IS NOT NULL;
CREATE TABLE audit (
  id {id}, at {instant} NOT NULL, login TEXT NOT NULL, role TEXT NOT NULL, action TEXT NOT NULL,
  repository TEXT NOT NULL, target TEXT NOT NULL, detail TEXT NOT NULL, taken INTEGER NOT NULL,
  PRIMARY KEY (id));
CREATE INDEX audit_by_time ON audit (at, id);
CREATE TABLE wrong_verdicts (
  id {id}, at {instant} NOT NULL, login TEXT NOT NULL, attempt {json} NOT NULL,
  expected TEXT NOT NULL, comment TEXT NOT NULL, log_key TEXT,
  PRIMARY KEY (id));
CREATE INDEX wrong_verdicts_by_time ON wrong_verdicts (at, id)
"""


def _to_0008(connection: Connection) -> None:
    """Makes room for what pages show: causes, and what only the workflow knew of a testing.

    Jobs before are grouped by their reason or cause alone.
    """
    if connection.dialect.name == "postgresql":
        names = {"id": "SERIAL NOT NULL", "json": "JSONB", "instant": "TIMESTAMP WITH TIME ZONE"}
        names |= {"true": "true", "blame": "outcome #>> '{blame}'"}
    else:
        names = {"id": "INTEGER NOT NULL", "json": "JSON", "instant": "DATETIME"}
        names |= {"true": "1", "blame": "outcome ->> '$.blame'"}
    for statement in _TO_0008.format(**names).split(";"):
        connection.exec_driver_sql(statement)


def _to_0009(connection: Connection) -> None:
    """Compares heads by an index alone, and has PostgreSQL notice large ones sooner."""
    connection.exec_driver_sql("DROP INDEX jobs_of_revision")
    connection.exec_driver_sql(
        "CREATE INDEX jobs_of_revision ON jobs "
        "(revision_id, standing, updated_at, id, platform, kind, worker, name)"
    )
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "ALTER TABLE jobs SET (autovacuum_analyze_scale_factor = 0.01, "
            "autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05)"
        )


_TO_0010 = """
ALTER TABLE jobs ADD COLUMN plan_key TEXT;
ALTER TABLE jobs ADD COLUMN audits TEXT;
ALTER TABLE attempts ADD COLUMN image TEXT;
CREATE INDEX jobs_by_plan_key ON jobs (plan_key) WHERE plan_key IS NOT NULL;
CREATE INDEX jobs_audited ON jobs (audits, decided_at) WHERE audits IS NOT NULL
"""


def _to_0010(connection: Connection) -> None:
    """Makes room for plan keys: no verdict of before is used again."""
    for statement in _TO_0010.split(";"):
        connection.exec_driver_sql(statement)


_TO_0011 = """
CREATE TABLE waivers (
  id {id}, package TEXT NOT NULL, platform TEXT NOT NULL, kind TEXT, reason TEXT, cause_group TEXT,
  because TEXT NOT NULL, login TEXT NOT NULL, created_at {instant} NOT NULL,
  expires_at {instant} NOT NULL, removed_at {instant},
  PRIMARY KEY (id));
CREATE INDEX waivers_by_end ON waivers (expires_at, id)
"""


def _to_0011(connection: Connection) -> None:
    """Makes room for waivers."""
    if connection.dialect.name == "postgresql":
        names = {"id": "SERIAL NOT NULL", "instant": "TIMESTAMP WITH TIME ZONE"}
    else:
        names = {"id": "INTEGER NOT NULL", "instant": "DATETIME"}
    for statement in _TO_0011.format(**names).split(";"):
        connection.exec_driver_sql(statement)


_TO_0012 = """
ALTER TABLE revisions ADD COLUMN estimated_until {instant};
ALTER TABLE revisions ADD COLUMN estimate_ended_at {instant};
CREATE INDEX revisions_estimated ON revisions (estimated_until, estimate_ended_at)
  WHERE estimated_until IS NOT NULL
"""


def _to_0012(connection: Connection) -> None:
    """Makes room for the first estimate of a head; those before have none."""
    is_postgresql = connection.dialect.name == "postgresql"
    instant = "TIMESTAMP WITH TIME ZONE" if is_postgresql else "DATETIME"
    for statement in _TO_0012.format(instant=instant).split(";"):
        connection.exec_driver_sql(statement)


def _to_0013(connection: Connection) -> None:
    """Makes room for the effect of a head on other packages; that of those before is not known."""
    json = "JSONB" if connection.dialect.name == "postgresql" else "JSON"
    connection.exec_driver_sql(f"ALTER TABLE revisions ADD COLUMN effect {json}")


_TO_0014 = """
ALTER TABLE attempts ADD COLUMN verdict_key TEXT;
CREATE INDEX jobs_by_name ON jobs (name) WHERE plan_key IS NOT NULL
"""


def _to_0014(connection: Connection) -> None:
    """Makes room for verdict keys: attempts of before have none."""
    for statement in _TO_0014.split(";"):
        connection.exec_driver_sql(statement)


_TO_0015 = """
ALTER TABLE jobs ADD COLUMN fixed BOOLEAN DEFAULT {false} NOT NULL;
CREATE INDEX jobs_fixed ON jobs (revision_id, platform, kind) WHERE {fixed}
"""


def _to_0015(connection: Connection) -> None:
    """Makes room for what a head fixes; of those before that is not known."""
    is_postgresql = connection.dialect.name == "postgresql"
    names = {"false": "false", "fixed": "fixed"} if is_postgresql else {}
    for statement in _TO_0015.format(**{"false": "0", "fixed": "fixed = 1", **names}).split(";"):
        connection.exec_driver_sql(statement)


STEPS: dict[str, Callable[[Connection], None]] = {
    "0004": _to_0005,
    "0005": _to_0006,
    "0006": _to_0007,
    "0007": _to_0008,
    "0008": _to_0009,
    "0009": _to_0010,
    "0010": _to_0011,
    "0011": _to_0012,
    "0012": _to_0013,
    "0013": _to_0014,
    "0014": _to_0015,
}
"""By schema, the step to the next one; oldest first."""
