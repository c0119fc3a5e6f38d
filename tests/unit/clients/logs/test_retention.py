"""`opam-ci prune`: rows go with their logs, and nothing of an open pull request."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from opam_ci.clients.index import Index
from opam_ci.clients.logs.log import LogReader, LogWriter
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.retention import prune
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Evidence, Passed
from opam_ci.core.jobs.records import AttemptRecord, RevisionKey, RevisionRecord
from tests.support.fakes.written import write

OLD = datetime(2025, 5, 4, 12, 0, tzinfo=UTC)


async def test_old_closed_pull_requests_are_forgotten_with_their_logs(
    tmp_path: Path,
) -> None:
    index = Index.open(f"sqlite:///{tmp_path}/index.sqlite")
    store = ArtifactStore.open((tmp_path / "store").as_uri())
    for number in range(1, 8):
        key = RevisionKey(repository="o/r", number=number, head="a" * 40, opened_at=OLD)
        head = RevisionRecord(key=key, base="b", is_open=number == 7, updated_at=OLD, sequence=1)
        attempt = AttemptRecord(
            revision=key, job=Job(platform="p", package="a.1", kind=JobKind.BUILD), number=1,
            started_at=OLD, ended_at=OLD, log_key=f"logs/{number}",
            outcome=Passed(evidence=Evidence(rule="installed")),
        )  # fmt: skip
        write(index, head, attempt)
        async with LogWriter(store, f"logs/{number}") as writer:
            writer.write(b"output\n")
    kept = await prune(index, store, OLD - timedelta(days=1), heads_at_once=2)
    assert (kept.revisions, kept.logs) == (0, 0)
    done = await prune(index, store, OLD + timedelta(days=1), heads_at_once=2)
    assert (done.revisions, done.pull_requests, done.logs) == (6, 6, 6)
    assert [each.key.number for each in index.revisions().items] == [7]
    reader = LogReader(store)
    assert await reader.end("logs/1") is None
    assert await reader.read("logs/7") == b"output\n"
    index.close()
