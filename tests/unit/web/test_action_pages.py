"""Buttons: what they would do is shown first, and only a form of ours does it."""

import html
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from opam_ci.core.jobs.outcome import Cause, Errored, Evidence, Skipped, SkipReason
from opam_ci.core.jobs.records import RevisionRecord, RowBatch
from opam_ci.core.jobs.selector import CancelUpdate, JobSelector, RestartUpdate, Taken
from opam_ci.web.addresses import job_name
from opam_ci.web.sign_in import SESSION_LIFE
from tests.support.fakes.ci_server import CiServer
from tests.support.fakes.command_line import DEBIAN, NOW, job, key, write

FULL = Errored(cause=Cause.DISK_FULL, evidence=Evidence(rule="enospc", worker="w1"))
HEAD = f"{7:040x}"
RESTART = "/o/r/pull/7/restart?which=errored"
WRONG = f"/o/r/commit/{HEAD}/job/{job_name(f'build {DEBIAN} a.1')}/wrong-verdict"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CiServer]:
    made = CiServer(tmp_path)
    write(made.index, key(7), (job("a.1"), FULL))
    record = RevisionRecord(key=key(7), base="b", author="alice", updated_at=NOW, sequence=2)
    made.index.record(RowBatch(key=key(7), revision=record, rows=(), sequence=2, updated_at=NOW))
    made.write_log("l", b"one\n")
    yield made
    made.close()


@pytest.fixture
def client(server: CiServer) -> Iterator[httpx.Client]:
    with server.running() as url, httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        yield client


def sign_in(server: CiServer, client: httpx.Client, login: str) -> None:
    session = server.sign_in.new_session(login)
    client.cookies.set(server.sign_in.cookie, server.sign_in.cookie_of(session))


def fields_of(page: str) -> dict[str, str]:
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page)
    return {name: html.unescape(value) for name, value in found}


def heading(page: str) -> str:
    found = re.search(r"<h1>(.*?)</h1>", page, re.DOTALL)
    assert found is not None
    return re.sub(r"<[^>]*>|\s+", " ", found[1]).strip()


def test_a_button_says_first_what_it_will_do(server: CiServer, client: httpx.Client) -> None:
    sign_in(server, client, "alice")
    page = client.get(RESTART)
    assert page.headers["cache-control"] == "no-store"
    assert heading(page.text) == "3 jobs of o/r/7 would be restarted."
    assert "<button>Restart 3 jobs</button> as alice" in page.text
    ((_, preview),) = server.workflows.updates
    assert preview.preview
    fields = fields_of(page.text)
    assert fields["head"] == HEAD
    done = client.post("/o/r/pull/7/restart", data=fields)
    assert heading(done.text) == "3 jobs of o/r/7 are restarted."
    assert "<button>Restart" not in done.text
    (_, update) = server.workflows.updates[1]
    assert isinstance(update, RestartUpdate)
    assert (update.preview, update.selector.head, update.selector.which) == (
        False, HEAD, "errored",
    )  # fmt: skip
    assert [each.login for each in server.index.audit().items] == ["alice"]


def test_pages_lead_to_the_buttons_where_there_are_some(client: httpx.Client) -> None:
    page = client.get("/o/r/pull/7").text
    assert '<a class="errored" href="/o/r/pull/7/restart?which=errored">' in page
    assert "Restart errored jobs (1)…" in page
    assert "/cancel" not in page
    name = job_name(f"build {DEBIAN} a.1")
    page = client.get(f"/o/r/pull/7/job/{name}").text
    (restart,) = re.findall(r'href="(/o/r/pull/7/restart[^"]*)"', page)
    assert client.get(html.unescape(restart)).headers["location"].startswith("/sign-in?")
    (wrong,) = re.findall(r'href="(/[^"]*/wrong-verdict[^"]*)"', page)
    assert wrong == f"{WRONG}?attempt=1-1"


def test_what_was_not_run_can_be_run(server: CiServer, client: httpx.Client) -> None:
    rest = Skipped(reason=SkipReason.STOPPED_EARLY, evidence=Evidence(rule="stopped-early"))
    rows = [(job("a.1", revdep=f"r{number}.1"), rest) for number in range(3)]
    write(server.index, key(8), *rows)
    write(server.index, key(9), rows[0], open_=False)
    page = client.get("/o/r/pull/8").text
    assert re.search(r">3</a> are not run: all before them fail alike", page)
    (link,) = re.findall(r'href="([^"]*)">Run the rest', page)
    listed = client.get("/o/r/pull/8", params={"q": "cause:stopped_early"}).text
    assert listed.count("r1.1 with a.1") >= 1
    sign_in(server, client, "maintainer")
    client.post("/o/r/pull/8/restart", data=fields_of(client.get(link).text))
    update = server.workflows.updates[-1][1]
    assert isinstance(update, RestartUpdate)
    assert (update.selector.which, update.preview) == ("stopped", False)
    # Where nobody can press, the command.
    page = client.get("/o/r/pull/9").text
    assert "1</a> is not run: all before it fail alike." in page
    assert "<code>opam-ci restart --stopped</code>" in page
    assert "Run the rest" not in page


