"""Hosts of sources that have just refused downloads, with a clock of the test's own."""

import asyncio
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from opam_ci.clients.runners.cache import source_hosts as module
from opam_ci.clients.runners.cache.source_hosts import SourceHosts

HOST, OTHER = "example.org:443", "other.example:80"


class Clock:
    """A clock that moves only when somebody waits."""

    def __init__(self) -> None:
        self.at = 1_000_000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def hosts_of(tmp_path: Path, clock: Clock) -> SourceHosts:
    """As another worker of the machine sees them."""
    return SourceHosts(tmp_path / "hosts", now=clock.now, sleep=clock.sleep)


async def ask(hosts: SourceHosts, *names: str) -> list[str]:
    waited: list[str] = []
    async with hosts.turn(names, waited.append):
        pass
    return waited


async def test_a_host_that_refused_is_left_alone_by_all_workers_for_longer_each_time(
    tmp_path: Path, clock: Clock
) -> None:
    one, other = hosts_of(tmp_path, clock), hosts_of(tmp_path, clock)
    assert await ask(one, HOST) == []
    for expected in (2.0, 4.0, 8.0):
        one.refused([HOST], began_at=clock.at)
        assert await ask(other, OTHER) == []
        assert await ask(other, HOST, OTHER) == [HOST]
        assert clock.slept[-1] == expected
    other.answered([HOST, OTHER])
    assert await ask(one, HOST) == []
    one.refused([HOST], began_at=clock.at)
    await ask(other, HOST)
    assert clock.slept[-1] == 2.0


async def test_one_job_at_a_time_asks_a_host_that_refused(tmp_path: Path, clock: Clock) -> None:
    hosts = hosts_of(tmp_path, clock)
    hosts.refused([HOST], began_at=clock.at)
    asking: list[int] = []
    times: list[float] = []

    async def job(number: int) -> None:
        async with hosts.turn([HOST], lambda _: None):
            asking.append(number)
            assert asking == [number]
            times.append(clock.at)
            await asyncio.sleep(0.01)
            hosts.refused([HOST], began_at=clock.at)
            asking.remove(number)

    await asyncio.gather(*map(job, range(4)))
    assert [round(b - a) for a, b in pairwise(times)] == [4, 8, 16]


async def test_hosts_that_answer_are_asked_by_all_at_once(tmp_path: Path, clock: Clock) -> None:
    hosts = hosts_of(tmp_path, clock)
    async with AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(hosts.turn([HOST], lambda _: None))
    assert clock.slept == []


async def test_a_job_asks_in_the_end_whatever_others_do(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    hosts = hosts_of(tmp_path, clock)
    hosts.refused([HOST], began_at=clock.at)
    async with hosts.turn([HOST], lambda _: None):
        await ask(hosts, HOST)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        '{"host":"example.org:443","number":1e99,"last_at":1000000}',
        '{"host":"example.org:443","number":3,"last_at":Infinity}',
        '{"host":"other.example:80","number":3,"last_at":1000000}',
        pytest.param(
            '{"host":"example.org:443","number":3,"last_at":1000000}' + " " * 5000, id="too-long"
        ),
    ],
)
async def test_what_is_torn_or_of_another_host_counts_as_nothing(
    tmp_path: Path, clock: Clock, content: str
) -> None:
    hosts = hosts_of(tmp_path, clock)
    hosts.refused([HOST], began_at=clock.at)
    (path,) = (tmp_path / "hosts").iterdir()
    path.write_text(content)
    assert await ask(hosts, HOST) == []
    hosts.refused([HOST], began_at=clock.at)
    assert await ask(hosts, HOST) == [HOST]


async def test_a_fetch_writes_down_no_more_than_some_hosts_and_they_are_swept(
    tmp_path: Path, clock: Clock
) -> None:
    hosts = hosts_of(tmp_path, clock)
    hosts.refused([f"h{number}.example:80" for number in range(500)], began_at=clock.at)
    assert len(list((tmp_path / "hosts").iterdir())) == 20
    hosts.sweep()
    assert len(list((tmp_path / "hosts").iterdir())) == 20
    clock.at = 1e12
    hosts.sweep()
    assert list((tmp_path / "hosts").iterdir()) == []
