"""The client with a fake GitHub: requests, faults, refusals."""

import asyncio
import json
import logging
import os
import time
from datetime import timedelta

import httpx
import pytest
from pydantic import SecretStr

from opam_ci.clients.github.api import GitHub
from opam_ci.clients.github.auth import AppCredentials, TokenCredentials
from opam_ci.clients.github.errors import GitHubRefusedError
from opam_ci.core.errors import UsageError
from opam_ci.core.github.checks import BUTTON_ERRORS, Annotation, CheckOutput, CheckRun
from opam_ci.core.github.status import Status
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.summary import State
from tests.support.fakes.github import FakeGitHub, InjectedFault, private_pem
from tests.support.fakes.github_api import TOO_MANY_STATUSES
from tests.support.fakes.github_wire import Wire, connect

HEAD = "1" * 40
STATUS = Status(context="opam-ci", sha=HEAD, state=State.PENDING, description="1/2 done")


@pytest.fixture
def fake() -> FakeGitHub:
    return FakeGitHub(commits={HEAD})


def tokens_made(fake: FakeGitHub) -> int:
    return sum("access_tokens" in path for _, path, _ in fake.requests)


async def test_status_arrives_as_it_is(fake: FakeGitHub) -> None:
    async with connect(fake) as github:
        await github.create_status(STATUS)
    assert fake.last_status(HEAD) == ("pending", "1/2 done")


async def test_one_token_serves_all_until_shortly_before_it_expires(fake: FakeGitHub) -> None:
    async with connect(fake) as github:
        await asyncio.gather(*(github.create_status(STATUS) for _ in range(20)))
        fake.advance(minutes=54)
        await github.create_status(STATUS)
        assert tokens_made(fake) == 1
        fake.advance(minutes=2)
        await github.create_status(STATUS)
    assert tokens_made(fake) == 2
    assert {code for _, _, code in fake.requests} == {200, 201}


async def test_token_that_ends_early_is_renewed_once(fake: FakeGitHub) -> None:
    async with connect(fake) as github:
        await github.create_status(STATUS)
        fake.tokens.clear()
        await github.create_status(STATUS)
    assert tokens_made(fake) == 2
    assert len(fake.statuses[HEAD, "opam-ci"]) == 2


async def test_wrong_app_is_trouble_of_ours_and_refuses_nothing(fake: FakeGitHub) -> None:
    stranger = AppCredentials(fake.app_id + 1, private_pem())
    async with GitHub(fake.full_name, stranger, transport=Wire(fake), clock=fake.clock) as github:
        with pytest.raises(InfrastructureError, match="install it there") as caught:
            await github.create_status(STATUS)
    assert caught.value.cause is Cause.GITHUB


async def test_uninstalled_app_is_no_final_answer(fake: FakeGitHub) -> None:
    fake.installed = False
    async with connect(fake) as github:
        with pytest.raises(InfrastructureError, match="install it there"):
            await github.create_status(STATUS)
        fake.installed = True
        await github.create_status(STATUS)


async def test_plain_token_works_and_has_no_app(fake: FakeGitHub) -> None:
    token = TokenCredentials(SecretStr(fake.plain_token))
    async with GitHub(fake.full_name, token, transport=Wire(fake), clock=fake.clock) as github:
        await github.create_status(STATUS)
        with pytest.raises(UsageError, match="needs a GitHub App"):
            await github.redeliver(1)


async def test_wrong_plain_token_is_asked_once_and_said_so(fake: FakeGitHub) -> None:
    token = TokenCredentials(SecretStr("ghp_wrong"))
    async with GitHub(fake.full_name, token, transport=Wire(fake), clock=fake.clock) as github:
        with pytest.raises(InfrastructureError, match="rejects our credentials"):
            await github.create_status(STATUS)
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    "pem", [b"", b"no key", private_pem()[:200]], ids=["none", "words", "half"]
)
def test_unreadable_key_is_one_clear_line(pem: bytes) -> None:
    with pytest.raises(UsageError, match=r"give the \.pem file") as caught:
        AppCredentials(1, pem)
    assert "PRIVATE KEY" not in str(caught.value)


