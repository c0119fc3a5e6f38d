"""The output of a command, and an index with decided jobs for it."""

from datetime import UTC, datetime

import pytest

from opam_ci.cli.main import run
from opam_ci.clients.index import Index
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Outcome
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, RowBatch
from opam_ci.core.jobs.summary import JobState, JobStatus

NOW = datetime.now(UTC)
DEBIAN, FEDORA = "debian-13-ocaml-5.3/amd64", "fedora-42-ocaml-5.3/amd64"


def output_of(capture: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """Runs a command; returns its output, or its errors if it is to fail."""
    assert run(list(arguments)) == code
    output = capture.readouterr()
    return output.out if code == 0 else output.err


def key(number: int, head: str | None = None, at: datetime = NOW) -> RevisionKey:
    return RevisionKey(repository="o/r", number=number, head=head or f"{number:040x}", opened_at=at)


def job(package: str, platform: str = DEBIAN, revdep: str | None = None) -> Job:
    kind = JobKind.REVDEP if revdep else JobKind.BUILD
    return Job(platform=platform, package=package, kind=kind, revdep=revdep)


def write(
    index: Index, testing: RevisionKey, *rows: tuple[Job, Outcome], open_: bool = True
) -> None:
    index.record(
        RowBatch(
            key=testing,
            revision=RevisionRecord(
                key=testing, base="b", updated_at=NOW, sequence=1, is_open=open_
            ),
            rows=tuple(
                JobStatus(
                    job=what, state=JobState.DECIDED, attempt=1, outcome=outcome, worker="w1",
                    decided_at=NOW, log="l",
                )
                for what, outcome in rows
            ),
            sequence=1,
            updated_at=NOW,
            pools={DEBIAN: "linux-amd64", FEDORA: "linux-amd64"},
        )
    )  # fmt: skip
