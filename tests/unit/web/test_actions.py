"""Restarts, cancels and reports of wrong verdicts over HTTP: who may, and what becomes of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause, Errored, Evidence
from opam_ci.core.jobs.records import RevisionRecord, RowBatch
from opam_ci.core.jobs.selector import (
    CancelUpdate,
    JobSelector,
    RestartOrigin,
    RestartSelector,
    RestartUpdate,
    RestartWhich,
    Taken,
)
from opam_ci.web.actions import ROLES_A_MINUTE_EACH
from opam_ci.web.addresses import job_name
from opam_ci.web.operation import PREFIX
from tests.support.fakes.ci_server import NOON, CiServer
from tests.support.fakes.command_line import DEBIAN, NOW, job, key, write

FULL = Errored(cause=Cause.DISK_FULL, evidence=Evidence(rule="enospc", worker="w1"))
RESTART = f"{PREFIX}/o/r/pull/7/restart"
CANCEL = f"{PREFIX}/o/r/pull/7/cancel"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CiServer]:
    """A server with a pull request of alice's."""
    made = CiServer(tmp_path)
    write(made.index, key(7), (job("a.1"), FULL))
    record = RevisionRecord(key=key(7), base="b", author="alice", updated_at=NOW, sequence=2)
    made.index.record(RowBatch(key=key(7), revision=record, rows=(), sequence=2, updated_at=NOW))
    yield made
    made.close()


@pytest.fixture
def client(server: CiServer) -> Iterator[httpx.Client]:
    with server.running() as url, httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        yield client


def by(login: str) -> dict[str, str]:
    return {"authorization": f"Bearer ghp_{login}"}


def audit(server: CiServer) -> list[tuple[str, str, str, int]]:
    return [(each.login, each.role, each.action, each.taken) for each in server.index.audit().items]


def test_a_maintainer_restarts_with_the_words_of_the_command_line(
    server: CiServer, client: httpx.Client
) -> None:
    body = {"which": "failed", "platform": "p", "head": "abcdef0"}
    response = client.post(RESTART, json=body, headers=by("triager"))
    assert response.status_code == 200
    found = response.json()
    assert found["taken"]["jobs"] == 3
    assert found["lines"] == [
        "3 jobs of o/r/7 are restarted",
        "  build p a.1",
        "  build p b.1",
        "  build p c.1",
    ]
    selector = RestartSelector(which=RestartWhich.FAILED, platform="p", head="abcdef0")
    assert server.workflows.updates == [("pr/o/r/7", RestartUpdate(selector=selector))]
    (entry,) = server.index.audit().items
    assert (entry.login, entry.role, entry.action, entry.target, entry.taken, entry.at) == (
        *("triager", "triage", "restart", "pull/7", 3),
        NOON,
    )
    assert json.loads(entry.detail) == {"which": "failed", "platform": "p", "head": "abcdef0"}


def test_a_preview_changes_nothing(server: CiServer, client: httpx.Client) -> None:
    response = client.post(RESTART, json={"preview": True}, headers=by("maintainer"))
    assert response.json()["lines"][0] == "3 jobs of o/r/7 would be restarted"
    assert server.workflows.updates == [("pr/o/r/7", RestartUpdate(preview=True))]
    assert audit(server) == []


def test_an_author_is_restarted_within_the_limit_of_authors(
    server: CiServer, client: httpx.Client
) -> None:
    assert client.post(RESTART, json={}, headers=by("alice")).status_code == 200
    (_, update) = server.workflows.updates[0]
    assert isinstance(update, RestartUpdate)
    assert update.selector.origin is RestartOrigin.AUTHOR
    assert audit(server) == [("alice", "author", "restart", 3)]
    server.workflows.answer = Taken(refusal="an author may restart jobs 10 times an hour")
    response = client.post(RESTART, json={}, headers=by("alice"))
    assert response.status_code == 409
    assert response.json()["detail"] == "an author may restart jobs 10 times an hour"
    assert len(audit(server)) == 1


