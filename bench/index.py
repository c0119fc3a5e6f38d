"""Times the job index: fills it with jobs, then lists and counts by each filter.

Usage: python bench/index.py [--jobs 100000] [--url sqlite:///FILE]
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import get_args

from opam_ci.clients.index import AttemptFilter, Index, JobFilter, Place, RevisionFilter
from opam_ci.clients.index.index import CountedBy
from opam_ci.core.job import Job, JobKind, Phase
from opam_ci.core.outcome import (
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
from opam_ci.core.records import (
    AttemptRecord,
    JobRecord,
    RecordBatch,
    RevisionKey,
    RevisionRecord,
    Standing,
    log_key,
)
from opam_ci.core.summary import JobState, JobStatus, State

START = datetime(2026, 1, 1, tzinfo=UTC)
JOBS_IN_REVISION = 200
PLATFORMS = [
    f"{name}-ocaml-{ocaml}/{arch}"
    for name in ("debian-13", "fedora-42", "alpine-3.22", "ubuntu-24.04")
    for ocaml in ("4.14", "5.3", "5.4")
    for arch in ("amd64", "arm64")
]
PACKAGES = [f"package-{number}.1.{number % 7}.0" for number in range(3000)]
WORKERS = [f"builder-{number:02}" for number in range(40)]


def outcome(chance: random.Random) -> Outcome:
    """91 % pass, 5 % fail, 3 % are skipped, 1 % errs: like a day of the real CI."""
    worker, dice = chance.choice(WORKERS), chance.random()
    lines = (LogLine(offset=chance.randrange(10**6), text="Error: something is wrong " * 5),)
    if dice < 0.91:
        return Passed(evidence=Evidence(rule="installed", phase=Phase.VERIFY, worker=worker))
    if dice < 0.96:
        evidence = Evidence(rule="build", phase=Phase.BUILD, lines=lines, worker=worker)
        return Failed(reason=chance.choice(list(FailureReason)), evidence=evidence)
    if dice < 0.99:
        return Skipped(
            reason=SkipReason.NO_SOLUTION, evidence=Evidence(rule="solver", worker=worker)
        )
    evidence = Evidence(rule="fault", phase=Phase.FETCH, lines=lines, worker=worker)
    return Errored(cause=chance.choice(list(Cause)), evidence=evidence)


def revision(number: int, chance: random.Random) -> RecordBatch:
    """One head, all of its jobs decided, one attempt each."""
    begun = START + timedelta(minutes=10 * number)
    key = RevisionKey(
        repository="ocaml/opam-repository", number=20_000 + number // 2, head=f"{number:040x}",
        opened_at=begun,
    )  # fmt: skip
    jobs, attempts = [], []
    names = chance.sample(PACKAGES, JOBS_IN_REVISION)
    for place, package in enumerate(names):
        job = Job(platform=chance.choice(PLATFORMS), package=package, kind=JobKind.BUILD)
        came_to, ended = outcome(chance), begun + timedelta(seconds=place)
        log = log_key(key, job, run="bench", round_=1, attempt=1)
        status = JobStatus(
            job=job, state=JobState.DECIDED, attempt=1, outcome=came_to, started_at=begun,
            decided_at=ended, log=log,
        )  # fmt: skip
        jobs.append(JobRecord(revision=key, status=status, updated_at=ended))
        attempt = AttemptRecord(
            revision=key, job=job, number=1, started_at=begun, ended_at=ended, outcome=came_to,
            log_key=log,
        )  # fmt: skip
        attempts.append(attempt)
    record = RevisionRecord(key=key, base="b" * 40, state=State.FAILURE, updated_at=begun)
    return RecordBatch(revisions=(record,), jobs=tuple(jobs), attempts=tuple(attempts))


def fill(index: Index, count: int) -> None:
    chance = random.Random(1)  # noqa: S311 - the same rows in each run, no secret
    spent, slowest = 0.0, 0.0
    for number in range(max(count // JOBS_IN_REVISION, 1)):
        batch = revision(number, chance)
        begun = time.perf_counter()
        index.record(batch)
        took = time.perf_counter() - begun
        spent, slowest = spent + took, max(slowest, took)
    print(
        f"filled: {count} jobs and attempts in {spent:.1f} s, {count / spent:,.0f} of each a second"
    )
    print(f"slowest batch of {JOBS_IN_REVISION} + {JOBS_IN_REVISION}: {slowest * 1e3:.1f} ms")


def show(name: str, query: Callable[[], object]) -> None:
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        query()
        times.append((time.perf_counter() - begun) * 1e3)
    print(f"{name:58} median {statistics.median(times):8.2f} ms   first {times[0]:8.2f} ms")


def measure(index: Index, count: int) -> None:
    middle = count // JOBS_IN_REVISION // 2
    key = revision(middle, random.Random(1)).revisions[0].key  # noqa: S311 - the key alone
    newest = RevisionFilter(newest=True)
    one = RevisionFilter(revision=key)
    day = START + timedelta(minutes=10 * middle)
    filters = {
        "everything": JobFilter(),
        "one revision": JobFilter(of=one),
        "one pull request": JobFilter(of=RevisionFilter(number=key.number)),
        "errored": JobFilter(standing=Standing.ERRORED),
        "failed": JobFilter(standing=Standing.FAILED),
        "passed": JobFilter(standing=Standing.PASSED),
        "cause": JobFilter(cause=Cause.DISK_FULL),
        "failure reason": JobFilter(failure_reason=FailureReason.TEST),
        "platform": JobFilter(platform=PLATFORMS[0]),
        "platform and errored": JobFilter(platform=PLATFORMS[0], standing=Standing.ERRORED),
        "platform and cause": JobFilter(platform=PLATFORMS[0], cause=Cause.DNS),
        "package": JobFilter(package=PACKAGES[7]),
        "package and failed": JobFilter(package=PACKAGES[7], standing=Standing.FAILED),
        "worker": JobFilter(worker=WORKERS[3]),
        "worker and errored": JobFilter(worker=WORKERS[3], standing=Standing.ERRORED),
        "one day": JobFilter(since=day, until=day + timedelta(days=1)),
        "newest heads, errored": JobFilter(of=newest, standing=Standing.ERRORED),
        "newest heads, failed": JobFilter(of=newest, standing=Standing.FAILED),
        "nothing matches": JobFilter(package="none.1"),
    }
    for name, wanted in filters.items():
        show(f"list 100 jobs: {name}", lambda wanted=wanted: index.jobs(wanted))  # type: ignore[misc]
        show(f"count jobs: {name}", lambda wanted=wanted: index.counts(wanted))  # type: ignore[misc]
    for column in get_args(CountedBy):
        show(f"count jobs by {column}", lambda column=column: index.counts_by(column))  # type: ignore[misc]
    whole = Place(limit=JOBS_IN_REVISION)
    show("list all jobs of one revision", lambda: index.jobs(JobFilter(of=one), place=whole))
    show("list 100 revisions", index.revisions)
    show("list 100 newest revisions", lambda: index.revisions(newest))
    failing = RevisionFilter(state=State.FAILURE)
    show("list 100 revisions by state", lambda: index.revisions(failing))
    attempts = {
        "everything": AttemptFilter(),
        "cause": AttemptFilter(cause=Cause.DNS),
        "worker": AttemptFilter(worker=WORKERS[3]),
        "platform": AttemptFilter(platform=PLATFORMS[0]),
        "package": AttemptFilter(package=PACKAGES[7]),
        "one revision": AttemptFilter(of=one),
    }
    for name, wanted_attempts in attempts.items():
        show(
            f"list 100 attempts: {name}",
            lambda wanted=wanted_attempts: index.attempts(wanted),  # type: ignore[misc]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--url", help="an empty index; a temporary SQLite file by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        url = options.url or f"sqlite:///{home}/index.db"
        index = Index.open(url)
        fill(index, options.jobs)
        begun = time.perf_counter()
        index.close()
        print(f"close, with statistics: {(time.perf_counter() - begun) * 1e3:.0f} ms")
        begun = time.perf_counter()
        index = Index.open(url)
        print(f"open: {(time.perf_counter() - begun) * 1e3:.1f} ms")
        measure(index, options.jobs)
        index.close()


if __name__ == "__main__":
    main()
