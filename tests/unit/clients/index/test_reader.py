"""A database role that may only read: as docs/operations.md makes it, all listings work with it."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from opam_ci.cli.main import run
from opam_ci.clients.index import Index, engine
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Cause, Errored, Evidence
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, RowBatch
from opam_ci.core.jobs.summary import JobState, JobStatus
from tests.support.fakes.written import write

OPERATIONS = Path(__file__).resolve().parents[4] / "docs" / "operations.md"
NOW = datetime.now(UTC)
KEY = RevisionKey(repository="o/r", number=7, head="a" * 40, opened_at=NOW)
ROW = JobStatus(
    job=Job(platform="p", package="a.1", kind=JobKind.BUILD),
    state=JobState.DECIDED,
    outcome=Errored(cause=Cause.DNS, evidence=Evidence(rule="dns", worker="w")),
    worker="w",
    decided_at=NOW,
    attempt=1,
)


@pytest.fixture
def reader(postgres: str) -> Iterator[str]:
    """An index with an errored job, and the URL of one who may read it."""
    server = make_url(postgres)
    admin = engine.create(postgres)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE read_index"))
    owner = server.set(database="read_index")
    index = Index.open(owner.render_as_string(hide_password=False))
    revision = RevisionRecord(key=KEY, base="b", updated_at=NOW, sequence=1)
    write(index, RowBatch(key=KEY, revision=revision, rows=(ROW,), sequence=1, updated_at=NOW))
    (script,) = re.findall(r"```sql\n(.*?)```", OPERATIONS.read_text(), re.DOTALL)
    with index._engine.begin() as connection:
        for statement in filter(str.strip, script.split(";")):
            connection.execute(text(statement))
    yield owner.set(username="reader").render_as_string(hide_password=False)
    index.close()
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("DROP DATABASE read_index WITH (FORCE)"))
        connection.execute(text("DROP ROLE reader"))
    admin.dispose()


def test_a_reader_lists_everything_and_writes_nothing(
    reader: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPAM_CI_INDEX", reader)
    for words in (["jobs"], ["errors"], ["incidents", "--all"], ["incidents", "show", "1"]):
        assert run([*words, "--json"]) == 0
        assert "dns" in capsys.readouterr().out, words
    index = Index.open(reader)
    try:
        newer = RowBatch(key=KEY, rows=(ROW,), sequence=2, updated_at=NOW)
        with pytest.raises(InfrastructureError, match="read-only transaction"):
            write(index, newer)
    finally:
        index.close()


def test_an_index_that_is_not_there_yet_is_not_made_by_a_reader(reader: str) -> None:
    empty = make_url(reader).set(database="template1").render_as_string(hide_password=False)
    with pytest.raises((InfrastructureError, UsageError), match="read-only transaction"):
        Index.open(empty)
