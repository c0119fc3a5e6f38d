"""The receiver: what it lets in, what it answers, what it does once."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from opam_ci.core.github.action import Action, HeadChanged, Tracked
from opam_ci.core.github.signature import sign
from opam_ci.web.webhook import BODY_LIMIT, Webhook, application
from tests.support.fakes.deliveries import InMemoryDeliveries
from tests.support.fakes.github_bodies import Pull, pull_request_whole, repository, user

NAME = "ocaml/opam-repository"
SECRET = b"a secret"
GUID = "72d3162e-cc78-11e3-81ab-4c9367dc0958"


class World:
    """A receiver, and what it handed on."""

    def __init__(self) -> None:
        self.accepted: list[Action] = []
        self.down = False
        self.slow = 0.0
        self.webhook = Webhook(
            secret=SECRET,
            tracked=Tracked(repository=NAME),
            accept=self._accept,
            deliveries=InMemoryDeliveries(),
        )
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=application(self.webhook)), base_url="http://ci"
        )

    async def _accept(self, action: Action, _delivery: str) -> None:
        await asyncio.sleep(self.slow)
        if self.down:
            raise ConnectionError("no Temporal")
        self.accepted.append(action)

    async def post(
        self, body: bytes, *, guid: str = GUID, event: str = "pull_request", **headers: str
    ) -> httpx.Response:
        usual = {
            "content-type": "application/json",
            "x-github-event": event,
            "x-github-delivery": guid,
            "x-hub-signature-256": sign(SECRET, body),
        }
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post("/webhook", content=body, headers=usual | given)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.http.aclose()


def opened(number: int = 7, head: str = "1" * 40, **more: Any) -> bytes:
    pull = Pull(number=number, head=head, base="b" * 40)
    at = datetime(2026, 3, 1, tzinfo=UTC)
    whole = {
        "action": "opened",
        "number": number,
        "pull_request": pull_request_whole(NAME, pull, at),
        "repository": repository(NAME),
        "sender": user("alice"),
    }
    return json.dumps(whole | more).encode()


async def test_delivery_is_accepted(world: World) -> None:
    answer = await world.post(opened())
    assert (answer.status_code, answer.json()["action"]) == (202, "head_changed")
    assert [action.kind for action in world.accepted] == ["head_changed"]


async def test_health_is_answered(world: World) -> None:
    assert (await world.http.get("/healthz")).json() == {"status": "ok"}
    assert (await world.http.get("/webhook")).status_code == 405


async def test_redelivery_of_what_was_accepted_does_nothing(world: World) -> None:
    await world.post(opened())
    again = await world.post(opened())
    assert (again.status_code, again.json()["reason"]) == (200, "accepted before")
    assert len(world.accepted) == 1


async def test_redelivery_of_what_was_not_accepted_is_accepted(world: World) -> None:
    world.down = True
    assert (await world.post(opened())).status_code == 503
    world.down = False
    assert (await world.post(opened())).status_code == 202
    assert len(world.accepted) == 1


async def test_the_same_delivery_twice_at_once_is_accepted_once(world: World) -> None:
    world.slow = 0.02
    answers = await asyncio.gather(*(world.post(opened()) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {202}
    assert len(world.accepted) == 1


async def test_slow_acceptance_is_answered_in_time(world: World) -> None:
    world.webhook.accept_timeout = timedelta(seconds=0.02)
    world.slow = 5
    assert (await world.post(opened())).status_code == 503


async def test_what_cannot_be_remembered_counts_as_not_accepted(world: World) -> None:
    class Full(InMemoryDeliveries):
        async def accept(self, delivery: str) -> None:
            raise OSError(f"no space left for {delivery}")

    world.webhook.deliveries = Full()
    assert (await world.post(opened())).status_code == 503


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "sha256=",
        "sha256=" + "0" * 64,
        "sha1=" + "0" * 40,
        sign(b"another secret", opened()),
        sign(SECRET, opened()).upper(),
        sign(SECRET, opened()) + " x",
        "sha256=ÿ".encode("latin-1").decode("latin-1"),
    ],
)
async def test_forged_signature_is_refused(world: World, signature: str) -> None:
    headers = {"x-hub-signature-256": signature.encode("latin-1")}
    usual = {"x-github-event": "pull_request", "x-github-delivery": GUID}
    answer = await world.http.post(
        "/webhook",
        content=opened(),
        headers=[
            *((name.encode(), value) for name, value in headers.items()),
            *((name.encode(), value.encode()) for name, value in usual.items()),
        ],
    )
    assert answer.status_code == 401
    assert world.accepted == []


async def test_without_a_secret_nothing_is_let_in(world: World) -> None:
    world.webhook.secret = b""
    body = opened()
    assert (await world.post(body, x_hub_signature_256=sign(b"", body))).status_code == 401


async def test_twenty_five_megabytes_are_read_and_one_byte_more_is_not(world: World) -> None:
    body = opened()
    padding = BODY_LIMIT - len(body)
    assert (await world.post(body + b" " * padding)).status_code == 202

    sent = 0

    async def too_much() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 2 * BODY_LIMIT:
            sent += 1 << 20
            yield b" " * (1 << 20)

    headers = {"x-hub-signature-256": "sha256=" + "0" * 64}
    answer = await world.http.post("/webhook", content=too_much(), headers=headers)
    assert answer.status_code == 413
    declared = {**headers, "content-length": str(BODY_LIMIT + 1)}
    answer = await world.http.post("/webhook", content=b"", headers=declared)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"x_github_delivery": ""}, 400),
        ({"x_github_delivery": "../../etc"}, 400),
        ({"x_github_event": ""}, 400),
        ({"x_github_event": "pull request"}, 400),
        ({"x_github_event": "no_such_event"}, 200),
    ],
)
async def test_odd_requests_get_a_clear_answer(
    world: World, headers: dict[str, str], code: int
) -> None:
    answer = await world.post(opened(), **headers)
    assert answer.status_code == code
    assert answer.json()["reason"]
    assert world.accepted == []


async def test_responses_to_ignored_and_unreadable_deliveries_have_a_reason(world: World) -> None:
    ignored = await world.post(opened(action="labeled"))
    assert (ignored.status_code, ignored.json()["action"]) == (200, "ignore")
    unreadable = await world.post(b"{}")
    assert unreadable.status_code == 400
    assert "invalid pull_request payload" in unreadable.json()["reason"]


async def test_secret_is_not_shown(world: World) -> None:
    assert "a secret" not in repr(world.webhook)


async def test_a_thousand_deliveries_with_duplicates_in_any_order(world: World) -> None:
    bodies = {f"guid-{n}": opened(n % 100 + 1, f"{n:040x}") for n in range(1, 801)}
    sent = list(bodies) + list(bodies)[:200]
    sent.sort(key=lambda guid: hash(guid) % 997)
    world.slow = 0.001
    slots = asyncio.Semaphore(50)
    times = []

    async def deliver(guid: str) -> int:
        async with slots:
            begin = time.perf_counter()
            answer = await world.post(bodies[guid], guid=guid)
            times.append(time.perf_counter() - begin)
            return answer.status_code

    codes = await asyncio.gather(*(deliver(guid) for guid in sent))
    assert set(codes) <= {200, 202}
    heads = {action.head for action in world.accepted if isinstance(action, HeadChanged)}
    assert len(world.accepted) == 800
    assert heads == {f"{n:040x}" for n in range(1, 801)}
    # Ten seconds are GitHub's limit; far less is normal even on a busy machine.
    assert max(times) < 10
