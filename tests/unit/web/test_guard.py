"""What strangers cost the receiver, on a real socket: connections, time, bytes."""

import asyncio
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from opam_ci.core.github.action import Action, Tracked
from opam_ci.core.github.signature import sign
from opam_ci.web.guard import GuardLimits
from opam_ci.web.server import affordable, receiving
from opam_ci.web.webhook import Webhook
from tests.support.fakes.deliveries import InMemoryDeliveries
from tests.support.fakes.github_examples import NAME, ours

SECRET = b"a secret"
FORGED = f"X-Hub-Signature-256: sha256={'0' * 64}\r\n"
HEAD = f"POST /webhook HTTP/1.1\r\nHost: x\r\n{FORGED}"
SECOND = timedelta(seconds=1)


class Stranger:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: str | bytes) -> None:
        try:
            self._writer.write(data if isinstance(data, bytes) else data.encode())
            await self._writer.drain()
        except ConnectionError:
            pass  # hung up: `answer` tells

    async def answer(self) -> bytes:
        """Returns all that comes until the other side hangs up."""
        found = b""
        try:
            async with asyncio.timeout(20):
                while some := await self._reader.read(1 << 16):
                    found += some
        except ConnectionError:
            pass  # what was sent meanwhile is refused: that takes nothing back
        return found

    async def is_open(self) -> bool:
        try:
            await asyncio.wait_for(self._reader.read(1), 0.05)
        except TimeoutError:
            return True
        except ConnectionError:
            return False
        return False

    def close(self) -> None:
        self._writer.close()


class Receiver:
    """A receiver under guard; what it accepts may be held."""

    def __init__(self) -> None:
        self.accepted: list[Action] = []
        self.going = asyncio.Event()
        self.going.set()
        self.port = 0
        self._strangers: list[Stranger] = []

    async def accept(self, action: Action, _delivery: str) -> None:
        await self.going.wait()
        self.accepted.append(action)

    async def connect(self) -> Stranger:
        made = Stranger(*await asyncio.open_connection("127.0.0.1", self.port))
        self._strangers.append(made)
        return made

    async def deliver(self, guid: str = "guid", *, then: bytes = b"") -> bytes:
        """Delivers something signed; returns the answer."""
        event, body = ours()[0]
        github = await self.connect()
        await github.send(
            f"POST /webhook HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nX-GitHub-Event: {event}\r\n"
            f"X-GitHub-Delivery: {guid}\r\nX-Hub-Signature-256: {sign(SECRET, body)}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        await github.send(body)
        if then:
            await asyncio.sleep(0.2)
            await github.send(then)
        return await github.answer()

    def close(self) -> None:
        for stranger in self._strangers:
            stranger.close()


@asynccontextmanager
async def receiver(limits: GuardLimits | None = None) -> AsyncIterator[Receiver]:
    made = Receiver()
    webhook = Webhook(
        secret=SECRET,
        tracked=Tracked(repository=NAME),
        accept=made.accept,
        deliveries=InMemoryDeliveries(),
    )
    listener = socket.create_server(("127.0.0.1", 0))
    made.port = listener.getsockname()[1]
    async with receiving(webhook, listener, limits):
        try:
            yield made
        finally:
            made.close()


async def test_those_who_say_nothing_make_room() -> None:
    async with receiver(GuardLimits(connections=20)) as world:
        silent = [await world.connect() for _ in range(60)]
        await asyncio.sleep(0.2)
        assert b" 202 " in await world.deliver()
        # Those that came last are left, but for one that GitHub's took the place of.
        assert [await each.is_open() for each in silent] == [False] * 41 + [True] * 19


async def test_a_place_is_kept_while_a_signed_one_is_answered() -> None:
    async with receiver(GuardLimits(connections=3)) as world:
        world.going.clear()
        signed = [asyncio.create_task(world.deliver(f"guid-{number}")) for number in range(3)]
        await asyncio.sleep(0.3)
        # All places are taken by those who have a claim: for once it is the new one that goes.
        assert await (await world.connect()).answer() == b""
        world.going.set()
        assert all(b" 202 " in answer for answer in await asyncio.gather(*signed))


@pytest.mark.parametrize(
    "slow",
    ["POST /webhook HTTP/1.1\r\nX-A: ", f"{HEAD}Content-Length: 10000\r\n\r\n"],
    ids=["head", "body"],
)
async def test_a_request_that_trickles_in_is_ended(slow: str) -> None:
    async with receiver(GuardLimits(request_timeout=SECOND)) as world:
        begun = time.monotonic()
        stranger = await world.connect()
        await stranger.send(slow)
        ending = asyncio.create_task(stranger.answer())
        while not ending.done():
            await stranger.send("a")
            await asyncio.sleep(0.1)
        assert b"408 Request Timeout" in await ending
        assert time.monotonic() - begun < 10


async def test_a_client_that_says_nothing_at_all_is_ended() -> None:
    async with receiver(GuardLimits(request_timeout=SECOND)) as world:
        assert await (await world.connect()).answer() == b""


async def test_bytes_that_are_not_signed_are_bounded() -> None:
    async with receiver(GuardLimits(unread_bytes=1 << 20)) as world:
        large = []
        for _ in range(12):
            stranger = await world.connect()
            await stranger.send(f"{HEAD}Content-Length: 1000000\r\n\r\n")
            await stranger.send(b" " * 250_000)
            large.append(stranger)
        assert b" 202 " in await world.deliver()
        *gone, _, _, _, _ = large
        answers = await asyncio.gather(*(each.answer() for each in gone))
        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in answers)
        assert all(b"retry-after: 10" in answer for answer in answers)
        # What is left can be sent to its end, and is refused for its signature.
        await large[-1].send(b" " * 750_000)
        assert b" 401 " in await large[-1].answer()


