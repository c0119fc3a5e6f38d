"""Whether anybody listens: asked once for many, and answered however slow the answer is."""

import asyncio
from datetime import timedelta
from typing import Any, cast

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from opam_ci.activities import result_buffer as outlast


class SlowService:
    """A Temporal that takes its time to say that it is there, or that it is not."""

    def __init__(self, latency: float, away: int = 0) -> None:
        self.asked = 0
        self.service_client = self
        self._latency = latency
        self._away = away

    async def check_health(self, **_options: Any) -> bool:
        self.asked += 1
        await asyncio.sleep(self._latency)
        if self.asked <= self._away:
            raise RPCError("connection refused", RPCStatusCode.UNAVAILABLE, b"")
        return True


def client(service: SlowService) -> Client:
    return cast("Client", service)


@pytest.mark.parametrize("latency", [0.0, 0.3])
async def test_many_that_end_together_ask_once(latency: float) -> None:
    interceptor, service = outlast.ResultBuffer(), SlowService(latency)
    async with asyncio.timeout(5):
        await asyncio.gather(*(interceptor.wait(client(service)) for _ in range(100)))
    assert service.asked == 1
    await asyncio.sleep(outlast._FRESH.total_seconds() + 0.05)
    await interceptor.wait(client(service))
    assert service.asked == 2


async def test_who_is_cancelled_does_not_take_the_others_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outlast, "_PAUSE", timedelta(seconds=0.05))
    interceptor, service = outlast.ResultBuffer(), SlowService(0.05, away=3)
    first = asyncio.create_task(interceptor.wait(client(service)))
    second = asyncio.create_task(interceptor.wait(client(service)))
    await asyncio.sleep(0.02)
    first.cancel()
    async with asyncio.timeout(5):
        await second
    assert first.cancelled()
    assert service.asked == 4
