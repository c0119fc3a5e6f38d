"""`opam-ci --server URL …`: the same commands, without Temporal, index and store."""

import asyncio
import json
import re
from asyncio import to_thread
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from opam_ci.cli.author.log import AttemptLog
from opam_ci.cli.main import run
from opam_ci.cli.selection.logs import ServerLogs
from opam_ci.clients.index import Index
from opam_ci.clients.logs.writer import LogWriter
from opam_ci.clients.remote.server import Server
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause, Errored, Evidence, Failed, FailureReason, Passed
from opam_ci.core.jobs.records import JobRecord, RevisionRecord, RowBatch, log_key
from opam_ci.core.jobs.selector import (
    CancelUpdate,
    JobSelector,
    RestartSelector,
    RestartUpdate,
    RestartWhich,
    Taken,
)
from opam_ci.core.jobs.summary import JobState, JobStatus
from tests.support.fakes import written
from tests.support.fakes.ci_server import THREE, CiServer
from tests.support.fakes.command_line import FEDORA, NOW, job, key, output_of, write

FULL = Errored(cause=Cause.DISK_FULL, evidence=Evidence(rule="enospc", worker="w1"))
BROKEN = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="exit-31"))
FINE = Passed(evidence=Evidence(rule="installed"))
OLD = "abcdef0" + "1" * 33


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CiServer]:
    made = CiServer(tmp_path_factory.mktemp("server"))
    write(made.index, key(7, OLD, NOW - timedelta(hours=1)), (job("old.1"), BROKEN))
    write(made.index, key(7), (job("a.1"), FULL), (job("b.1", FEDORA), BROKEN), (job("c.1"), FINE))
    for each in (key(7, OLD, NOW - timedelta(hours=1)), key(7)):
        record = RevisionRecord(key=each, base="b", author="alice", updated_at=NOW, sequence=2)
        made.index.record(RowBatch(key=each, revision=record, rows=(), sequence=2, updated_at=NOW))
    made.write_log("l", b"one\n\x1b[31mtwo\n")
    # Opened here, where it may outlive a test.
    asyncio.run(made.sources.ask(Index.counts))
    yield made
    made.close()


@pytest.fixture(scope="module")
def url(server: CiServer) -> Iterator[str]:
    with server.running() as url:
        yield url


