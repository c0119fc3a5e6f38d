"""Fills an index with a million realistic jobs in bulk, past the code that writes records.

91 % pass, 5 % fail, 3 % are skipped, 1 % err: like a day of the real CI. One pull request in
twenty is still open; one head in fifty is huge (revdeps).
"""

import itertools
import json
import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Engine, Table, text

from opam_ci.clients.index.schema import ATTEMPTS, JOBS, PULL_REQUESTS, REVISIONS
from opam_ci.core.incidents.fingerprint import KINDS as KINDS_WITH_SIGNATURE
from opam_ci.core.incidents.fingerprint import signature
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import Cause, Evidence, Failed, FailureReason, LogLine, SkipReason

START = datetime(2026, 1, 1, tzinfo=UTC)
REPOSITORY = "ocaml/opam-repository"
PLATFORMS = [
    f"{name}-ocaml-{ocaml}/{arch}"
    for name in ("debian-13", "fedora-42", "alpine-3.22", "ubuntu-24.04")
    for ocaml in ("4.14", "5.3", "5.4")
    for arch in ("amd64", "arm64")
]
PACKAGES = [f"package-{number}.1.{number % 7}.0" for number in range(3000)]
WORKERS = [f"builder-{number:02}" for number in range(40)]
KINDS = [JobKind.BUILD] * 10 + [JobKind.TEST] * 5 + [JobKind.REVDEP] * 4 + [JobKind.LOWER_BOUNDS]

LINE = LogLine(offset=123456, text="Error: something is wrong " * 5)
FAILED = Failed(
    reason=FailureReason.BUILD,
    evidence=Evidence(rule="build", phase=Phase.BUILD, lines=(LINE,)),
)
_ALIKE = signature(FAILED, Job(platform=PLATFORMS[0], package=PACKAGES[0], kind=JobKind.BUILD))
SIGNATURE = _ALIKE.digest if _ALIKE is not None else None
"""All failures have the same one: the worst that can be."""

Row = tuple[Any, ...]


class Verdict(NamedTuple):
    """An outcome, taken apart into columns."""

    standing: str
    failure_reason: str | None
    skip_reason: str | None
    cause: str | None
    phase: str
    worker: str
    outcome: str


def head_of(number: int) -> str:
    """The commit of one of the heads."""
    return f"{number:040x}"


def opened(number: int) -> datetime:
    """When one of the heads came in."""
    return START + timedelta(minutes=10 * number)


def _verdicts(chance: random.Random) -> list[Verdict]:
    """Returns some hundreds of outcomes to draw from, in the right proportions."""
    line = LINE.model_dump()

    def made(standing: str, phase: Phase, rule: str, **own: str) -> Verdict:
        worker = chance.choice(WORKERS)
        evidence: dict[str, object] = {"rule": rule, "phase": phase.value, "worker": worker}
        if standing != "passed":
            evidence |= {"lines": [line]}
        reason = own.get("failure_reason") or own.get("skip_reason")
        fields: dict[str, object] = {"kind": standing, "evidence": evidence}
        fields |= {"reason": reason} if reason else {}
        fields |= {"cause": own["cause"]} if "cause" in own else {}
        return Verdict(
            standing=standing,
            failure_reason=own.get("failure_reason"),
            skip_reason=own.get("skip_reason"),
            cause=own.get("cause"),
            phase=phase.value,
            worker=worker,
            outcome=json.dumps(fields),
        )

    return [
        *(made("passed", Phase.VERIFY, "installed") for _ in range(3640)),
        *(
            made("failed", Phase.BUILD, "build", failure_reason=chance.choice(list(FailureReason)))
            for _ in range(200)
        ),
        *(
            made("skipped", Phase.SOLVE, "solver", skip_reason=chance.choice(list(SkipReason)))
            for _ in range(120)
        ),
        *(
            made("errored", Phase.FETCH, "fault", cause=chance.choice(list(Cause)))
            for _ in range(40)
        ),
    ]


def heads(jobs: int) -> list[int]:
    """Returns how many jobs each head has."""
    sizes: list[int] = []
    left = jobs
    while left > 0:
        size = min(left, 4000 if len(sizes) % 50 == 49 else 150)
        sizes.append(size)
        left -= size
    return sizes