async def test_no_secret_is_shown_or_logged(
    fake: FakeGitHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    credentials = AppCredentials(fake.app_id, private_pem())
    shown = ""
    async with GitHub(
        fake.full_name, credentials, transport=Wire(fake), clock=fake.clock
    ) as github:
        await github.create_status(STATUS)
        for status in (0, 401, 404, 503):
            fake.troubles = [InjectedFault("/statuses/", status, times=2)]
            with pytest.raises((InfrastructureError, GitHubRefusedError)) as caught:
                await github.create_status(STATUS)
            shown += f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
        shown += f"{credentials!r} {vars(credentials)} {github!r} {vars(github)}"
    shown += repr(TokenCredentials(SecretStr("ghp_plain"))) + caplog.text
    assert "ghs_" not in shown
    assert "ghp_" not in shown
    assert "Bearer" not in shown
    assert "PRIVATE" not in shown
    assert "eyJ" not in shown


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "7"}, 7),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1772366520"}, 120),
        ({}, 60),
    ],
)
@pytest.mark.parametrize("code", [403, 429])
async def test_limit_says_when_to_come_back_and_nothing_is_sent_before(
    fake: FakeGitHub, code: int, headers: dict[str, str], wait: int
) -> None:
    words = b'{"message": "You have exceeded a secondary rate limit"}'
    fake.troubles = [InjectedFault("/statuses/", code, headers, words)]
    async with connect(fake) as github:
        with pytest.raises(InfrastructureError) as caught:
            await github.create_status(STATUS)
        assert caught.value.retry_after == timedelta(seconds=wait)
        sent = len(fake.requests)
        fake.advance(seconds=wait - 1)
        with pytest.raises(InfrastructureError, match="nothing is sent before") as early:
            await github.create_status(STATUS)
        assert early.value.retry_after == timedelta(seconds=1)
        assert len(fake.requests) == sent
        fake.advance(seconds=1)
        await github.create_status(STATUS)


async def test_real_limits_of_the_fake_are_recovered_from(fake: FakeGitHub) -> None:
    async with connect(fake) as github:
        for _ in range(80):
            await github.create_status(STATUS)
        with pytest.raises(InfrastructureError) as caught:
            await github.create_status(STATUS)
        assert caught.value.retry_after == timedelta(seconds=60)
        fake.advance(seconds=60)
        await github.create_status(STATUS)
        fake.remaining = 0
        with pytest.raises(InfrastructureError) as exhausted:
            await github.create_status(STATUS)
        assert exhausted.value.retry_after == fake.reset_at - fake.now


@pytest.mark.parametrize("code", [500, 502, 503, 0])
async def test_github_in_trouble_is_an_infrastructure_fault(fake: FakeGitHub, code: int) -> None:
    fake.troubles = [InjectedFault("/statuses/", code)]
    async with connect(fake) as github:
        with pytest.raises(InfrastructureError) as caught:
            await github.create_status(STATUS)
        assert caught.value.cause is Cause.GITHUB
        await github.create_status(STATUS)


async def test_repeated_after_a_lost_answer_the_end_is_the_same(fake: FakeGitHub) -> None:
    fake.troubles = [InjectedFault("/statuses/", 0, done=True)]
    async with connect(fake) as github:
        with pytest.raises(InfrastructureError):
            await github.create_status(STATUS)
        await github.create_status(STATUS)
    assert fake.last_status(HEAD) == ("pending", "1/2 done")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"id": "x"}'])
