"""Opening the index: migrations, races, other files, damage, full disks."""

import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect, make_url, select, text, update

from opam_ci.clients.index import Index, JobFilter, engine, migrate
from opam_ci.clients.index.engine import reading, writing
from opam_ci.clients.index.migrations import STEPS
from opam_ci.clients.index.schema import SCHEMA_VERSION, VERSION
from opam_ci.clients.index.triggers import create_triggers
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.messages import ChangeJobs, TakeJobs
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, RowBatch
from opam_ci.core.jobs.selector import RestartSelector
from opam_ci.core.jobs.summary import JobState, JobStatus
from tests.support.fakes.disk import small_disk
from tests.support.fakes.written import write

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def revision(head: str) -> RevisionRecord:
    key = RevisionKey(repository="o/r", number=1, head=head, opened_at=NOW)
    return RevisionRecord(key=key, base="b", updated_at=NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some where" / "index.db"


def test_a_fresh_file_is_made_with_its_directory_and_kept(path: Path) -> None:
    for head in ("1", "2"):
        index = Index.open(f"sqlite:///{path}")
        write(index, revision(head))
        index.close()
    index = Index.open(f"sqlite:///{path}")
    assert {each.key.head for each in index.revisions().items} == {"1", "2"}
    with reading(index._engine) as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
        assert connection.scalar(text("PRAGMA busy_timeout")) >= 10_000
    index.close()


OLD_JOBS = [
    # kind, platform, package, revdep, standing, outcome; then rank, needs, follows
    ("analysis", "", "", None, "passed", "installed", 0, None, False),
    ("lint", "", "a.1", None, "failed", "lint", 1, None, False),
    ("build", "p", "a.1", None, "errored", "dns", 2, None, False),
    ("test", "p", "a.1", None, "errored", "build-errored", 3, "build p a.1", True),
    ("lower-bounds", "p", "a.1", None, "skipped", "build-not-passed", 4, "build p a.1", True),
    ("list-revdeps", "p", "a.1", None, "cancelled", None, 4, "build p a.1", False),
    ("revdep", "p", "a.1", "r.1", "queued", None, 5, None, False),
    ("revdep-test", "p", "a.1", "r.1", "queued", None, 5, "revdep p a.1 r.1", False),
]


OLD = Path(__file__).with_name("index_0004")
"""Dumps of an index of schema 0004, as that opam-ci made it, with `OLD_JOBS` and one fault."""


@pytest.fixture(params=["sqlite", "postgresql"])
def urls(request: pytest.FixtureRequest, path: Path) -> tuple[str, str]:
    """An index of schema 0004, and a place for a new one, on the same kind of database."""
    statements = (OLD / f"{request.param}.sql").read_text()
    path.parent.mkdir()
    if request.param == "sqlite":
        with closing(sqlite3.connect(path)) as plain:
            plain.executescript(statements)
        return f"sqlite:///{path}", f"sqlite:///{path.with_name('new.db')}"
    server = make_url(request.getfixturevalue("postgres"))
    admin = engine.create(server.render_as_string(hide_password=False))
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for name in ("old_index", "new_index"):
            connection.execute(text(f"DROP DATABASE IF EXISTS {name}"))
            connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    old, new = (
        server.set(database=name).render_as_string(hide_password=False)
        for name in ("old_index", "new_index")
    )
    filled = engine.create(old)
    with closing(filled.raw_connection()) as raw:
        raw.cursor().execute(statements)
        raw.commit()
    filled.dispose()
    return old, new


@pytest.fixture
def old_url(urls: tuple[str, str]) -> str:
    return urls[0]


SQLITE = "SELECT sql FROM sqlite_master WHERE type IN ('index', 'trigger')"
POSTGRESQL = """
SELECT indexdef FROM pg_indexes WHERE schemaname = 'public';
SELECT relname || reloptions::text FROM pg_class WHERE reloptions IS NOT NULL;
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal;
SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace;
SELECT concat_ws(' ', table_name, column_name, collation_name) FROM information_schema.columns
WHERE table_schema = 'public'
"""


def schema_of(url: str) -> dict[str, object]:
    """The whole schema of a database, without the order of columns."""
    index = Index.open(url)
    with reading(index._engine) as connection:
        known = inspect(connection)
        tables: dict[str, object] = {
            name: (
                sorted(repr(sorted(each.items())) for each in known.get_columns(name)),
                known.get_pk_constraint(name),
                sorted(known.get_unique_constraints(name), key=repr),
                sorted(known.get_foreign_keys(name), key=repr),
            )
            for name in known.get_table_names()
        }
        more = SQLITE if connection.dialect.name == "sqlite" else POSTGRESQL
        for query in more.split(";"):
            found = connection.scalars(text(query)).all()
            assert found
            tables[query] = sorted(" ".join(each.split()) for each in found if each is not None)
    index.close()
    return tables


def test_a_migrated_index_is_like_a_new_one(urls: tuple[str, str]) -> None:
    migrated, created = map(schema_of, urls)
    assert migrated == created
    assert {"jobs", "job_counts", "opam_ci_schema"} <= created.keys()


def test_migrations_end_at_the_schema_of_the_code_and_leave_out_none() -> None:
    steps = [int(version) for version in STEPS]
    assert steps == list(range(min(steps), int(SCHEMA_VERSION)))


def test_the_jobs_of_an_older_index_are_queued_and_restarted_as_new_ones(old_url: str) -> None:
    index = Index.open(old_url)
    with reading(index._engine) as connection:
        rows = connection.execute(
            text("SELECT kind, rank, needs, follows FROM jobs ORDER BY id")
        ).all()
    assert [tuple(row) for row in rows] == [
        (kind, rank, needs, follows) for kind, _, _, _, _, _, rank, needs, follows in OLD_JOBS
    ]
    key = RevisionKey(repository="o/r", number=1, head="h", opened_at=NOW)
    page = index.take(TakeJobs(key=key, platform="p", limit=9))
    assert [each.job.kind for each in page.jobs] == [JobKind.REVDEP, JobKind.REVDEP_TEST]
    taken = index.requeue(ChangeJobs(key=key, selector=RestartSelector(), round=2), NOW)
    assert taken.by_platform == {"p": 4}
    assert index.counts().queued == 6
    assert index.attempts().items[0].outcome is not None
    [incident] = index.incidents().items
    assert incident.cause is Cause.DNS
    assert index.undecided_jobs(incident.id) == 1
    [revdep] = index.jobs(JobFilter(revdep="r", kind=JobKind.REVDEP)).items
    assert revdep.status.job.revdep == "r.1"
    index.close()


_OPENER = """
import sys
from datetime import UTC, datetime
from opam_ci.clients.index import Index
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, RowBatch
print("ready", flush=True)
sys.stdin.readline()
index = Index.open(sys.argv[1])
now = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
for number in range(20):
    key = RevisionKey(repository="o/r", number=number, head=sys.argv[2], opened_at=now)
    record = RevisionRecord(key=key, base="b", updated_at=now)
    index.record(RowBatch(key=key, revision=record, rows=(), sequence=0, updated_at=now))
index.close()
"""


def test_processes_that_open_a_fresh_file_at_once_all_succeed(path: Path) -> None:
    url = f"sqlite:///{path}"
    openers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _OPENER, url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(3)
    ]
    for opener in openers:
        assert opener.stdout is not None
        assert opener.stdout.readline() == b"ready\n"
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write(b"go\n")
        opener.stdin.flush()
    errors = [opener.communicate(timeout=60)[1] for opener in openers]
    assert errors == [b"", b"", b""]
    assert [opener.returncode for opener in openers] == [0, 0, 0]
    index = Index.open(url)
    assert len(index.revisions().items) == 60
    index.close()