def test_one_job_is_restarted_and_all_are_cancelled(server: CiServer, client: httpx.Client) -> None:
    sign_in(server, client, "maintainer")
    name = f"build {DEBIAN} a.1"
    client.get("/o/r/pull/7/restart", params={"which": "all", "job": job_name(name)})
    page = client.get("/o/r/pull/7/cancel")
    client.post("/o/r/pull/7/cancel", data=fields_of(page.text))
    (_, one), _, (_, cancel) = server.workflows.updates
    assert one.selector.job == name
    assert cancel == CancelUpdate(selector=JobSelector(head=HEAD))


def test_where_nothing_would_be_done_there_is_no_button(
    server: CiServer, client: httpx.Client
) -> None:
    sign_in(server, client, "alice")
    server.workflows.answer = Taken()
    page = client.get(RESTART)
    assert heading(page.text) == "0 jobs of o/r/7 would be restarted."
    assert "<button>Restart" not in page.text


@pytest.mark.parametrize("path", [RESTART, WRONG])
def test_a_stranger_signs_in_first_and_comes_back(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 303
    assert httpx.URL(response.headers["location"]).params["to"] == path
    begun = client.get(response.headers["location"])
    assert begun.status_code == 303
    assert httpx.URL(begun.headers["location"]).host == "github.com"


@pytest.mark.parametrize("change", ["expired", "role", "site", "token", "format", "large"])
def test_a_form_that_does_not_count_does_nothing(
    server: CiServer, client: httpx.Client, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(server, client, "maintainer")
    fields = fields_of(client.get(RESTART).text)
    server.workflows.updates.clear()
    headers = {}
    match change:
        case "expired":
            later = SESSION_LIFE.total_seconds() + NOW.timestamp() + 3600
            monkeypatch.setattr("time.time", lambda: later)
        case "role":
            server.github.roles["maintainer"] = "read"
        case "site":
            headers = {"sec-fetch-site": "cross-site"}
        case "token":
            fields.pop("token")
        case "format":
            headers = {"content-type": "multipart/form-data; boundary=x"}
        case _:
            fields["which"] = "x" * 70_000
    response = client.post("/o/r/pull/7/restart", data=fields, headers=headers)
    status, title = {
        "expired": (401, "Sign in first"),
        "role": (403, "Not allowed"),
        "site": (403, "Not allowed"),
        "token": (403, "Not allowed"),
        "format": (415, "Another format is needed"),
        "large": (413, "Too large"),
    }[change]
    assert (response.status_code, heading(response.text)) == (status, title)
    assert server.workflows.updates == []
    if change == "expired":
        assert 'href="/sign-in?to=%2Fo%2Fr%2Fpull%2F7%2Frestart"' in response.text


def test_a_wrong_verdict_is_kept_with_its_log(server: CiServer, client: httpx.Client) -> None:
    sign_in(server, client, "triager")
    page = client.get(WRONG, params={"attempt": "1-1"})
    assert heading(page.text) == "Is errored(disk_full) wrong?"
    assert "<option>failed(build)</option>" in page.text
    assert "<option>errored(disk_full)</option>" not in page.text
    fields = fields_of(page.text) | {"expected": "failed(build)", "comment": "It's <b>ours</b>"}
    done = client.post(WRONG, data=fields)
    assert heading(done.text) == "Thank you: the log is kept."
    (report,) = server.index.wrong_verdicts().items
    assert (report.login, report.expected, report.comment, report.log_key) == (
        *("triager", "failed(build)", "It's <b>ours</b>"),
        "wrong-verdicts/l",
    )
    again = client.post(WRONG, data=fields | {"expected": "errored(disk_full)"})
    assert (again.status_code, heading(again.text)) == (409, "Nothing was done")
    assert client.post(WRONG, data=fields | {"expected": "good"}).status_code == 400
    assert len(server.index.wrong_verdicts().items) == 1


def test_authors_do_not_judge_their_own_verdicts(server: CiServer, client: httpx.Client) -> None:
    sign_in(server, client, "alice")
    response = client.get(WRONG)
    assert (response.status_code, heading(response.text)) == (403, "Not allowed")