async def test_unreadable_answer_is_a_fault_of_github(fake: FakeGitHub, body: bytes) -> None:
    fake.troubles = [InjectedFault("/statuses/", 201, body=body)]
    async with connect(fake) as github:
        with pytest.raises(InfrastructureError, match="invalid response of GitHub"):
            await github.create_status(STATUS)


async def test_unknown_commit_is_refused_and_proves_nothing(fake: FakeGitHub) -> None:
    fake.commits.clear()
    async with connect(fake) as github:
        with pytest.raises(GitHubRefusedError, match="No commit found") as caught:
            await github.create_status(STATUS)
    assert (caught.value.status, caught.value.is_full, caught.value.is_missing) == (
        422,
        False,
        False,
    )


async def test_missing_permission_is_refused_and_is_no_limit(fake: FakeGitHub) -> None:
    words = b'{"message": "Resource not accessible by integration"}'
    fake.troubles = [InjectedFault("/statuses/", 403, {"x-ratelimit-remaining": "4999"}, words)]
    async with connect(fake) as github:
        with pytest.raises(GitHubRefusedError, match="not accessible") as caught:
            await github.create_status(STATUS)
        assert caught.value.status == 403
        await github.create_status(STATUS)


async def test_status_one_thousand_and_one_is_refused(fake: FakeGitHub) -> None:
    async with connect(fake) as github:
        await github.create_status(STATUS)
        fake.statuses[HEAD, "opam-ci"] *= 1000
        with pytest.raises(GitHubRefusedError, match="Validation Failed") as caught:
            await github.create_status(STATUS)
    assert caught.value.is_full


@pytest.mark.parametrize(
    ("code", "body", "is_full"),
    [
        (422, {"errors": [{"message": f"{TOO_MANY_STATUSES}", "code": "custom"}]}, True),
        (422, {"errors": "Validation failed: something else"}, False),
        (422, {"message": TOO_MANY_STATUSES}, False),
        (403, {"errors": TOO_MANY_STATUSES}, False),
        (422, {}, False),
    ],
)
async def test_the_proof_is_github_s_own_error(
    fake: FakeGitHub, code: int, body: dict[str, object], is_full: bool
) -> None:
    fake.troubles = [InjectedFault("/statuses/", code, body=json.dumps(body).encode())]
    async with connect(fake) as github:
        with pytest.raises(GitHubRefusedError) as caught:
            await github.create_status(STATUS)
    assert caught.value.is_full is is_full


async def test_moved_repository_is_followed_for_reading_only(fake: FakeGitHub) -> None:
    away = {"location": "https://api.github.com/repositories/1"}
    fake.troubles = [InjectedFault("/statuses/", 307, away)]
    async with connect(fake) as github:
        with pytest.raises(GitHubRefusedError) as caught:
            await github.create_status(STATUS)
    assert caught.value.status == 307


async def test_all_pages_are_read_and_unchanged_ones_cost_nothing(fake: FakeGitHub) -> None:
    for number in range(1, 26):
        await fake.open(number, f"{number:040x}")
    await fake.open(99, "9" * 40, base_ref="other")
    await fake.open(100, "8" * 40, fork_deleted=True, title="\x00\x1b[31m\ud83d\ude00")
    await fake.close(3)
    fake.page_size = 10
    async with connect(fake) as github:
        first = await github.open_pull_requests("master")
        left = fake.remaining
        second = await github.open_pull_requests("master")
        assert fake.remaining == left
        await fake.push(7, "7" * 40)
        third = await github.open_pull_requests("master")
        assert fake.remaining == left - 1
    assert [pull.number for pull in first] == [n for n in range(1, 26) if n != 3] + [100]
    assert second == first
    assert {pull.head.sha for pull in third} - {pull.head.sha for pull in first} == {"7" * 40}


async def test_list_that_goes_on_elsewhere_is_not_followed(fake: FakeGitHub) -> None:
    link = {"link": '<https://evil.example/repos?page=2>; rel="next"'}
    fake.troubles = [InjectedFault("/pulls", 200, link, b"[]")]
    async with connect(fake) as github:
        with pytest.raises(InfrastructureError, match=r"another host: evil\.example"):
            await github.open_pull_requests("master")


