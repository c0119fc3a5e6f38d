"""A command that works itself once the workers of others have ended."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from opam_ci.app.settings import Settings
from opam_ci.cli.local import session
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause


async def test_a_moment_without_temporal_does_not_end_the_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[str] = []
    works = asyncio.Event()

    async def has_pollers(_client: Any, queue: str) -> bool:
        looks.append(queue)
        if len(looks) == 1:
            raise InfrastructureError("operation was canceled", cause=Cause.UNKNOWN)
        return len(looks) < 3

    async def served(_client: Any, _queue: str) -> bool:
        return True

    @contextlib.asynccontextmanager
    async def running(settings: Settings, *_: Any, **__: Any) -> AsyncIterator[None]:
        assert settings.orchestrate
        works.set()
        yield

    for name, fake in (("has_pollers", has_pollers), ("served", served), ("running", running)):
        monkeypatch.setattr(session, name, fake)
    monkeypatch.setattr(session, "_STAND_IN_INTERVAL", timedelta(0))
    reports: list[str] = []
    client: Any = None
    task = asyncio.create_task(
        session._stand_in(client, Settings(), frozenset({"p"}), reports.append)
    )
    async with asyncio.timeout(30):
        await works.wait()
    await session._end(task)
    assert len(looks) == 3
    assert len(reports) == 1
