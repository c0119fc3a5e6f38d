"""Retention: rows go with what the store has of them, and what an open pull request needs stays."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opam_ci.clients.index import Index
from opam_ci.clients.lint.findings import load_findings, store_findings
from opam_ci.clients.logs.reader import LogReader
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.writer import LogWriter
from opam_ci.clients.retention import prune
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Evidence, Passed
from opam_ci.core.jobs.records import (
    AttemptRecord,
    RevisionKey,
    RevisionRecord,
    log_key,
    revision_folder,
)
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.workers import canary
from tests.support.fakes.written import write

OLD = datetime(2025, 5, 4, 12, 0, tzinfo=UTC)
NOW = OLD + timedelta(days=100)
JOB = Job(platform="p", package="a.1", kind=JobKind.BUILD)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    made = Index.open(f"sqlite:///{tmp_path}/index.sqlite")
    yield made
    made.close()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open((tmp_path / "store").as_uri())


def key(number: int, opened_at: datetime = OLD) -> RevisionKey:
    return RevisionKey(repository="o/r", number=number, head="a" * 40, opened_at=opened_at)


def record(index: Index, revision: RevisionKey, *, is_open: bool, at: datetime) -> None:
    write(
        index,
        RevisionRecord(key=revision, base="b", is_open=is_open, updated_at=at, sequence=1),
    )


async def put(store: ArtifactStore, tmp_path: Path, name: str, at: datetime) -> str:
    """Stores an object as of a time."""
    await store.put(name, b"content")
    os.utime(tmp_path / "store" / name, (at.timestamp(), at.timestamp()))
    return name


async def listed(store: ArtifactStore, folder: str) -> set[str]:
    return {each.key for each in await store.list(folder)}


async def test_old_closed_pull_requests_are_forgotten_with_their_logs_and_findings(
    index: Index, store: ArtifactStore
) -> None:
    for number in range(1, 8):
        record(index, key(number), is_open=number == 7, at=OLD)
        attempt = AttemptRecord(
            revision=key(number), job=JOB, number=1,
            started_at=OLD, ended_at=OLD, log_key=f"logs/{number}",
            outcome=Passed(evidence=Evidence(rule="installed")),
        )  # fmt: skip
        write(index, attempt)
        async with LogWriter(store, f"logs/{number}") as writer:
            writer.write(b"output\n")
        await store_findings(store, key(number), ["a.1", "b.1"], [])
    kept = await prune(index, store, OLD - timedelta(days=1), now=NOW, heads_at_once=2)
    assert (kept.revisions, kept.logs, kept.findings) == (0, 0, 0)
    done = await prune(index, store, OLD + timedelta(days=1), now=NOW, heads_at_once=2)
    assert (done.revisions, done.pull_requests, done.logs, done.findings) == (6, 6, 6, 12)
    assert [each.key.number for each in index.revisions().items] == [7]
    reader = LogReader(store)
    assert await reader.end("logs/1") is None
    assert await reader.read("logs/7") == b"output\n"
    assert await load_findings(store, key(7)) == ()
    assert len(await store.list("findings")) == 2


async def test_logs_of_attempts_that_the_index_does_not_know_go_with_their_testing(
    index: Index, store: ArtifactStore
) -> None:
    for number, is_open in ((1, False), (2, True)):
        record(index, key(number), is_open=is_open, at=OLD)
        name = log_key(key(number), JOB, run="r", round_=1, attempt=1)
        async with LogWriter(store, name) as writer:
            writer.write(b"cancelled\n")
    await prune(index, store, OLD + timedelta(days=1), now=NOW)
    assert await listed(store, "logs/o/r/pr-1") == set()
    assert await listed(store, "logs/o/r/pr-2")


async def test_repositories_that_no_open_head_needs_go(
    index: Index, store: ArtifactStore, tmp_path: Path
) -> None:
    week, long_ago = NOW - timedelta(days=7), NOW - timedelta(days=95)
    superseded = key(1)
    newest = key(1, OLD + timedelta(hours=1))
    closed, closed_lately = key(2), key(3)
    for revision in (superseded, newest):
        record(index, revision, is_open=True, at=OLD)
    record(index, closed, is_open=False, at=OLD)
    record(index, closed_lately, is_open=False, at=week)
    unknown = key(4)

    def overlay(revision: RevisionKey, base: str) -> str:
        return f"repositories/heads/{revision_folder(revision)}/{base}/{'d' * 64}.tar.gz"

    bases = {name: f"repositories/bases/{name * 40}.tar.gz" for name in "abcdef"}
    for path in bases.values():
        await put(store, tmp_path, path, long_ago)
    await put(store, tmp_path, bases["f"], week)
    await store.put("repositories/bases.json", f'["{"e" * 40}"]'.encode())
    kept = {
        await put(store, tmp_path, overlay(newest, "a" * 40), long_ago),
        await put(store, tmp_path, overlay(closed_lately, "b" * 40), long_ago),
        # Its testing is not in the index yet.
        await put(store, tmp_path, overlay(unknown, "c" * 40), NOW - timedelta(hours=1)),
    }
    await put(store, tmp_path, overlay(superseded, "a" * 40), long_ago)
    await put(store, tmp_path, overlay(closed, "d" * 40), long_ago)
    await put(store, tmp_path, overlay(key(5), "d" * 40), NOW - timedelta(days=2))
    # Of earlier versions.
    await put(store, tmp_path, "repositories/overlays/1.tar.gz", long_ago)
    await put(store, tmp_path, "repositories/overlays/2.tar.gz", week)
    done = await prune(index, store, NOW - timedelta(days=90), now=NOW)
    assert (done.overlays, done.bases) == (4, 1)
    assert await listed(store, "repositories/heads") == kept
    assert await listed(store, "repositories/bases") == set(bases.values()) - {bases["d"]}
    assert await listed(store, "repositories/overlays") == {"repositories/overlays/2.tar.gz"}
    again = await prune(index, store, NOW - timedelta(days=90), now=NOW)
    assert (again.overlays, again.bases) == (0, 0)


async def test_logs_of_canaries_go_after_a_week(
    index: Index, store: ArtifactStore, tmp_path: Path
) -> None:
    ref: PullRequestRef = canary.reference("linux-amd64")

    def log(at: datetime) -> str:
        revision = RevisionKey(
            repository=f"{ref.owner}/{ref.repo}", branch=ref.branch, head="a" * 40, opened_at=at
        )
        return log_key(revision, JOB, run="r", round_=1, attempt=1) + "/end"

    for days in (20, 8, 6, 0):
        at = NOW - timedelta(days=days)
        await put(store, tmp_path, log(at), at)
    other = await put(store, tmp_path, "logs/opam-ci/other/end", OLD)
    await put(store, tmp_path, "logs/trial/1", OLD)  # of a worker that was killed as it started
    done = await prune(index, store, OLD, now=NOW)
    assert done.canary_logs == 2
    assert await listed(store, "logs") == {
        other,
        *(log(NOW - timedelta(days=days)) for days in (6, 0)),
    }
