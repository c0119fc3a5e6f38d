"""What GitHub answers, counted on the way: a transport around httpx's own."""

import time

import httpx

from opam_ci.core.github.limits import is_limited
from opam_ci.metrics.catalog import Metrics

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_RESOURCES = frozenset({"core", "graphql", "search", "integration_manifest"})
_REFUSED = range(400, 500)
_OK = range(200, 400)


class MeteredTransport(httpx.AsyncBaseTransport):
    """Passes requests on and counts how they end.

    Given to `Requests` (and so to the GitHub client) as its transport. A limit shows as
    `limited` and is no refusal: GitHub says later, not no.

    Args:
        metrics: Where to count.
        inner: What sends the requests.
    """

    def __init__(self, metrics: Metrics, inner: httpx.AsyncBaseTransport | None = None) -> None:
        self._metrics = metrics
        self._inner = inner or httpx.AsyncHTTPTransport()
        for operation in ("read", "write"):
            for result in ("ok", "refused", "limited", "error"):
                metrics.github_requests.labels(operation, result)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request."""
        operation = "read" if request.method in _READS else "write"
        try:
            answer = await self._inner.handle_async_request(request)
        except httpx.HTTPError:
            self._count(operation, "error")
            raise
        headers = {name.lower(): value for name, value in answer.headers.items()}
        self._note_limits(headers)
        if answer.status_code in _OK:
            self._count(operation, "ok")
            if operation == "write":
                self._metrics.github_written_at.set(time.time())
        elif is_limited(answer.status_code, headers, ""):
            self._count(operation, "limited")
        else:
            self._count(operation, "refused" if answer.status_code in _REFUSED else "error")
        return answer

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._inner.aclose()

    def _count(self, operation: str, result: str) -> None:
        self._metrics.github_requests.labels(operation, result).inc()

    def _note_limits(self, headers: dict[str, str]) -> None:
        resource = headers.get("x-ratelimit-resource", "core")
        resource = resource if resource in _RESOURCES else "other"
        for gauge, header in (
            (self._metrics.github_remaining, "x-ratelimit-remaining"),
            (self._metrics.github_limit, "x-ratelimit-limit"),
            (self._metrics.github_reset_at, "x-ratelimit-reset"),
        ):
            value = headers.get(header, "")
            if value.isascii() and value.isdigit():
                gauge.labels(resource).set(int(value))