async def test_what_was_read_is_forgotten() -> None:
    async with receiver(GuardLimits(unread_bytes=300_000)) as world:
        for _ in range(10):
            stranger = await world.connect()
            await stranger.send(f"{HEAD}Content-Length: 200000\r\n\r\n" + " " * 200_000)
            assert b" 401 " in await stranger.answer()


async def test_chunks_of_a_byte_are_not_even_parsed() -> None:
    async with receiver() as world:
        busiest = 0.0
        stranger = await world.connect()
        await stranger.send(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n" + "1\r\nx\r\n" * 40_000)
        ending = asyncio.create_task(stranger.answer())
        while not ending.done():
            # Processor time, since the machine may be busy: all of it takes 0.12 s.
            begun = time.thread_time()
            await asyncio.sleep(0)
            busiest = max(busiest, time.thread_time() - begun)
        # Some see the line cut instead.
        assert (await ending)[:13] in {b"HTTP/1.1 411 ", b""}
        assert busiest < 0.05


async def test_a_body_that_nobody_reads_ends_the_connection() -> None:
    async with receiver() as world:
        stranger = await world.connect()
        await stranger.send("POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
        assert b" 404 " in await stranger.answer()


async def test_a_request_before_the_last_is_answered_ends_the_connection() -> None:
    async with receiver() as world:
        world.going.clear()
        assert await world.deliver(then=b"GET /healthz HTTP/1.1\r\n") == b""
        world.going.set()
        # The delivery itself goes on: its sender was GitHub.
        while not world.accepted:  # noqa: ASYNC110 - the receiver has no event
            await asyncio.sleep(0.01)


async def test_a_connection_serves_many_requests() -> None:
    async with receiver() as world:
        stranger = await world.connect()
        for _ in range(3):
            await stranger.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.sleep(0.1)
        await stranger.send("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await stranger.answer()).count(b" 200 ") == 4


@pytest.mark.parametrize(
    ("limits", "raised", "connections"),
    [
        ((1024, 1 << 20), (1256, 1 << 20), 1000),
        ((1024, 1024), (1024, 1024), 768),
        ((4096, 4096), (4096, 4096), 1000),
    ],
)
def test_descriptors_are_kept_for_the_process(
    monkeypatch: pytest.MonkeyPatch,
    limits: tuple[int, int],
    raised: tuple[int, int],
    connections: int,
) -> None:
    became: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _which: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _which, those: became.append(those))
    assert affordable(GuardLimits()).connections == connections
    assert became == [raised]
