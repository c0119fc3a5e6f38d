"""The receiver of GitHub's webhooks."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from opam_ci.core.github.action import Action, Ignore, Tracked
from opam_ci.core.github.decide import UnreadablePayloadError, decide
from opam_ci.core.github.signature import is_signed

_LOG = logging.getLogger(__name__)

BODY_LIMIT = 25 * 1024 * 1024
"""Bytes; GitHub sends no larger payload."""

ACCEPT_TIMEOUT = timedelta(seconds=8)
"""For the action to be accepted, so that the response is within GitHub's ten seconds."""

_LARGE = 256 * 1024
"""Bytes that take about a millisecond to parse."""

_DELIVERY = re.compile(r"[A-Za-z0-9-]{1,100}")
_SIGNATURE = re.compile(r"sha256=[0-9a-f]{64}")
_EVENT = re.compile(r"[a-z_]{1,100}")

Accept = Callable[[Action, str], Awaitable[None]]
"""Makes the action of a delivery durable, as by signal-with-start; returns only then. May be
called twice with the same delivery."""


class Deliveries(Protocol):
    """Accepted deliveries by their `X-GitHub-Delivery`, which a redelivery keeps."""

    async def is_accepted(self, delivery: str) -> bool:
        """Whether a delivery was accepted before."""

    async def accept(self, delivery: str) -> None:
        """Records a delivery whose action is durable; called after that, never before."""


class _RefusedError(Exception):
    """The request gets this response and nothing is done."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass
class Webhook:
    """Checks deliveries and accepts their actions.

    In this order: size, signature, form, delivery id, payload, action. For any request the
    status of the response is below 500, unless accepting failed: then it is 503, GitHub lists
    the delivery as failed, and the reconciliation redelivers it.

    Attributes:
        secret: The webhook's secret; if empty, every request is rejected.
        tracked: The repository and branch that this CI tests.
        accept: Makes an action durable.
        deliveries: Accepted deliveries.
        accept_timeout: For `accept`.
    """

    secret: bytes = field(repr=False)
    tracked: Tracked
    accept: Accept
    deliveries: Deliveries
    accept_timeout: timedelta = ACCEPT_TIMEOUT
    _under_way: dict[str, asyncio.Task[Response]] = field(default_factory=dict, repr=False)

    async def receive(self, request: Request) -> Response:
        """Answers `POST /webhook`."""
        try:
            body = await self._signed_body(request)
            event, delivery = _identity(request)
        except _RefusedError as refused:
            response = _response(refused.status, refused.reason)
            # The rest of the body must not be read, not even to be discarded.
            response.headers["connection"] = "close"
            return response
        # The same delivery twice at once: the second one waits for the response to the first.
        task = self._under_way.get(delivery)
        if task is None:
            task = asyncio.create_task(self._handle(event, delivery, body))
            self._under_way[delivery] = task
            task.add_done_callback(lambda _: self._under_way.pop(delivery, None))
        # A client that disconnects must not cancel a half-accepted delivery.
        return await asyncio.shield(task)

    async def _signed_body(self, request: Request) -> bytes:
        signature = request.headers.get("x-hub-signature-256", "")
        # Without a well-formed signature nothing is read, let alone kept.
        if _SIGNATURE.fullmatch(signature):
            body = await _read(request)
            if is_signed(self.secret, body, signature):
                return bytes(body)
        raise _RefusedError(401, "the signature is missing or wrong: check the secret")

    async def _handle(self, event: str, delivery: str, body: bytes) -> Response:
        try:
            # A large payload must not block the others.
            action = (
                await asyncio.to_thread(decide, event, body, self.tracked)
                if len(body) > _LARGE
                else decide(event, body, self.tracked)
            )
        except UnreadablePayloadError as error:
            _LOG.warning("delivery %s rejected: %s", delivery, error)
            return _response(400, str(error))
        if isinstance(action, Ignore):
            _LOG.info("delivery %s ignored: %s", delivery, action.reason)
            return _response(200, action.reason, action="ignore")
        return await self._accepted(action, delivery)

    async def _accepted(self, action: Action, delivery: str) -> Response:
        try:
            async with asyncio.timeout(self.accept_timeout.total_seconds()):
                if await self.deliveries.is_accepted(delivery):
                    return _response(200, "accepted before", action=action.kind)
                await self.accept(action, delivery)
                await self.deliveries.accept(delivery)
        except Exception:  # noqa: BLE001 - after any error GitHub must redeliver
            _LOG.exception("delivery %s is not accepted: %s", delivery, action.kind)
            return _response(503, "not accepted: it will be redelivered", action=action.kind)
        return _response(202, "accepted", action=action.kind)


def application(webhook: Webhook) -> Starlette:
    """Returns an application of the receiver alone: `POST /webhook` and `GET /healthz`."""
    return Starlette(routes=routes(webhook))


def routes(webhook: Webhook) -> list[Route]:
    """Returns the receiver's routes, for an application with further ones."""
    return [
        Route("/webhook", webhook.receive, methods=["POST"]),
        Route("/healthz", _healthz, methods=["GET"]),
    ]


async def _healthz(_request: Request) -> Response:
    """Responds whenever the process does; metrics show whether GitHub and Temporal do."""
    return JSONResponse({"status": "ok"})


def _response(status: int, reason: str, **more: str) -> Response:
    return JSONResponse({"reason": reason, **more}, status_code=status)


async def _read(request: Request) -> bytearray:
    """Returns the body; how long it may take, and how many at once, is the guard's."""
    declared = request.headers.get("content-length", "0")
    # The server rejects a length that is not a number; received bytes are counted anyway.
    if declared.isdecimal() and int(declared[:20]) > BODY_LIMIT:
        raise _RefusedError(413, "larger than 25 MiB")
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_LIMIT:
                raise _RefusedError(413, "larger than 25 MiB")
    except ClientDisconnect as error:
        raise _RefusedError(400, "the body broke off") from error
    return body


def _identity(request: Request) -> tuple[str, str]:
    """Returns event and delivery id of a signed request."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _RefusedError(415, "set the webhook's content type to application/json")
    event = request.headers.get("x-github-event", "")
    delivery = request.headers.get("x-github-delivery", "")
    if not _EVENT.fullmatch(event) or not _DELIVERY.fullmatch(delivery):
        raise _RefusedError(400, "X-GitHub-Event or X-GitHub-Delivery is missing or invalid")
    return event, delivery