async def test_pull_request_says_how_it_ended(fake: FakeGitHub) -> None:
    await fake.open(1, HEAD)
    await fake.close(1, merged=True)
    async with connect(fake) as github:
        pull = await github.pull_request(1)
        assert (pull.state, pull.merged, pull.head.sha) == ("closed", True, HEAD)
        with pytest.raises(GitHubRefusedError):
            await github.pull_request(2)


async def test_annotations_go_in_portions_and_the_verdict_with_the_last(fake: FakeGitHub) -> None:
    found = tuple(
        Annotation(
            path=f"packages/a/a.{n}/opam",
            start_line=n,
            end_line=n,
            annotation_level="failure",
            message="wrong",
        )
        for n in range(1, 121)
    )
    run = CheckRun(
        name="opam-ci / lint",
        head_sha=HEAD,
        external_id="pr/ocaml/opam-repository/1",
        conclusion="failure",
        output=CheckOutput(title="120 findings", summary="…", annotations=found),
        actions=(BUTTON_ERRORS,),
    )
    async with connect(fake) as github:
        made = await github.create_check_run(run)
        assert len(fake.runs[made].annotations) == 120
        assert fake.runs[made].wanted["conclusion"] == "failure"
        assert [c for m, p, c in fake.requests if "check-runs" in p] == [201, 200, 200]


async def test_run_under_way_is_updated(fake: FakeGitHub) -> None:
    run = CheckRun(name="opam-ci", head_sha=HEAD, external_id="x", status="in_progress")
    async with connect(fake) as github:
        made = await github.create_check_run(run)
        done = run.model_copy(update={"status": None, "conclusion": "success"})
        await github.update_check_run(made, done)
    assert fake.runs[made].wanted["conclusion"] == "success"


@pytest.mark.parametrize(
    ("role", "may"),
    [("admin", 1), ("maintain", 1), ("write", 1), ("triage", 1), ("read", 0), ("none", 0)],
)
async def test_who_may_command(fake: FakeGitHub, role: str, may: int) -> None:
    fake.roles = {"bob": role}
    async with connect(fake) as github:
        assert await github.may_command("bob") is bool(may)


async def test_deliveries_are_listed_as_far_back_as_asked(fake: FakeGitHub) -> None:
    fake.page_size = 5
    begin = fake.now
    for number in range(1, 31):
        await fake.open(number, f"{number:040x}")
        fake.advance(minutes=1)
    async with connect(fake) as github:
        every = await github.deliveries(begin - timedelta(days=1))
        recent = await github.deliveries(fake.now - timedelta(minutes=7))
    assert len(every) == 30
    assert len(recent) == 10


@pytest.mark.skipif(os.name != "posix", reason="names of time zones are set as on POSIX")
async def test_the_clock_of_the_machine_does_not_matter_for_waits(
    fake: FakeGitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1772366520"}
    headers["date"] = "Sun, 01 Mar 2026 12:01:00 GMT"
    fake.troubles = [InjectedFault("/statuses/", 403, headers)]
    async with connect(fake) as github:
        with pytest.raises(InfrastructureError) as caught:
            await github.create_status(STATUS)
    assert caught.value.retry_after == timedelta(seconds=60)


async def test_request_without_end_is_ended(fake: FakeGitHub) -> None:
    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await asyncio.sleep(60)
            raise AssertionError(request)

    token = TokenCredentials(SecretStr(fake.plain_token))
    limit = timedelta(seconds=0.05)
    async with GitHub(
        fake.full_name, token, transport=Silent(), clock=fake.clock, total_timeout=limit
    ) as github:
        with pytest.raises(InfrastructureError, match="not reachable"):
            await github.create_status(STATUS)
