"""`opam-ci log`: which job is meant, which attempt, and how a log is followed to its end."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opam_ci.cli.author.log import AttemptLog, follow_until, how_it_ended
from opam_ci.cli.main import run
from opam_ci.cli.selection.logs import StoredLogs
from opam_ci.clients.index import Index, JobFilter, RevisionFilter
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.writer import LogWriter
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import (
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
)
from opam_ci.core.jobs.records import AttemptRecord, JobRecord, RevisionKey, RowBatch, log_key
from opam_ci.core.jobs.summary import Fault, JobState, JobStatus

NOW = datetime.now(UTC)
DEBIAN, FEDORA = "debian-13-ocaml-5.3/amd64", "fedora-42-ocaml-5.3/amd64"
LOST = Errored(cause=Cause.WORKER_LOST, evidence=Evidence(rule="heartbeat-lost"))
BROKEN = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="exit-31"))
FINE = Passed(evidence=Evidence(rule="installed"))
NOT_BUILT = Skipped(
    reason=SkipReason.NOT_BUILT,
    evidence=Evidence(rule="build-not-passed", detail="a.1 build came to failed(build)"),
)
OLD, NEW = (
    RevisionKey(repository="o/r", number=7, head=digit * 40, opened_at=at)
    for digit, at in (("a", NOW - timedelta(hours=1)), ("b", NOW))
)


def job(
    package: str, kind: JobKind = JobKind.BUILD, platform: str = DEBIAN, revdep: str | None = None
) -> Job:
    return Job(platform=platform, package=package, kind=kind, revdep=revdep)


class Stage:
    """An index and a store, with jobs whose logs say what they are of."""

    def __init__(self, home: Path) -> None:
        self.index = Index.open(f"sqlite:///{home}/index.sqlite")
        self.store = ArtifactStore.open((home / "store").as_uri())

    def write(self, testing: RevisionKey, *rows: JobStatus, sequence: int = 1) -> JobRecord:
        """Writes rows; returns what the index has of the last one."""
        batch = RowBatch(key=testing, rows=rows, sequence=sequence, updated_at=NOW)
        self.index.record(batch)
        wanted = JobFilter(of=RevisionFilter(revision=testing), name=rows[-1].job.id)
        return self.index.jobs(wanted).items[0]

    def decided(self, testing: RevisionKey, what: Job, text: str | None = None) -> None:
        """Writes a job that passed with a log, or was not run."""
        if text is None:
            self.write(testing, JobStatus(job=what, state=JobState.DECIDED, outcome=NOT_BUILT))
            return
        key = run_key(testing, what)
        asyncio.run(self.write_log(key, text))
        self.write(testing, ended(what, FINE, key=key))

    async def write_log(self, key: str, text: str) -> None:
        async with LogWriter(self.store, key) as log:
            log.write(text.encode())


def run_key(testing: RevisionKey, what: Job, round_: int = 1, number: int = 1) -> str:
    return log_key(testing, what, run="0199-run-of-it", round_=round_, attempt=number)


def ended(
    what: Job, outcome: Outcome, *faults: Fault, round_: int = 1, key: str | None = None
) -> JobStatus:
    return JobStatus(
        job=what, state=JobState.DECIDED, round=round_, attempt=len(faults) + 1, outcome=outcome,
        faults=faults, decided_at=NOW, log=key,
    )  # fmt: skip


def fault(number: int, key: str | None = None) -> Fault:
    return Fault(
        attempt=number, cause=Cause.WORKER_LOST, evidence=LOST.evidence, worker="w", at=NOW, log=key
    )


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setenv("OPAM_CI_HOME", str(tmp_path))
    monkeypatch.setenv("OPAM_CI_STORE", (tmp_path / "store").as_uri())
    made = Stage(tmp_path)
    yield made
    made.index.close()


@pytest.fixture
def filled(stage: Stage) -> Stage:
    """A package with tests and ten reverse dependencies, and an older head of it."""
    stage.decided(OLD, job("a.1"), "old build of a")
    stage.decided(NEW, job("a.1"), "build of a")
    stage.decided(NEW, job("a.1", platform=FEDORA), "build of a on fedora")
    stage.decided(NEW, job("a.1", JobKind.TEST), "test of a")
    stage.decided(NEW, job("a.1", JobKind.LOWER_BOUNDS))
    stage.decided(NEW, job("ppx_test.1"), "build of ppx_test")
    for number in range(10):
        revdep = f"r{number}.{number}"
        stage.decided(NEW, job("a.1", JobKind.REVDEP, revdep=revdep), f"revdep {revdep}")
    return stage


def log_output(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert run(["log", "o/r/7", *arguments]) == code
    output = capfd.readouterr()
    return output.out if code == 0 else output.err


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([f"build {DEBIAN} a.1"], "build of a"),
        (["build", "a.1", "debian"], "build of a"),
        (["build", "a.1", "--platform", FEDORA], "build of a on fedora"),
        (["test", "a.1"], "test of a"),
        (["test a.1"], "test of a"),
        (["--kind", "test"], "test of a"),
        (["ppx_test"], "build of ppx_test"),
        (["r3"], "revdep r3.3"),
        (["--revdep", "r3"], "revdep r3.3"),
        (["--job", f"revdep {DEBIAN} a.1 r4.4"], "revdep r4.4"),
        (["build", "a.1", "--head", "aaaaaaa"], "old build of a"),
        (["build", "fedora", "--attempt", "1", "--round", "1"], "build of a on fedora"),
    ],
)
def test_words_and_options_name_one_job(
    capfd: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    assert log_output(capfd, *arguments) == text
    assert json.loads(log_output(capfd, *arguments, "--json")) == {"text": text}


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["revdep"], "10 jobs of o/r/7 match: revdep debian-13-ocaml-5.3/amd64 a.1 r0.0; "),
        (["revdep"], "; and 2 more. Give more words, or narrow with --kind"),
        (["nothing"], "no job of o/r/7 at bbbbbbbbbbbb matches; it has: 1 skipped, 14 passed"),
        (["%"], "no job of o/r/7"),
        (["build", "--kind", "test"], "no job of o/r/7"),
        ([], "give the job: words of its id"),
        (["--kind", "sing"], "'--kind': 'sing' is not one of"),
        (["lower-bounds"], "has no log: it is skipped(not_built) without a run: a.1 build"),
        (["test", "a.1", "--attempt", "3"], "has no attempt 3; there are attempts: 1 of round 1"),
        (["test", "a.1", "--round", "2"], "has no round 2; there are attempts: 1 of round 1"),
        (["test", "a.1", "--head", "cccc"], "no tested heads of o/r/7 begin with cccc"),
    ],
)
def test_words_that_match_no_job_are_a_usage_error_in_one_line(
    capfd: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    text = log_output(capfd, *arguments, code=2)
    assert words in text
    assert len(text.splitlines()) == 1


def test_of_thousands_of_matching_jobs_the_first_are_listed(
    stage: Stage, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [
        JobStatus(job=job("a.1", JobKind.REVDEP, revdep=f"r{number}.1")) for number in range(3000)
    ]
    stage.decided(NEW, job("a.1"), "build of a")
    stage.write(NEW, *rows)
    assert "3,000 jobs of o/r/7 match" in log_output(capfd, "revdep", code=2)
    assert log_output(capfd, "build", "a.1") == "build of a"
    text = log_output(capfd, "revdep", "r77.1", code=2)
    assert "has not started: it is queued; `opam-ci log -f` waits for it" in text


def test_each_attempt_of_each_round_has_its_log(
    stage: Stage, capfd: pytest.CaptureFixture[str]
) -> None:
    what = job("a.1")
    keys = {each: run_key(NEW, what, *each) for each in ((1, 1), (1, 2), (3, 1))}
    for each, key in keys.items():
        asyncio.run(stage.write_log(key, f"log {each}"))
    stage.write(NEW, ended(what, FINE, fault(1, keys[1, 1]), key=keys[1, 2]))
    stage.write(NEW, ended(what, BROKEN, round_=3, key=keys[3, 1]))
    assert log_output(capfd, "a.1") == "log (3, 1)"
    assert log_output(capfd, "a.1", "--round", "1") == "log (1, 2)"
    assert log_output(capfd, "a.1", "--round", "1", "--attempt", "1") == "log (1, 1)"
    # Restarted: the log of the round before is printed, with a note.
    stage.write(NEW, JobStatus(job=what, round=4))
    assert run(["log", "o/r/7", "a.1"]) == 0
    output = capfd.readouterr()
    assert output.out == "log (3, 1)"
    assert output.err == "opam-ci: queued after a restart; this is the log of round 3\n"


def test_the_log_of_a_running_attempt_is_found_before_the_index_has_its_key(
    stage: Stage, capfd: pytest.CaptureFixture[str]
) -> None:
    what = job("a.1")
    running = JobStatus(job=what, state=JobState.RUNNING, attempt=1)
    stage.write(NEW, running)
    assert "nothing of the log of attempt 1" in log_output(capfd, "a.1", code=2)
    asyncio.run(stage.write_log(run_key(NEW, what, number=11), "of another attempt"))
    assert "nothing of the log of attempt 1" in log_output(capfd, "a.1", code=2)
    asyncio.run(stage.write_log(run_key(NEW, what), "building"))
    assert log_output(capfd, "a.1") == "building"


async def test_a_queued_job_is_waited_for_and_followed_to_its_end(
    stage: Stage, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opam_ci.cli.author.log._POLL_INTERVAL", timedelta(seconds=0.05))
    what = job("a.1")
    # What ran before the restart is not what is waited for.
    stage.write(NEW, ended(what, LOST, key=run_key(NEW, what)))
    record = stage.write(NEW, JobStatus(job=what, round=2))
    following = asyncio.create_task(
        AttemptLog(stage.index, StoredLogs(stage.store), record).follow(as_json=False)
    )
    await asyncio.sleep(0.3)
    running = JobStatus(job=what, round=2, state=JobState.RUNNING, attempt=1)
    stage.write(NEW, running)
    await asyncio.sleep(0.3)
    async with LogWriter(stage.store, run_key(NEW, what, round_=2)) as log:
        log.write(b"building\n" * 40_000)
        await asyncio.sleep(0.5)
        log.write(b"done\n")
    async with asyncio.timeout(20):
        await following
    output = capfd.readouterr()
    assert output.out.endswith("building\ndone\n")
    assert output.err.splitlines() == [
        f"opam-ci: {what.id}: waiting for its start",
        f"opam-ci: {what.id}: waiting for its log",
    ]


async def test_following_ends_when_the_index_has_the_lost_worker(
    stage: Stage, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opam_ci.cli.author.log._POLL_INTERVAL", timedelta(seconds=0.05))
    monkeypatch.setattr("opam_ci.cli.author.log._END_GRACE", timedelta(seconds=0.3))
    what = job("a.1")
    running = JobStatus(job=what, state=JobState.RUNNING, attempt=1)
    record = stage.write(NEW, running)
    writer = LogWriter(stage.store, run_key(NEW, what))
    await writer.__aenter__()
    writer.write(b"building\n" * 40_000)  # more than a segment: it is stored at once
    following = asyncio.create_task(
        AttemptLog(stage.index, StoredLogs(stage.store), record).follow(as_json=False)
    )
    shown = ""
    async with asyncio.timeout(60):
        while not shown:
            await asyncio.sleep(0.05)
            shown += capfd.readouterr().out
    again = running.model_copy(update={"attempt": 2, "faults": (fault(1),)})
    stage.write(NEW, again, sequence=2)
    async with asyncio.timeout(60):
        await following
    assert shown.startswith("building\n")
    assert "the log ends here: attempt 1 ended with errored(worker_lost)" in capfd.readouterr().err
    await writer.__aexit__(None, None, None)


def test_how_an_attempt_ended_comes_from_the_index() -> None:
    what = job("a.1")
    running = JobStatus(job=what, state=JobState.RUNNING, attempt=1)
    this = AttemptRecord(revision=NEW, job=what, number=1, started_at=NOW)

    def how(status: JobStatus, *attempts: AttemptRecord) -> str | None:
        record = JobRecord(revision=NEW, status=status, updated_at=NOW)
        return how_it_ended(record, attempts, this)

    assert how(running, this) is None
    over = this.model_copy(update={"outcome": BROKEN, "ended_at": NOW})
    assert how(running, over) == "attempt 1 ended with failed(build)"
    lost = "attempt 1 is over; its worker was lost or stopped"
    assert how(running.model_copy(update={"attempt": 2}), this) == lost
    assert how(running.model_copy(update={"state": JobState.RETRYING})) == lost
    assert how(running.model_copy(update={"round": 2}), this) == "the job was restarted"
    decided = running.model_copy(update={"state": JobState.DECIDED, "outcome": FINE})
    assert how(decided, this) == "the job is decided: passed"


async def test_following_ends_with_a_closed_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = ArtifactStore.open((tmp_path / "store").as_uri())
    async with LogWriter(store, "logs/x") as writer:
        writer.write(b"done\n")
    over = asyncio.create_task(asyncio.sleep(60, "never"))
    async with asyncio.timeout(20):
        await follow_until(StoredLogs(store), "logs/x", over, as_json=True)
    assert json.loads(capfd.readouterr().out) == {"text": "done\n"}
    assert over.cancelled()