@pytest.fixture(autouse=True)
def elsewhere(server: CiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without index and Temporal, and with a token."""
    monkeypatch.setenv("OPAM_CI_HOME", str(tmp_path))
    monkeypatch.setenv("OPAM_CI_TOKEN", "ghp_alice")
    server.workflows.updates.clear()
    server.workflows.answer = THREE


def without_ages(text: str) -> str:
    return re.sub(r"\d+[smh] ago", "ago", text)


def test_jobs_are_listed_as_at_home(
    server: CiServer, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in (
        ["o/r/7", "--is", "errored"],
        ["o/r/7", "--head", "abcdef0", "--json"],
        ["o/r/7", "--count"],
        ["--all-heads", "--package", "a"],
    ):
        found = output_of(capsys, "--server", url, "jobs", *arguments)
        with monkeypatch.context() as patches:
            patches.setenv("OPAM_CI_INDEX", server.index_url)
            home = output_of(capsys, "jobs", *arguments)
        assert without_ages(found) == without_ages(home)
        assert found.strip()


def test_a_status_is_shown_without_temporal(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPAM_CI_SERVER", url)
    text = output_of(capsys, "status", "o/r/7")
    assert "a.1 build" in text
    assert "errored(disk_full)" in text
    old = output_of(capsys, "status", "o/r/7", "--head", OLD[:7])
    assert "old.1 build" in old
    assert "a.1" not in old
    whole = json.loads(output_of(capsys, "status", "o/r/7", "--json"))
    assert whole["counts"] | {"passed": 1, "failed": 1, "errored": 1} == whole["counts"]
    assert output_of(capsys, "status").startswith("o/r/7\tpending\t\t000000000000\topen\t")


def test_an_older_head_is_shown_from_the_index_too(
    server: CiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPAM_CI_INDEX", server.index_url)
    assert "old.1 build" in output_of(capsys, "status", "o/r/7", "--head", OLD[:7])


def test_a_log_is_printed_without_index_and_store(
    url: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPAM_CI_SERVER", url)
    assert run(["log", "o/r/7", "a.1"]) == 0
    assert capfd.readouterr().out == "one\n\x1b[31mtwo\n"
    assert run(["log", "o/r/7", "old.1", "--head", OLD[:7], "-f", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"text": "one\n\x1b[31mtwo\n"}
    assert run(["log", "o/r/7", "a.1", "--attempt", "2"]) == 2
    assert "has no attempt 2; there are attempts: 1 of round 1" in capfd.readouterr().err


async def test_a_log_is_followed_to_its_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opam_ci.cli.author.log._POLL_INTERVAL", timedelta(seconds=0.05))
    made = await to_thread(CiServer, tmp_path)
    status = JobStatus(job=job("a.1"), state=JobState.RUNNING, attempt=1, attempt_started_at=NOW)
    record = JobRecord(revision=key(7), status=status, updated_at=NOW)
    await to_thread(written.write, made.index, record)
    log = log_key(key(7), job("a.1"), run="r" * 12, round_=1, attempt=1)
    with made.running() as url, Server(url, None) as server:
        logs = ServerLogs(server)
        follow = AttemptLog(server, logs, record).follow(as_json=False)
        async with asyncio.timeout(30), LogWriter(made.store, log) as writer:
            writer.write(b"building\n" * 40_000)  # more than a segment: it is stored at once
            following = asyncio.create_task(follow)
            output = ""
            while "building" not in output:
                await asyncio.sleep(0.05)
                output += capfd.readouterr().out
            writer.write(b"almost\ndone")
        await asyncio.wait_for(following, 30)
        await logs.close()
    output += capfd.readouterr().out
    assert output == "building\n" * 40_000 + "almost\ndone"
    await to_thread(made.close)


def test_a_restart_is_the_servers_with_the_same_words(
    server: CiServer, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = output_of(capsys, "--server", url, "restart", "o/r/7", "--failed", "--dry-run")
    assert text.splitlines()[0] == "3 jobs of o/r/7 would be restarted"
    selector = RestartSelector.model_validate({"which": "failed", "origin": "author"})
    wanted = RestartUpdate(selector=selector, preview=True)
    assert selector.which is RestartWhich.FAILED
    assert server.workflows.updates == [("pr/o/r/7", wanted)]
    line = json.loads(output_of(capsys, "--server", url, "restart", "o/r/7", "--json"))
    assert (line["jobs"], line["pending"], line["error"]) == (3, False, None)


def test_a_cancel_is_the_servers(
    server: CiServer, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = output_of(capsys, "--server", url, "cancel", "o/r/7", "--package", "a")
    assert text.splitlines()[0] == "3 jobs of o/r/7 are cancelled"
    wanted = CancelUpdate(selector=JobSelector(package="a"))
    assert server.workflows.updates == [("pr/o/r/7", wanted)]


def test_a_restart_that_is_accepted_for_later_says_so(
    server: CiServer, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.workflows.answer = None
    assert "do not repeat it" in output_of(capsys, "--server", url, "restart", "o/r/7")


@pytest.mark.parametrize(
    ("answer", "code", "error"),
    [
        (Taken(refusal="no job matches"), 2, "opam-ci: no job matches\n"),
        (UsageError("pr/o/r/7 has ended"), 2, "opam-ci: pr/o/r/7 has ended\n"),
        (
            InfrastructureError("x", cause=Cause.UNKNOWN),
            3,
            "opam-ci: internal CI error (unknown): {url}: unavailable at the moment (unknown): "  # noqa: ISC004
            "repeat the request in 10 s\n",
        ),
    ],
)  # fmt: skip
def test_what_the_server_cannot_do_is_said(  # noqa: PLR0913, PLR0917 - what happens, what is said
    server: CiServer,
    url: str,
    capsys: pytest.CaptureFixture[str],
    answer: Taken | UsageError | InfrastructureError,
    code: int,
    error: str,
) -> None:
    server.workflows.answer = answer
    found = output_of(capsys, "--server", url, "restart", "o/r/7", code=code)
    assert found == error.format(url=url)


@pytest.mark.parametrize(
    ("token", "arguments", "error"),
    [
        ("", ["restart", "o/r/7"], "no token: set OPAM_CI_TOKEN"),
        ("ghp_mallory", ["restart", "o/r/7"], "mallory may not do that"),
        ("ghp_nobody", ["cancel", "o/r/7"], "GitHub does not know the token"),
        ("ghp_alice", ["restart", "o/r/heads/b"], "is not a pull request on GitHub"),
        ("ghp_alice", ["restart", "--cause", "dns"], "give a pull request"),
        ("ghp_alice", ["restart", "o/r/7", "--temporal", "x:1"], "exclude each other"),
        ("ghp_alice", ["status", "o/r/8"], "no test of o/r/8 in the index (yet)"),
        ("ghp_alice", ["status", "o/r/7", "--head", "1234567"], "no tested heads of o/r/7 begin"),
        ("ghp_alice", ["workers"], "--server is for these commands alone"),
    ],
)
def test_bad_input_gets_a_sentence(  # noqa: PLR0913, PLR0917 - what is sent, and what comes back
    url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    arguments: list[str],
    error: str,
) -> None:
    if token:
        monkeypatch.setenv("OPAM_CI_TOKEN", token)
    else:
        monkeypatch.delenv("OPAM_CI_TOKEN")
    assert error in output_of(capsys, "--server", url, *arguments, code=2)


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("ci.example.org", "not the URL of a server: 'ci.example.org'"),
        ("https://alice:secret@ci.example.org", "a server's URL has no user name or password"),
        ("http://127.0.0.1:1", "no opam-ci server responds at http://127.0.0.1:1 (ConnectError)"),
        ("{url}/static", "{url}/static has no API of this opam-ci's version (status 404)"),
    ],
)
def test_an_address_that_is_not_a_servers_is_refused(
    url: str, capsys: pytest.CaptureFixture[str], address: str, error: str
) -> None:
    found = output_of(capsys, "--server", address.format(url=url), "jobs", "o/r/7", code=2)
    assert error.format(url=url) in found


def test_a_token_is_not_sent_where_others_can_read_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = output_of(capsys, "--server", "http://ci.example.org", "restart", "o/r/7", code=2)
    assert "is not https: others could read the token" in found