def test_nobody_chooses_as_whom_jobs_are_restarted(server: CiServer, client: httpx.Client) -> None:
    response = client.post(RESTART, json={"origin": "person"}, headers=by("alice"))
    assert response.status_code == 422
    assert server.workflows.updates == []


def test_a_cancel_is_narrowed_like_a_restart(server: CiServer, client: httpx.Client) -> None:
    response = client.post(CANCEL, json={"kind": "test"}, headers=by("alice"))
    assert response.json()["lines"][0] == "3 jobs of o/r/7 are cancelled"
    selector = JobSelector.model_validate({"kind": "test"})
    assert server.workflows.updates == [("pr/o/r/7", CancelUpdate(selector=selector))]
    assert audit(server) == [("alice", "author", "cancel", 3)]


@pytest.mark.parametrize("path", [RESTART, CANCEL])
def test_somebody_without_rights_does_nothing(
    server: CiServer, client: httpx.Client, path: str
) -> None:
    response = client.post(path, json={}, headers=by("mallory"))
    assert response.status_code == 403
    assert response.json()["detail"] == (
        "mallory may not do that: it takes triage rights in o/r, or to be the author of the pull "
        "request"
    )
    assert (server.workflows.updates, audit(server)) == ([], [])


def test_a_role_that_is_taken_away_counts_at_once(server: CiServer, client: httpx.Client) -> None:
    assert client.post(RESTART, json={}, headers=by("maintainer")).status_code == 200
    server.github.roles["maintainer"] = "read"
    assert client.post(RESTART, json={}, headers=by("maintainer")).status_code == 403


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "detail"),
    [
        (RESTART, {}, "{}", 401, "sign in, or send a personal access token"),
        (RESTART, by("nobody"), "{}", 401, "GitHub does not know the token"),
        (RESTART, {"authorization": "Bearer gho_alice"}, "{}", 401, "not a personal access token"),
        (RESTART, {"cookie": "opam-ci=forged"}, "{}", 401, "the session is not valid"),
        (RESTART, by("alice"), "", 422, "value: Invalid JSON"),
        (RESTART, by("alice"), "[]", 422, "value: Input should be an object"),
        (RESTART, by("alice"), '{"which": "some"}', 422, "which: Input should be"),
        (RESTART, by("alice"), '{"package": "a\\u0000"}', 422, "a name has control characters"),
        (RESTART, by("alice"), f'{{"package": "{"a" * 301}"}}', 422, "at most 300 characters"),
        (RESTART, by("alice"), " " * (1 << 20) + "{}", 413, "larger than 1 MiB"),
        (RESTART.replace("/7/", "/8/"), by("alice"), "{}", 404, "no test of o/r#8 (yet)"),
        (RESTART.replace("o/r", "o/s"), by("alice"), "{}", 404, "this CI acts on o/r alone"),
    ],
)
def test_bad_requests_get_a_sentence(  # noqa: PLR0913, PLR0917 - what is sent, and what comes back
    server: CiServer,
    client: httpx.Client,
    path: str,
    headers: dict[str, str],
    body: str,
    status: int,
    detail: str,
) -> None:
    sent = {"content-type": "application/json", **headers}
    response = client.post(path, content=body, headers=sent)
    assert (response.status_code, detail in response.json()["detail"]) == (status, True)
    assert server.workflows.updates == []


def test_a_form_of_another_site_cannot_send_json(client: httpx.Client) -> None:
    sent = {"content-type": "text/plain", **by("alice")}
    assert client.post(RESTART, content="{}", headers=sent).status_code == 415


@pytest.mark.parametrize(
    ("answer", "preview", "status", "detail"),
    [
        (UsageError("pr/o/r/7 has ended"), False, 409, "pr/o/r/7 has ended"),
        (
            InfrastructureError("no worker at 10.0.0.1", cause=Cause.UNKNOWN), False, 503,
            "unavailable at the moment (unknown): repeat the request in 10 s",
        ),
        (None, True, 503, "unavailable at the moment (storage): repeat the request in 10 s"),
    ],
)  # fmt: skip
def test_what_the_workflow_cannot_do_is_said(  # noqa: PLR0913, PLR0917 - what happens, what is said
    server: CiServer, client: httpx.Client, answer: Any, preview: bool, status: int, detail: str
) -> None:
    server.workflows.answer = answer
    response = client.post(RESTART, json={"preview": preview}, headers=by("alice"))
    assert (response.status_code, response.json()["detail"]) == (status, detail)
    assert audit(server) == []