def rows(jobs: int) -> Iterator[tuple[Table, Sequence[str], list[Row]]]:
    """Yields the rows of all tables, in portions that fit memory, parents first."""
    chance = random.Random(1)  # noqa: S311 - the same rows in each run, no secret
    verdicts = _verdicts(chance)
    sizes = heads(jobs)
    requests = (len(sizes) + 1) // 2
    columns = [
        "id",
        "repository",
        "target",
        "number",
        "branch",
        "title",
        "is_open",
        "latest_opened_at",
        "latest_sequence",
    ]
    found: list[Row] = [
        (
            number + 1, REPOSITORY, f"pull/{20_000 + number}", 20_000 + number, None,
            f"[new release] package {number}", number >= requests * 19 // 20 or number % 400 == 0,
            opened(min(2 * number + 1, len(sizes) - 1)), 1,
        )
        for number in range(requests)
    ]  # fmt: skip
    yield PULL_REQUESTS, columns, found
    columns = [
        "id",
        "pull_request_id",
        "head",
        "opened_at",
        "base",
        "state",
        "planned",
        "updated_at",
        "sequence",
    ]
    states = ("success", "failure", "failure", "error")
    found = [
        (
            number + 1, number // 2 + 1, head_of(number), opened(number), "b" * 40,
            states[number % 4], True, opened(number) + timedelta(minutes=9), 1,
        )
        for number in range(len(sizes))
    ]  # fmt: skip
    yield REVISIONS, columns, found
    job_columns = [
        "id",
        "revision_id",
        "name",
        "kind",
        "platform",
        "package",
        "revdep",
        "standing",
        "failure_reason",
        "skip_reason",
        "cause",
        "phase",
        "worker",
        "outcome",
        "round",
        "attempt",
        "sequence",
        "started_at",
        "decided_at",
        "updated_at",
        "log_key",
        "faults",
    ]
    attempt_columns = [
        "id",
        "job_id",
        "standing",
        "failure_reason",
        "skip_reason",
        "cause",
        "phase",
        "worker",
        "outcome",
        "round",
        "number",
        "sequence",
        "started_at",
        "ended_at",
        "log_key",
        "signature",
    ]
    identity = itertools.count(1)
    job_rows: list[Row] = []
    attempt_rows: list[Row] = []
    attempt_ids = itertools.count(1)
    for revision, size in enumerate(sizes):
        begun = opened(revision)
        for place in range(size):
            key = next(identity)
            package = PACKAGES[(revision * 7 + place) % len(PACKAGES)]
            platform, kind = chance.choice(PLATFORMS), chance.choice(KINDS)
            revdep = chance.choice(PACKAGES) if kind is JobKind.REVDEP else None
            verdict, ended = chance.choice(verdicts), begun + timedelta(seconds=place % 500)
            name = f"{kind.value} {platform} {package} {place}"
            log = f"logs/ocaml/opam-repository/pr-{revision}/{key}"
            job_rows.append(
                (
                    key, revision + 1, name, kind.value, platform, package, revdep, *verdict,
                    1, 1, 1, begun, ended, ended, log, "[]",
                )
            )  # fmt: skip
            is_alike = verdict.standing == "failed" and kind in KINDS_WITH_SIGNATURE
            digest = SIGNATURE if is_alike else None
            attempt_rows.append(
                (next(attempt_ids), key, *verdict, 1, 1, 1, begun, ended, log, digest)
            )
        if len(job_rows) > 50_000:
            yield JOBS, job_columns, job_rows
            yield ATTEMPTS, attempt_columns, attempt_rows
            job_rows, attempt_rows = [], []
    yield JOBS, job_columns, job_rows
    yield ATTEMPTS, attempt_columns, attempt_rows


def fill(engine: Engine, jobs: int) -> None:
    """Writes all rows in bulk, and brings the planner's statistics up to date."""
    if engine.dialect.name == "sqlite":
        _fill_sqlite(engine, jobs)
    else:
        _fill_postgres(engine, jobs)


def _fill_sqlite(engine: Engine, jobs: int) -> None:
    def plain(row: Row) -> Row:
        # As the index itself stores a moment.
        return tuple(
            value.strftime("%Y-%m-%d %H:%M:%S.%f") if isinstance(value, datetime) else value
            for value in row
        )

    with closing(sqlite3.connect(engine.url.database or "", isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -1000000")
        connection.execute("BEGIN")
        for table, columns, found in rows(jobs):
            marks = ", ".join("?" * len(columns))
            connection.executemany(
                f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({marks})",  # noqa: S608 - our own names
                map(plain, found),
            )
        connection.execute("COMMIT")
        connection.execute("ANALYZE")


def _fill_postgres(engine: Engine, jobs: int) -> None:
    raw: Any = engine.raw_connection()
    with closing(raw):
        with raw.cursor() as cursor:
            for table, columns, found in rows(jobs):
                copying = f"COPY {table.name} ({', '.join(columns)}) FROM STDIN"
                with cursor.copy(copying) as copy:
                    for row in found:
                        copy.write_row(row)
            for table in (PULL_REQUESTS, REVISIONS, JOBS, ATTEMPTS):
                sequence = f"pg_get_serial_sequence('{table.name}', 'id')"
                cursor.execute(f"SELECT setval({sequence}, (SELECT max(id) FROM {table.name}))")  # noqa: S608 - our own names
        raw.commit()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
