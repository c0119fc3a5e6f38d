"""A stateful fake of GitHub: one repository, one App, and one receiver of its webhooks."""

import json
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from opam_ci.core.github.signature import sign
from tests.support.fakes.github_bodies import (
    Body,
    Pull,
    Run,
    app,
    check_run,
    comment,
    pull_request_whole,
    repository,
    stamp,
    user,
)

TOKEN_LIFE = timedelta(hours=1)
STATUSES_LIMIT = 1000
CREATIONS_A_MINUTE = 80
POINTS_A_MINUTE = 900
PERMISSIONS = {
    "checks": "write",
    "contents": "read",
    "metadata": "read",
    "pull_requests": "write",
    "statuses": "write",
}
EVENTS = ["check_run", "check_suite", "issue_comment", "pull_request", "push"]

Listener = Callable[[dict[str, str], bytes], Awaitable[int]]
"""Gets headers and body of a webhook, returns the HTTP status; 0 for no response."""


@cache
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def private_pem() -> bytes:
    return private_key().private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )


@dataclass
class InjectedFault:
    """A fault injected into the next requests that match.

    Attributes:
        path: Part of their path.
        status: Of the response; 0 breaks the connection.
        headers: Of the response.
        body: Of the response.
        times: Number of requests that fail.
        done: Whether the request is carried out, and only its response lost.
    """

    path: str
    status: int = 502
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    times: int = 1
    done: bool = False


@dataclass(repr=False)
class FakeGitHub:
    """All state; time does not pass unless it is advanced."""

    full_name: str = "ocaml/opam-repository"
    app_id: int = 4242
    installation_id: int = 77
    secret: bytes = b"a secret"
    plain_token: str = "ghp_plain"  # noqa: S105 - opens nothing
    now: datetime = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    installed: bool = True
    remaining: int = 5000
    reset_at: datetime = datetime(2026, 3, 1, 13, 0, tzinfo=UTC)
    page_size: int | None = None
    listener: Listener | None = None
    pulls: dict[int, Pull] = field(default_factory=dict)
    commits: set[str] = field(default_factory=set)
    statuses: defaultdict[tuple[str, str], list[Body]] = field(
        default_factory=lambda: defaultdict(list)
    )
    runs: dict[int, Run] = field(default_factory=dict)
    comments: list[Body] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, datetime] = field(default_factory=dict)
    deliveries: list[Body] = field(default_factory=list)
    payloads: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    troubles: list[InjectedFault] = field(default_factory=list)
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    creations: deque[datetime] = field(default_factory=deque)
    points: deque[tuple[datetime, int]] = field(default_factory=deque)
    counter: int = 0

    def clock(self) -> datetime:
        return self.now

    def advance(self, **how: float) -> None:
        self.now += timedelta(**how)

    def next_id(self) -> int:
        self.counter += 1
        return self.counter

    def app(self) -> Body:
        return app(self.app_id, PERMISSIONS, EVENTS)

    def last_status(self, sha: str, context: str = "opam-ci") -> tuple[str, str]:
        """Returns state and description as the page of the commit would show them."""
        last = self.statuses[sha, context][-1]
        return last["state"], last["description"]

    # Actions of users.

    async def open(self, number: int, head: str, **more: Any) -> Pull:
        pull = Pull(number=number, head=head, base="b" * 40, **more)
        self.pulls[number] = pull
        self.commits.add(head)
        await self._emit_pull(pull, "opened")
        return pull

    async def push(self, number: int, head: str) -> None:
        pull = self.pulls[number]
        before, pull.head = pull.head, head
        self.commits.add(head)
        await self._emit_pull(pull, "synchronize", before=before, after=head)

    async def ready(self, number: int, *, ready: bool = True) -> None:
        pull = self.pulls[number]
        pull.draft = not ready
        await self._emit_pull(pull, "ready_for_review" if ready else "converted_to_draft")

    async def retarget(self, number: int, base_ref: str) -> None:
        pull = self.pulls[number]
        changes = {"base": {"ref": {"from": pull.base_ref}, "sha": {"from": pull.base}}}
        pull.base_ref = base_ref
        await self._emit_pull(pull, "edited", changes=changes)

    async def close(self, number: int, *, merged: bool = False) -> None:
        pull = self.pulls[number]
        pull.state, pull.merged = "closed", merged
        await self._emit_pull(pull, "closed")

    async def write(self, number: int, text: str, by: str) -> None:
        pull = self.pulls[number]
        issue = {
            "number": number,
            "state": pull.state,
            "user": user(pull.author),
            "pull_request": {},
        }
        made = comment(self.full_name, self.next_id(), number, text, by=by, at=self.now)
        await self.emit("issue_comment", {"action": "created", "issue": issue, "comment": made}, by)

    async def press(self, run_id: int, button: str, by: str) -> None:
        run = self.runs[run_id]
        offered = [action["identifier"] for action in run.wanted.get("actions", [])]
        assert button in offered, f"{button} is not among {offered}"
        await self.emit(
            "check_run",
            {
                "action": "requested_action",
                "check_run": check_run(self.full_name, run, self.app()),
                "requested_action": {"identifier": button},
            },
            by,
        )

    async def _emit_pull(self, pull: Pull, action: str, **more: Any) -> None:
        pull.updated_at = self.now
        body = pull_request_whole(self.full_name, pull, self.now)
        payload = {"action": action, "number": pull.number, "pull_request": body, **more}
        await self.emit("pull_request", payload, pull.author)

    def next_trouble(self, path: str) -> InjectedFault | None:
        """Takes the fault that a request for this path meets, None if there is none."""
        for trouble in self.troubles:
            if trouble.times and trouble.path in path:
                trouble.times -= 1
                return trouble
        return None

    # Webhooks.

    async def emit(self, event: str, payload: Body, by: str) -> None:
        whole = {**payload, "repository": repository(self.full_name), "sender": user(by)}
        guid = f"0b989ba4-242f-11e5-81e1-{self.next_id():012d}"
        self.payloads[guid] = (event, json.dumps(whole).encode())
        await self._deliver(guid, redelivery=False)

    async def redeliver(self, delivery_id: int) -> bool:
        found = [item for item in self.deliveries if item["id"] == delivery_id]
        if found:
            await self._deliver(found[0]["guid"], redelivery=True)
        return bool(found)

    async def _deliver(self, guid: str, *, redelivery: bool) -> None:
        event, body = self.payloads[guid]
        headers = {
            "content-type": "application/json",
            "x-github-event": event,
            "x-github-delivery": guid,
            "x-hub-signature-256": sign(self.secret, body),
        }
        code = await self.listener(headers, body) if self.listener else 0
        self.deliveries.append(
            {
                "id": self.next_id(),
                "guid": guid,
                "delivered_at": stamp(self.now),
                "redelivery": redelivery,
                "duration": 0.1,
                "status": "OK" if code in range(200, 300) else "failed",
                "status_code": code,
                "event": event,
                "action": json.loads(body).get("action"),
                "installation_id": self.installation_id,
                "repository_id": 1,
            }
        )
