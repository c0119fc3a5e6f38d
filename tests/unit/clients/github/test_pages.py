"""Lists that grow at their end, and limits that meet: what no single request shows."""

import asyncio
from datetime import timedelta

import httpx
import pytest

from opam_ci.core.github.status import Status
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.summary import State
from tests.support.fakes.github import FakeGitHub, InjectedFault
from tests.support.fakes.github_wire import Wire, connect

HEAD = "1" * 40
STATUS = Status(context="opam-ci", sha=HEAD, state=State.PENDING, description="1/2 done")


class Terse(Wire):
    """Says of an unchanged page not even which one follows."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        if answer.status_code == 304:
            answer.headers.pop("link", None)
        return answer


@pytest.mark.parametrize(("wire", "page_size"), [(Wire, 50), (Terse, 100)])
async def test_page_that_comes_after_an_unchanged_one_is_found(
    wire: type[Wire], page_size: int
) -> None:
    fake = FakeGitHub(page_size=page_size)
    for number in range(1, 101):
        await fake.open(number, f"{number:040x}")
    async with connect(fake, wire(fake)) as github:
        assert len(await github.open_pull_requests("master")) == 100
        await fake.open(101, f"{101:040x}")
        for _ in range(2):
            assert len(await github.open_pull_requests("master")) == 101


async def test_of_two_limits_the_longer_one_counts() -> None:
    together = asyncio.Barrier(2)

    class Slow(Wire):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await super().handle_async_request(request)
            if "/statuses/" in request.url.path:
                await together.wait()
            return answer

    fake = FakeGitHub(commits={HEAD})
    # The one that came last is answered first.
    waits = ["60", "1800"]
    fake.troubles = [InjectedFault("/statuses/", 403, {"retry-after": wait}) for wait in waits]
    async with connect(fake, Slow(fake)) as github:
        both = await asyncio.gather(
            *(github.create_status(STATUS) for _ in waits), return_exceptions=True
        )
        assert all("rate limit at POST" in str(each) for each in both)
        with pytest.raises(InfrastructureError) as caught:
            await github.create_status(STATUS)
    assert caught.value.retry_after == timedelta(seconds=1800)
