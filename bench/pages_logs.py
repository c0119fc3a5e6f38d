"""Logs for `bench/pages.py`: one at its cap, and one that grows while it is followed."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from bench.logs import capped
from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.writer import LogWriter
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import Evidence, Failed, FailureReason, LogLine
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, RowBatch, log_key
from opam_ci.core.jobs.summary import JobState, JobStatus
from opam_ci.web.addresses import job_path, target_path


def key_of(number: int) -> RevisionKey:
    """The testing that a log is of."""
    return RevisionKey(
        repository="o/logs", number=number, head=f"{number:040x}", opened_at=datetime.now(UTC)
    )


def job_of() -> Job:
    """The job that a log is of."""
    return Job(platform="p/amd64", package="package.1", kind=JobKind.BUILD)


def path_of(key: RevisionKey, job: Job) -> str:
    """Path of the job's page."""
    return job_path(target_path(key.repository, key.target), job.id)


def add(index: Index, key: RevisionKey, row: JobStatus) -> None:
    """Writes a job with its log's key."""
    now = datetime.now(UTC)
    record = RevisionRecord(key=key, base="b" * 40, planned=True, updated_at=now, sequence=1)
    index.record(RowBatch(key=key, revision=record, rows=(row,), sequence=1, updated_at=now))


async def at_cap(index: Index, store: ArtifactStore) -> str:
    """Stores a log of 64 MiB and a million lines; returns the path of its job."""
    key, job = key_of(1), job_of()
    name = log_key(key, job, run="bench", round_=1, attempt=1)
    data = capped()
    async with LogWriter(store, name) as log:
        for start in range(0, len(data), 1 << 20):
            log.write(data[start : start + (1 << 20)])
            await asyncio.sleep(0)
    text = data[-60:].decode().splitlines()[-1]
    evidence = Evidence(
        rule="compile-error", phase=Phase.BUILD,
        lines=(LogLine(offset=len(data) - len(text) - 1, text=text),),
    )  # fmt: skip
    now = datetime.now(UTC)
    row = JobStatus(
        job=job, state=JobState.DECIDED, attempt=1, log=name, started_at=now, decided_at=now,
        outcome=Failed(reason=FailureReason.BUILD, evidence=evidence),
    )  # fmt: skip
    add(index, key, row)
    return path_of(key, job)


@asynccontextmanager
async def growing(index: Index, store: ArtifactStore, pause: float) -> AsyncIterator[str]:
    """Writes a line with its time to a log, again and again; yields the path of its job.

    Args:
        index: Gets the job, which runs.
        store: Gets the log.
        pause: Seconds between two lines.
    """
    key, job, now = key_of(2), job_of(), datetime.now(UTC)
    name = log_key(key, job, run="bench", round_=1, attempt=1)
    row = JobStatus(
        job=job, state=JobState.RUNNING, attempt=1, log=name, started_at=now,
        attempt_started_at=now, phase=Phase.BUILD, worker="builder-1",
    )  # fmt: skip
    add(index, key, row)

    async def write(log: LogWriter) -> None:
        while True:
            log.write(f"at={time.time() * 1000:.0f} and some words of a build\n".encode())
            await asyncio.sleep(pause)

    async with LogWriter(store, name) as log:
        task = asyncio.create_task(write(log))
        try:
            yield path_of(key, job)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
