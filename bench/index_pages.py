"""Times the queries of pages over heads of 10,000 and of 50,000 jobs.

Usage: python -m bench.index_pages [--url URL] [--rounds 20] [--cpu]

Prints p50 and p95 of each query, and fails when a p95 is over the limit: 200 ms on PostgreSQL,
300 ms on SQLite. Without a URL it fills an index on SQLite of its own.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import func, null, select, text, update

from opam_ci.clients.index import Index, Place
from opam_ci.clients.index.engine import writing
from opam_ci.clients.index.schema import JOBS, REVISIONS
from opam_ci.core.batched import batched
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import (
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    LogLine,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
)
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, RowBatch
from opam_ci.core.jobs.summary import JobState, JobStatus, State
from opam_ci.core.pages.filter import parse_filter

LIMIT_MS = {"postgresql": 200.0, "sqlite": 300.0}
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
PLATFORMS = [f"debian-{number}-ocaml-5.{number}/amd64" for number in range(10)]


def outcome(number: int, package: str) -> Outcome:
    """One in five did not pass: most of them for one root, the rest for twenty reasons and more."""
    lines = (LogLine(offset=17, text=f"Error: kind {chr(97 + number % 20) * 9} of /a/b/{number}"),)
    evidence = Evidence(rule="build", lines=lines, worker=f"builder-{number % 40}")
    match number % 50:
        case 0 | 1 | 2 | 3 | 4:
            return Failed(reason=FailureReason.DEPENDENCY, blame="dune.3.0", evidence=evidence)
        case 5:
            return Failed(reason=FailureReason.BUILD, evidence=evidence)
        case 6:
            return Errored(cause=Cause.DISK_FULL, evidence=evidence)
        case 7 | 8 | 9:
            return Skipped(reason=SkipReason.UNAVAILABLE, evidence=evidence)
        case _:
            return Passed(evidence=Evidence(rule="installed", detail=package))


def rows(jobs: int, shift: int) -> Iterator[JobStatus]:
    """Half of the jobs are of packages, half of reverse dependencies."""
    yield status(Job(platform="", package="", kind=JobKind.ANALYSIS), 11)
    # The root of most failures.
    for platform in PLATFORMS:
        yield status(Job(platform=platform, package="dune.3.0", kind=JobKind.BUILD), 15)
    number = 0
    while number < jobs:
        package = f"package-{number // 20}.1.0"
        platform = PLATFORMS[number // 2 % 10]
        build = Job(platform=platform, package=package, kind=JobKind.BUILD)
        revdep = f"revdep-{number // 20}.2"
        after = Job(platform=platform, package="dune.3.0", kind=JobKind.REVDEP, revdep=revdep)
        yield status(build, number + shift)
        yield status(after, number + 1 + shift)
        number += 2


def status(job: Job, number: int) -> JobStatus:
    """A decided job."""
    return JobStatus(
        job=job, state=JobState.DECIDED, attempt=1, outcome=outcome(number * 7, job.package),
        started_at=NOON - timedelta(minutes=number % 7), decided_at=NOON,
        worker=f"builder-{number % 40}", log=f"logs/{number}",
    )  # fmt: skip


def fill(index: Index, jobs: int, number: int) -> RevisionKey:
    """Writes two heads of a pull request, and a hundred small pull requests with its causes."""
    keys = [
        RevisionKey(
            repository="o/r", number=number, head=f"{number:039}{place}",
            opened_at=NOON + timedelta(minutes=place),
        )
        for place in range(2)
    ]  # fmt: skip
    others = [
        RevisionKey(repository="o/r", number=number + other, head="f" * 40, opened_at=NOON)
        for other in range(1, 101)
    ]
    sizes = {key: (jobs, place) for place, key in enumerate(keys)} | dict.fromkeys(others, (100, 0))
    for key, (size, shift) in sizes.items():
        record = RevisionRecord(
            key=key,
            base="b" * 40,
            state=State.FAILURE,
            planned=True,
            updated_at=NOON,
            sequence=1,
            author="alice",
        )
        for part, some in enumerate(batched(rows(size, shift), 500)):
            index.record(
                RowBatch(
                    key=key, revision=None if part else record, rows=some, sequence=1,
                    updated_at=NOON + timedelta(seconds=part),
                )
            )  # fmt: skip
    return keys[1]


def vacuum(index: Index) -> None:
    """Does what a PostgreSQL server does by itself, a minute after a head was written."""
    engine = index._engine  # noqa: SLF001
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            plain = connection.execution_options(isolation_level="AUTOCOMMIT")
            plain.execute(text("VACUUM ANALYZE"))


def queries(index: Index, key: RevisionKey) -> Iterator[tuple[str, Callable[[], object]]]:
    """What a page of a large head asks."""
    page = index.head_page(key)
    assert page is not None
    yield "page", partial(index.head_page, key)
    yield "version", partial(index.head_version, key)
    for words in ("", "is:failed", "platform:debian-3* is:failed", "package:package-7", "new:",
                 "change:gone", "kind:revdep cause:dependency", page.causes.groups[0].jobs.filter,
                 "package-77 build"):  # fmt: skip
        yield f"jobs {words}", partial(index.head_jobs, key, parse_filter(words))
    for group in page.causes.groups:
        if group.cascade is not None:
            wanted = parse_filter(group.cascade.filter)
            yield "jobs of a cascade", partial(index.head_jobs, key, wanted)
            break
    wanted = parse_filter("")
    yield "500 revdeps", partial(index.head_revdeps, key, wanted, place=Place(limit=500))
    failed = parse_filter("is:failed")
    yield "failed revdeps", partial(index.head_revdeps, key, failed, place=Place(limit=500))
    record = index.head_jobs(key, parse_filter("is:failed"), place=Place(limit=1)).items[0]
    yield "job", partial(index.job_page, key, record.status.job.id)
    yield "pull requests", index.pull_request_rows
    yield "package", partial(index.package_history, "package-7")


def estimated(index: Index, key: RevisionKey) -> Iterator[tuple[str, Callable[[], object]]]:
    """The page of the head with nine of ten jobs queued, and an estimate."""
    waits = update(JOBS).where(
        JOBS.c.revision_id
        == select(func.max(REVISIONS.c.id)).where(REVISIONS.c.head == key.head).scalar_subquery(),
        JOBS.c.id % 10 != 0,
    )
    with writing(index._engine) as connection:  # noqa: SLF001
        connection.execute(waits.values(standing="queued", outcome=null(), cause_group=null()))
    vacuum(index)
    page = partial(index.head_page, key, now=NOON + timedelta(hours=1))
    found = page()
    assert found is not None
    assert found.estimate is not None, found.no_estimate

    def anew() -> object:
        index._kept.clear()  # noqa: SLF001
        return page()

    yield "page of queued jobs", page
    yield "page of queued jobs, nothing remembered", anew


def timed(call: Callable[[], object], rounds: int, clock: Callable[[], float]) -> list[float]:
    """Returns milliseconds of each call, after two that warm up."""
    found = []
    for _ in range(rounds + 2):
        begun = clock()
        call()
        found.append(1000 * (clock() - begun))
    return sorted(found[2:])


def main() -> int:
    """Measures; returns 1 if a query is over the limit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cpu", action="store_true", help="processor time, on a busy machine")
    given = parser.parse_args()
    slow = False
    clock = time.process_time if given.cpu else time.perf_counter
    with tempfile.TemporaryDirectory() as home:
        url = given.url or f"sqlite:///{Path(home)}/index.db"
        index = Index.open(url)
        limit = LIMIT_MS[url.partition(":")[0].partition("+")[0]]
        for number, jobs in ((1000, 10_000), (2000, 50_000)):
            key = fill(index, jobs, number)
            vacuum(index)
            index.close()
            index = Index.open(url)
            for name, call in itertools.chain(queries(index, key), estimated(index, key)):
                found = timed(call, given.rounds, clock)
                p50, p95 = statistics.median(found), found[int(len(found) * 0.95) - 1]
                slow |= p95 > limit
                print(f"{jobs:6} {name:40} p50 {p50:7.1f} ms  p95 {p95:7.1f} ms")
        index.close()
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
