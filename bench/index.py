"""Times every query that the command line offers, over an index of a million jobs.

Usage: python -m bench.index [--jobs 1000000] [--url URL] [--rounds 15] [--cpu]

Prints p50 and p95 of each query and fails when a p95 is over the limit: 100 ms on
PostgreSQL, 200 ms on SQLite. An index that is not empty is measured as it is.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import text

from bench.index_fill import PACKAGES, PLATFORMS, REPOSITORY, WORKERS, fill, heads, opened
from bench.index_rejudge import rejudging
from opam_ci.clients.index import (
    CURRENT,
    AttemptFilter,
    IncidentFilter,
    Index,
    JobFilter,
    Place,
    RevisionFilter,
)
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cause, FailureReason, SkipReason
from opam_ci.core.jobs.summary import Standing, State

LIMIT_MS = {"postgresql": 100.0, "sqlite": 200.0}
DEEP = 30
"""Pages that a deep listing goes through; the last one is timed."""


def job_filters(count: int) -> Iterator[tuple[str, JobFilter]]:
    """Each filter of `opam-ci jobs`, and what combines badly."""
    middle = len(heads(count)) // 2
    day = opened(middle) + timedelta(hours=7)
    huge = middle // 50 * 50 + 49
    one: dict[str, dict[str, object]] = {
        "everything": {},
        "errored": {"standing": Standing.ERRORED},
        "failed": {"standing": Standing.FAILED},
        "passed": {"standing": Standing.PASSED},
        "retrying (none)": {"standing": Standing.RETRYING},
        "cause": {"cause": Cause.DISK_FULL},
        "reason": {"failure_reason": FailureReason.TEST},
        "skip reason": {"skip_reason": SkipReason.NO_SOLUTION},
        "kind": {"kind": JobKind.BUILD},
        "rare kind": {"kind": JobKind.LOWER_BOUNDS},
        "absent kind": {"kind": JobKind.LINT},
        "platform": {"platform": PLATFORMS[0]},
        "package": {"package": PACKAGES[7]},
        "package without version": {"package": "package-7"},
        "revdep": {"revdep": PACKAGES[7]},
        "worker": {"worker": WORKERS[3]},
        "since": {"since": day},
        "one day": {"since": day, "until": day + timedelta(days=1)},
        "an hour": {"since": day, "until": day + timedelta(hours=1)},
        "absent package": {"package": "none.1"},
    }
    two = {
        f"{first}, {second}": one[first] | one[second]
        for first, second in (
            ("errored", "platform"), ("failed", "platform"), ("cause", "platform"),
            ("reason", "platform"), ("errored", "package"), ("failed", "worker"),
            ("errored", "worker"), ("cause", "worker"), ("rare kind", "platform"),
            ("absent kind", "platform"), ("kind", "errored"), ("rare kind", "cause"),
            ("errored", "since"), ("errored", "one day"), ("platform", "one day"),
            ("cause", "an hour"), ("package", "platform"), ("worker", "platform"),
        )
    }  # fmt: skip
    for name, fields in (one | two).items():
        yield name, JobFilter.model_validate(fields)
        yield f"current heads: {name}", JobFilter.model_validate({**fields, "of": CURRENT})
    of_one = RevisionFilter(repository=REPOSITORY, number=20_000 + huge // 2)
    yield "a huge pull request", JobFilter(of=of_one)
    yield "a huge pull request, failed", JobFilter(of=of_one, standing=Standing.FAILED)


def deep(index: Index, wanted: JobFilter) -> Callable[[], object]:
    """Goes far down a listing and returns what shows the next page there."""
    place = Place()
    for _ in range(DEEP):
        following = index.jobs(wanted, place=place).following
        if following is None:
            break
        place = Place(after=following)
    return lambda: index.jobs(wanted, place=place)


def queries(index: Index, count: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Names every query."""
    for name, wanted in job_filters(count):
        yield f"list jobs: {name}", partial(index.jobs, wanted)
        yield f"count jobs: {name}", partial(index.counts, wanted)
        yield f"list jobs, page {DEEP}: {name}", deep(index, wanted)
    begun = opened(len(heads(count)) - 1)
    yield "errors", index.errors
    yield "workers of a day", lambda: index.workers(begun - timedelta(days=1))
    yield "workers ever", lambda: index.workers(begun - timedelta(days=1000))
    yield "incidents", index.incidents
    yield "open incidents", lambda: index.incidents(IncidentFilter(is_open=True))
    yield "list heads", index.revisions
    yield "list current heads", lambda: index.revisions(CURRENT)
    yield "list heads by state", lambda: index.revisions(RevisionFilter(state=State.ERROR))
    attempts = {
        "everything": AttemptFilter(),
        "errored": AttemptFilter(standing=Standing.ERRORED),
        "cause": AttemptFilter(cause=Cause.DNS),
        "worker": AttemptFilter(worker=WORKERS[3]),
        "package": AttemptFilter(package=PACKAGES[7]),
        "current heads, cause": AttemptFilter(cause=Cause.DNS, of=CURRENT),
    }
    for name, wanted_attempts in attempts.items():
        yield f"list attempts: {name}", partial(index.attempts, wanted_attempts)
    yield from rejudging(index, begun)


def cpu_clock(index: Index) -> Callable[[], float]:
    """Returns a clock of the CPU time of this process and of PostgreSQL's for it, in s.

    On a machine that does other work meanwhile, the wall clock measures that work.
    """
    if index._engine.dialect.name == "sqlite":  # noqa: SLF001 - the bench looks inside
        return time.process_time
    with index._engine.connect() as connection:  # noqa: SLF001 - the one that the pool keeps
        backend = connection.scalar(text("SELECT pg_backend_pid()"))
    spent = Path(f"/proc/{backend}/schedstat")
    return lambda: time.process_time() + int(spent.read_text().split()[0]) / 1e9


def measure(
    index: Index, count: int, rounds: int, limit: float, clock: Callable[[], float]
) -> list[str]:
    """Prints the table; returns the queries over the limit."""
    over = []
    print(f"{'query':60} {'p50 ms':>8} {'p95 ms':>8}")
    for name, query in queries(index, count):
        query()  # the first one also fills the caches of a connection
        times = []
        for _ in range(rounds):
            begun = clock()
            query()
            times.append((clock() - begun) * 1e3)
        p95 = statistics.quantiles(times, n=20, method="inclusive")[18]
        mark = "" if p95 <= limit else "  OVER"
        print(f"{name:60} {statistics.median(times):8.1f} {p95:8.1f}{mark}", flush=True)
        if mark:
            over.append(name)
    return over


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--url", help="of the index; a temporary SQLite file by default")
    parser.add_argument("--cpu", action="store_true", help="measure CPU time (busy machines)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        index = Index.open(options.url or f"sqlite:///{home}/index.db")
        kind = index._engine.dialect.name  # noqa: SLF001 - the bench looks inside
        if not index.revisions(place=Place(limit=1)).items:
            begun = time.perf_counter()
            fill(index._engine, options.jobs)  # noqa: SLF001 - the bench writes in bulk
            print(f"filled {options.jobs:,} jobs in {time.perf_counter() - begun:.0f} s")
            begun = time.perf_counter()
            index.fold()
            print(f"folded the counters in {time.perf_counter() - begun:.1f} s")
        clock = cpu_clock(index) if options.cpu else time.perf_counter
        over = measure(index, options.jobs, options.rounds, LIMIT_MS[kind], clock)
        index.close()
    print(f"{kind}: {len(over)} queries over {LIMIT_MS[kind]:g} ms {over or ''}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
