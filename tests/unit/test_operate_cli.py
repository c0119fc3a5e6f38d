"""The operators' commands over an index: what they print, and how they refuse."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opam_ci.cli.log import follow_until, how_it_ended
from opam_ci.cli.main import run
from opam_ci.cli.operate import ago, moment
from opam_ci.cli.restart import chosen, matching, nothing_matches
from opam_ci.clients.index import Index
from opam_ci.clients.logs import LogReader, LogWriter
from opam_ci.clients.store import ArtifactStore
from opam_ci.core.errors import UsageError
from opam_ci.core.incidents.restarts import orders_of
from opam_ci.core.job import Job, JobKind
from opam_ci.core.outcome import (
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    LogLine,
    Outcome,
    Passed,
)
from opam_ci.core.records import AttemptRecord, JobRecord, RecordBatch, RevisionKey, RevisionRecord
from opam_ci.core.requests import RestartSelector, RestartWhich
from opam_ci.core.summary import Fault, JobState, JobStatus, Summary

NOW = datetime.now(UTC)
DEBIAN, FEDORA = "debian-13-ocaml-5.3/amd64", "fedora-42-ocaml-5.3/amd64"
FULL = Errored(
    cause=Cause.DISK_FULL,
    evidence=Evidence(
        rule="enospc", worker="w1", lines=(LogLine(offset=0, text="No space left on device"),)
    ),
)
BROKEN = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="exit-31", worker="w1"))
FINE = Passed(evidence=Evidence(rule="installed", worker="w1"))


def key(number: int) -> RevisionKey:
    return RevisionKey(repository="o/r", number=number, head=f"{number:040x}", opened_at=NOW)


def job(package: str, platform: str = DEBIAN) -> Job:
    return Job(platform=platform, package=package, kind=JobKind.BUILD)


def lost(what: Job, outcome: Outcome) -> JobStatus:
    return JobStatus(job=what, state=JobState.DECIDED, attempt=1, outcome=outcome, log="l")


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """Two pull requests with a full disk each, and a package failure."""
    monkeypatch.setenv("OPAM_CI_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    index = Index.open(f"sqlite:///{tmp_path}/index.sqlite")
    rows = (
        (1, job("a.1"), FULL), (1, job("b.1", FEDORA), FULL), (1, job("c.1"), BROKEN),
        (2, job("a.1"), FULL), (2, job("d.1"), FINE),
    )  # fmt: skip
    jobs = tuple(
        JobRecord(revision=key(number), status=lost(what, outcome), updated_at=NOW)
        for number, what, outcome in rows
    )
    attempts = tuple(
        AttemptRecord(
            revision=key(number), job=what, number=1, worker="w1", pool="linux-amd64",
            started_at=NOW, ended_at=NOW, outcome=outcome,
        )
        for number, what, outcome in rows
    )  # fmt: skip
    heads = tuple(
        RevisionRecord(key=key(number), base="b", updated_at=NOW, sequence=1) for number in (1, 2)
    )
    index.record(RecordBatch(revisions=heads, jobs=jobs, attempts=attempts))
    yield index
    index.close()


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert run(list(arguments)) == code
    output = capsys.readouterr()
    return output.out if code == 0 else output.err


@pytest.mark.usefixtures("filled")
def test_errors_name_the_cause_and_whom_it_hits(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "errors")
    assert "disk_full: disk full" in text
    assert "o/r/1 (2), o/r/2 (1)" in text
    [group] = [json.loads(line) for line in said(capsys, "errors", "--json").splitlines()]
    assert (group["cause"], group["errored"]) == ("disk_full", 3)


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("arguments", "packages"),
    [
        (["--is", "errored"], {"a.1", "b.1"}),
        (["--cause", "disk_full", "--platform", FEDORA], {"b.1"}),
        (["--reason", "build"], {"c.1"}),
        (["o/r/2"], {"a.1", "d.1"}),
        (["--package", "d", "--since", "1h", "--all-heads"], {"d.1"}),
        (["--worker", "nobody"], set()),
        (["--until", "1h"], set()),
    ],
)
def test_jobs_are_listed_and_counted(
    capsys: pytest.CaptureFixture[str], arguments: list[str], packages: set[str]
) -> None:
    lines = said(capsys, "jobs", *arguments, "--json").splitlines()
    assert {json.loads(line)["status"]["job"]["package"] for line in lines} == packages
    counts = json.loads(said(capsys, "jobs", *arguments, "--count", "--json"))
    assert sum(counts.values()) == len(lines)


@pytest.mark.usefixtures("filled")
def test_a_listing_says_where_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    first = said(capsys, "jobs", "--limit", "3")
    after = first.splitlines()[-1].removeprefix("more: --after ")
    rest = said(capsys, "jobs", "--limit", "3", "--after", after)
    assert "more:" not in rest
    assert len(rest.splitlines()) == 1 + 2


def test_incidents_are_listed_shown_and_named(
    filled: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    [incident] = filled.incidents().items
    assert "disk_full  w1" in said(capsys, "incidents")
    shown = said(capsys, "incidents", "show", str(incident.id))
    assert "disk full (disk_full) on worker w1: 3 jobs of 2 pull requests" in shown
    assert "No space left on device" in shown
    assert "3 jobs stand errored for it" in shown
    dry = said(capsys, "incidents", "resolve", str(incident.id), "--dry-run", "--json")
    assert json.loads(dry) == {"incident": incident.id, "jobs": 3, "spent": 0, "sent": False}
    assert "no incident 999" in said(capsys, "incidents", "show", "999", code=2)
    assert filled.resolve(incident.id, at=NOW + timedelta(seconds=1), by="ann")
    assert "resolved at" in said(capsys, "incidents", "resolve", str(incident.id), code=2)
    assert "no open incidents" in said(capsys, "incidents")
    assert "by ann" in said(capsys, "incidents", "--all")


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["restart", "--cause", "gremlins"], "no cause 'gremlins'; there are: network,"),
        (["restart"], "say what to restart"),
        (["restart", "o/r/1", "--pr", "o/r/2"], "give one pull request"),
        (["restart", "--failed", "--all", "o/r/1"], "exclude each other"),
        (["restart", "--failed", "--cause", "dns"], "--cause is about errors"),
        (["restart", "--all"], "--all needs"),
        (["restart", "--cause", "dns", "--dry-run"], "nothing matches"),
        (["restart", "--platform", "no-such", "--dry-run"], "nothing matches"),
        (["restart", "--incident", "999", "--dry-run"], "no incident 999"),
        (["restart", "o/r/1", "--incident", "1"], "give one of both"),
        (["jobs", "--is", "broken"], "standing"),
        (["jobs", "nonsense"], "names no pull request"),
        (["jobs", "--since", "yesterday"], "is no time"),
        (["incidents", "--cause", "gremlins"], "no cause 'gremlins'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    text = said(capsys, *arguments, code=2)
    assert words in text
    assert len(text.splitlines()) == 1


def test_without_an_index_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPAM_CI_HOME", str(tmp_path))
    assert "there is no index" in said(capsys, "errors", code=2)
    assert not (tmp_path / "index.sqlite").exists()


@pytest.mark.usefixtures("filled")
def test_a_dry_run_says_what_would_be_restarted(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "restart", "--cause", "disk_full", "--platform", DEBIAN, "--dry-run")
    assert f"pr/o/r/1: build {DEBIAN} a.1" in text
    assert "2 jobs of 2 pull requests would be restarted" in text
    lines = said(capsys, "restart", "--failed", "--platform", DEBIAN, "--dry-run", "--json")
    assert json.loads(lines) == {
        "workflow": "pr/o/r/1", "jobs": [f"build {DEBIAN} c.1"], "sent": False, "error": None,
    }  # fmt: skip


def test_a_restart_names_the_jobs_and_the_head_that_it_is_about(filled: Index) -> None:
    hit = matching(filled, RestartSelector(cause=Cause.DISK_FULL), None)
    first, second = orders_of(hit)
    assert first.workflow_id == "pr/o/r/1"
    assert first.selector() == RestartSelector(
        jobs=(f"build {DEBIAN} a.1", f"build {FEDORA} b.1"), head=key(1).head
    )
    assert second.selector(RestartWhich.ALL).which is RestartWhich.ALL
    [incident] = filled.incidents().items
    assert set(matching(filled, RestartSelector(), incident.id)) == set(hit)


def test_a_named_pull_request_says_why_nothing_matches() -> None:
    summary = Summary(
        pull_request="o/r#1", head="a" * 40, base="b" * 40,
        jobs=(lost(job("a.1"), FULL), lost(job("c.1"), BROKEN)),
    )  # fmt: skip
    assert chosen(summary, RestartSelector()) == (f"build {DEBIAN} a.1",)
    dns = RestartSelector(cause=Cause.DNS)
    assert chosen(summary, dns) == ()
    words = nothing_matches(summary, dns)
    assert "no errored or cancelled job for dns that matches; it has: 1 failed, 1 errored" in words
    assert DEBIAN in nothing_matches(summary, RestartSelector(platform="other"))


def test_times_are_read_and_told() -> None:
    assert moment("90m", NOW) == NOW - timedelta(minutes=90)
    assert moment("2026-05-04", NOW) == datetime(2026, 5, 4, tzinfo=UTC)
    assert ago(NOW - timedelta(hours=30), NOW) == "1d"
    assert ago(NOW + timedelta(seconds=5), NOW) == "0s"
    with pytest.raises(UsageError):
        moment("7 days", NOW)


def test_an_attempt_is_over_when_it_faulted_or_another_one_began() -> None:
    fault = Fault(
        attempt=1, cause=Cause.WORKER_LOST, worker="w1", at=NOW,
        evidence=Evidence(rule="heartbeat-lost", detail="worker w1 went silent"),
    )  # fmt: skip
    running = JobStatus(job=job("a.1"), state=JobState.RUNNING, attempt=1)
    assert how_it_ended(running, 1, 1) is None
    again = running.model_copy(update={"attempt": 2, "faults": (fault,)})
    assert how_it_ended(again, 1, 1) == "worker w1 went silent"
    assert how_it_ended(again, 1, 2) is None
    queued = running.model_copy(update={"attempt": 2, "state": JobState.QUEUED})
    assert "lost or stopped" in (how_it_ended(queued, 1, 1) or "")
    assert how_it_ended(running.model_copy(update={"round": 2}), 1, 1) == "the job was restarted"
    assert how_it_ended(lost(job("a.1"), FINE), 1, 1) == "the job is decided: passed"


async def test_following_a_log_ends_when_its_writer_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr("opam_ci.cli.log._END_GRACE", timedelta(seconds=0.5))
    store = ArtifactStore.open((tmp_path / "store").as_uri())
    writer = LogWriter(store, "logs/x")
    await writer.__aenter__()
    writer.write(b"building\n" * 40_000)  # more than a segment: it is stored at once

    async def killed() -> str:
        await asyncio.sleep(1)
        return "worker w1 went silent"

    async with asyncio.timeout(20):
        over = asyncio.create_task(killed())
        await follow_until(LogReader(store), "logs/x", over, as_json=False)
    output = capfdbinary.readouterr()
    assert output.out.startswith(b"building\n")
    assert b"the log ends here: worker w1 went silent" in output.err
    await writer.__aexit__(None, None, None)


async def test_following_a_log_that_is_closed_needs_nobody_to_say_so(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    store = ArtifactStore.open((tmp_path / "store").as_uri())
    async with LogWriter(store, "logs/x") as writer:
        writer.write(b"done\n")
    over = asyncio.create_task(asyncio.sleep(60, "never"))
    async with asyncio.timeout(20):
        await follow_until(LogReader(store), "logs/x", over, as_json=True)
    assert json.loads(capfdbinary.readouterr().out) == {"text": "done\n"}
    assert over.cancelled()