def test_opening_waits_for_another_process_that_opens_a_fresh_file(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # SQLite itself does not wait for this one
    release = threading.Timer(0.2, lambda: other.execute("ROLLBACK"))
    release.start()
    Index.open(f"sqlite:///{path}").close()
    release.join()
    other.close()


def test_a_killed_migration_leaves_nothing_and_is_run_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(connection: Connection) -> None:
        create_triggers(connection)
        raise InfrastructureError("cut off", cause=Cause.STORAGE)

    monkeypatch.setattr(migrate, "create_triggers", cut_off)
    with pytest.raises(InfrastructureError, match="cut off"):
        Index.open(f"sqlite:///{path}")
    with sqlite3.connect(path) as plain:
        assert plain.execute("SELECT name FROM sqlite_master").fetchall() == []
    plain.close()
    monkeypatch.undo()
    Index.open(f"sqlite:///{path}").close()


def test_a_newer_schema_is_refused(path: Path) -> None:
    Index.open(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as plain:
        plain.execute(f"UPDATE {VERSION.name} SET version_num = '9999'")  # noqa: S608 - ours
    plain.close()
    with pytest.raises(UsageError, match=r"newer opam-ci \(schema 9999.*update opam-ci"):
        Index.open(f"sqlite:///{path}")


def test_a_schema_that_is_too_old_is_refused_and_left_alone(old_url: str) -> None:
    older = engine.create(old_url)
    with writing(older) as connection:
        connection.execute(update(VERSION).values(version_num="0003"))
    with pytest.raises(UsageError, match=r"too old \(schema 0003.*0004 and newer\): move it away"):
        Index.open(old_url)
    with reading(older) as connection:
        assert connection.scalar(select(VERSION.c.version_num)) == "0003"
        assert "rank" not in {each["name"] for each in inspect(connection).get_columns("jobs")}
    older.dispose()


def test_a_migration_that_fails_leaves_the_old_index(
    old_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(connection: Connection) -> None:
        STEPS["0004"](connection)
        raise InfrastructureError("cut off", cause=Cause.STORAGE)

    monkeypatch.setattr(migrate, "STEPS", {"0004": cut_off})
    with pytest.raises(InfrastructureError, match="cut off"):
        Index.open(old_url)
    monkeypatch.undo()
    index = Index.open(old_url)
    assert index.counts().total == len(OLD_JOBS)
    index.close()


def test_a_database_of_something_else_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as plain:
        plain.execute("CREATE TABLE recipes (name TEXT)")
    plain.close()
    with pytest.raises(UsageError, match="tables that are not an index's"):
        Index.open(f"sqlite:///{path}")
    with sqlite3.connect(path) as plain:
        assert plain.execute("SELECT name FROM sqlite_master").fetchall() == [("recipes",)]
    plain.close()


def test_a_file_that_is_no_database_is_the_stores_fault(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(InfrastructureError, match=r"damaged or.*move the file") as caught:
        Index.open(f"sqlite:///{path}")
    assert caught.value.cause is Cause.STORAGE


def test_closing_waits_for_calls_of_other_threads(path: Path) -> None:
    index = Index.open(f"sqlite:///{path}")
    begun, end = threading.Event(), threading.Event()

    def read() -> None:
        with reading(index._engine) as connection:
            begun.set()
            end.wait(timeout=10)
            connection.execute(text("SELECT 1"))

    reader, closer = threading.Thread(target=read), threading.Thread(target=index.close)
    reader.start()
    begun.wait(timeout=10)
    closer.start()
    closer.join(timeout=0.3)
    assert closer.is_alive()
    end.set()
    reader.join(timeout=10)
    closer.join(timeout=10)
    assert not closer.is_alive()


def test_a_damaged_index_is_the_stores_fault(path: Path) -> None:
    index = Index.open(f"sqlite:///{path}")
    write(index, *(revision(f"{head:040}") for head in range(60)))
    index.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    with (
        pytest.raises(InfrastructureError, match="damaged") as caught,
        closing(Index.open(f"sqlite:///{path}")) as damaged,
    ):
        damaged.revisions()
    assert caught.value.cause is Cause.STORAGE


def test_a_directory_that_cannot_be_made_is_our_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InfrastructureError, match="cannot make the directory"):
        Index.open(f"sqlite:///{tmp_path}/file/index.db")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "index.db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite://var/index.sqlite",
        "sqlite://me:x@db/x",
        "mysql://h/d",
        "file:///x",
        "x://y",
    ],
)
def test_a_url_that_names_no_index_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not the URL of an index"):
        Index.open(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://ci:secret@h/index",
        "postgresl//ci:secret@h/index",
        "postgresql://ci:secret@h:port/index",
        "mysql://ci:very@secret/index",
        "mysql://h/index?password=secret",
    ],
)
def test_a_url_that_is_misspelt_is_not_shown(url: str) -> None:
    with pytest.raises(UsageError, match="OPAM_CI_INDEX is not the URL of an index") as caught:
        Index.open(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("options", ["", "&password=secret"])
def test_an_unreachable_server_is_our_fault_and_keeps_the_password_secret(
    tmp_path: Path, options: str
) -> None:
    pytest.importorskip("psycopg", reason="the package psycopg is not installed")
    url = f"postgresql://ci:secret@/index?host={tmp_path}{options}"
    with pytest.raises(InfrastructureError, match="does not work") as caught:
        Index.open(url)
    assert caught.value.cause is Cause.STORAGE
    assert "secret" not in str(caught.value)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB."""
    with small_disk(tmp_path / "small", 1) as place:
        yield place


def test_a_full_disk_has_its_own_cause_and_what_was_written_stays(disk: Path) -> None:
    index = Index.open(f"sqlite:///{disk}/index.db")
    write(index, revision("kept"))
    log = "x" * 2_000_000
    row = JobStatus(
        job=Job(platform="p", package="a.1", kind=JobKind.BUILD), state=JobState.RUNNING, log=log
    )
    much = RowBatch(key=revision("kept").key, rows=(row,), sequence=1, updated_at=NOW)
    with pytest.raises(InfrastructureError) as caught:
        index.record(much)
    assert caught.value.cause is Cause.DISK_FULL
    assert [each.key.head for each in index.revisions().items] == ["kept"]
    assert index.jobs().items == ()
    index._engine.dispose()
