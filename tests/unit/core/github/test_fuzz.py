"""Hostile deliveries by the ten thousand: no answer is a 5xx, and nothing is started."""

import copy
import json
import logging
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Scope

from opam_ci.core.github.action import Action, Tracked
from opam_ci.core.github.decide import UnreadablePayloadError, decide
from opam_ci.core.github.signature import sign
from opam_ci.web.webhook import Webhook, application
from tests.support.fakes.deliveries import InMemoryDeliveries
from tests.support.fakes.github_examples import examples

SECRET = b"a secret"
NUMBER = 10_000
HOSTILE: list[Any] = [
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    "",
    "\x00\x1b[2J\u202e",
    "../../../etc/passwd",
    "'; DROP TABLE jobs; --",
    "x" * 5000,
    [],
    {},
    [[[[]]]],
    {"id": {"id": {}}},
]
"""What stands where something else should."""


def mutated(body: bytes, chance: random.Random) -> bytes:
    """Returns a payload with some of its bytes or values changed."""
    if chance.random() < 0.7:
        raw = bytearray(body)
        for _ in range(chance.randint(1, 8)):
            at = chance.randrange(len(raw) or 1)
            match chance.randrange(4):
                case 0:
                    raw[at : at + 1] = chance.randbytes(1)
                case 1:
                    del raw[at : at + chance.randint(1, 200)]
                case 2:
                    raw[at:at] = chance.randbytes(3)
                case _:
                    del raw[at + 1 :]
        return bytes(raw)
    payload = json.loads(body)
    for _ in range(chance.randint(1, 4)):
        mutate_value(payload, chance)
    return json.dumps(payload).encode()


def mutate_value(payload: Any, chance: random.Random) -> None:
    """Changes, adds or removes one value somewhere in a payload, more often near its top."""
    while isinstance(payload, dict) and payload:
        key = chance.choice(list(payload))
        inner = payload[key]
        if isinstance(inner, dict) and inner and chance.random() < 0.8:
            payload = inner
            continue
        if chance.random() < 0.3:
            del payload[key]
        else:
            # A copy: a later change of it must not reach the list, or make a circle.
            payload[key] = copy.deepcopy(chance.choice(HOSTILE))
        return


@pytest.fixture(scope="module")
def payloads() -> list[tuple[str, bytes]]:
    folder = Path(__file__).resolve().parents[4] / ".." / "shared" / "github"
    return examples(folder / "webhook-examples.json")


async def send(app: Any, body: bytes, headers: dict[str, str]) -> int:
    """Calls the application as a server would, without the cost of a client."""
    messages: Iterator[Message] = iter([{"type": "http.request", "body": body}])
    codes: list[int] = []

    async def receive() -> Message:
        return next(messages)

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            codes.append(message["status"])

    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": "/webhook",
        "raw_path": b"/webhook",
        "query_string": b"",
        "headers": [(k.encode(), v.encode("latin-1")) for k, v in headers.items()],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("ci", 80),
        "client": None,
    }
    await app(scope, receive, answer)
    return codes[0]


def receiver(accepted: list[Action]) -> Any:
    async def accept(action: Action, _delivery: str) -> None:
        accepted.append(action)

    return application(
        Webhook(
            secret=SECRET,
            tracked=Tracked(repository="Codertocat/Hello-World", app_id=29310),
            accept=accept,
            deliveries=InMemoryDeliveries(),
        )
    )


def headers(event: str, number: int, signature: str | None) -> dict[str, str]:
    plain = {
        "content-type": "application/json",
        "x-github-event": event,
        "x-github-delivery": f"guid-{number}",
    }
    return plain if signature is None else {**plain, "x-hub-signature-256": signature}


async def test_mutated_on_the_way_nothing_gets_in(payloads: list[tuple[str, bytes]]) -> None:
    chance = random.Random(1)  # noqa: S311 - repeatable, not secret
    accepted: list[Action] = []
    app = receiver(accepted)
    codes: Counter[int] = Counter()
    for number in range(NUMBER):
        event, body = chance.choice(payloads)
        changed = mutated(body, chance)
        if changed != body:
            code = await send(app, changed, headers(event, number, sign(SECRET, body)))
            codes[code] += 1
    assert set(codes) == {401}
    assert codes.total() > NUMBER * 0.9
    assert accepted == []


async def test_forged_or_missing_signatures_get_nothing_in(
    payloads: list[tuple[str, bytes]],
) -> None:
    chance = random.Random(2)  # noqa: S311 - repeatable, not secret
    accepted: list[Action] = []
    app = receiver(accepted)
    codes: Counter[int] = Counter()
    for number in range(NUMBER):
        event, body = chance.choice(payloads)
        right = sign(SECRET, body)
        at = chance.randrange(7, len(right))
        wrong = right[:at] + ("0" if right[at] != "0" else "1") + right[at + 1 :]
        forged = chance.choice(
            [
                None,
                "",
                wrong,
                right[:at],
                right.removeprefix("sha256="),
                sign(b"", body),
                sign(b"guess", body),
                "sha256=" + chance.randbytes(40).decode("latin-1"),
            ]
        )
        codes[await send(app, body, headers(event, number, forged))] += 1
    assert set(codes) == {401}
    assert accepted == []


async def test_signed_and_mutated_each_has_its_ending(
    payloads: list[tuple[str, bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    # Ten thousand reasons are not worth keeping.
    caplog.set_level(logging.CRITICAL, "opam_ci.web.webhook")
    chance = random.Random(3)  # noqa: S311 - repeatable, not secret
    accepted: list[Action] = []
    app = receiver(accepted)
    codes: Counter[int] = Counter()
    for number in range(NUMBER):
        event, body = chance.choice(payloads)
        changed = mutated(body, chance)
        codes[await send(app, changed, headers(event, number, sign(SECRET, changed)))] += 1
    # Some mutations change nothing that is read: those payloads are good ones.
    assert set(codes) == {200, 202, 400}
    assert codes[400] > NUMBER * 0.2
    assert codes[202] == len(accepted) > 0


def test_actions_of_mutated_payloads_are_ours_or_none(payloads: list[tuple[str, bytes]]) -> None:
    chance = random.Random(4)  # noqa: S311 - repeatable, not secret
    tracked = Tracked(repository="Codertocat/Hello-World", app_id=29310)
    for _ in range(2000):
        event, body = chance.choice(payloads)
        try:
            action = decide(event, mutated(body, chance), tracked)
        except UnreadablePayloadError:
            continue
        target = getattr(action, "pull_request", None)
        assert target is None or (target.owner, target.repo) == ("Codertocat", "Hello-World")
        assert len(action.model_dump_json()) < 2000


async def test_the_sender_used_here_is_like_a_real_client() -> None:
    accepted: list[Action] = []
    app = receiver(accepted)
    body = b"{}"
    sent = headers("ping", 1, sign(SECRET, body))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://ci"
    ) as http:
        real = await http.post("/webhook", content=body, headers=sent)
    assert real.status_code == await send(app, body, sent) == 200