def test_an_update_that_is_accepted_for_later_is_not_to_be_repeated(
    server: CiServer, client: httpx.Client
) -> None:
    server.workflows.answer = None
    response = client.post(RESTART, json={}, headers=by("alice"))
    assert response.status_code == 202
    assert "do not repeat it" in response.json()["lines"][0]
    assert audit(server) == [("alice", "author", "restart", 0)]


def sign_in(server: CiServer, client: httpx.Client, login: str) -> str:
    """Signs a browser in, and returns what its forms must bring back."""
    session = server.sign_in.new_session(login)
    client.cookies.set(server.sign_in.cookie, server.sign_in.cookie_of(session))
    return server.sign_in.form_token(session)


def test_a_browser_restarts_by_a_page_of_ours_alone(server: CiServer, client: httpx.Client) -> None:
    token = sign_in(server, client, "maintainer")
    assert client.post(RESTART, json={}).status_code == 403
    cross = {"x-csrf-token": token, "sec-fetch-site": "cross-site"}
    response = client.post(RESTART, json={}, headers=cross)
    assert response.status_code == 403
    assert response.json()["detail"] == "the request came from another site: nothing was done"
    assert server.workflows.updates == []
    assert client.post(RESTART, json={}, headers={"x-csrf-token": token}).status_code == 200
    assert audit(server) == [("maintainer", "maintain", "restart", 3)]


def test_one_account_cannot_use_up_the_limit_of_github(
    server: CiServer, client: httpx.Client
) -> None:
    codes = [
        client.post(RESTART, json={}, headers=by("mallory")).status_code
        for _ in range(ROLES_A_MINUTE_EACH + 1)
    ]
    assert codes == [403] * ROLES_A_MINUTE_EACH + [429]
    assert client.post(RESTART, json={}, headers=by("maintainer")).status_code == 200
    assert len(server.workflows.updates) == 1


WRONG = f"{PREFIX}/o/r/commit/{7:040x}/job/{job_name(f'build {DEBIAN} a.1')}/wrong-verdict"


def test_a_maintainer_reports_a_wrong_verdict(server: CiServer, client: httpx.Client) -> None:
    server.write_log("l", b"one\n")
    body = {"expected": "failed(test)", "comment": "it is ours", "attempt": 1}
    found = client.post(WRONG, json=body, headers=by("triager")).json()
    assert (found["expected"], found["log_key"]) == ("failed(test)", "wrong-verdicts/l")
    assert [each.expected for each in server.index.wrong_verdicts().items] == ["failed(test)"]
    assert audit(server) == [("triager", "triage", "wrong-verdict", 1)]


@pytest.mark.parametrize(
    ("login", "body", "status", "detail"),
    [
        ("alice", {"expected": "passed"}, 403, "it takes triage rights in o/r"),
        ("triager", {"expected": "good"}, 422, "not a verdict; one of: passed, failed(build)"),
        ("triager", {"expected": "errored(disk_full)"}, 409, "the verdict is errored(disk_full)"),
        ("triager", {"expected": "passed", "attempt": 9}, 404, "no such attempt of"),
    ],
)
def test_reports_that_do_not_count(  # noqa: PLR0913, PLR0917 - what is sent, what comes back
    server: CiServer,
    client: httpx.Client,
    login: str,
    body: dict[str, Any],
    status: int,
    detail: str,
) -> None:
    response = client.post(WRONG, json=body, headers=by(login))
    assert (response.status_code, detail in response.json()["detail"]) == (status, True)
    assert server.index.wrong_verdicts().items == ()
