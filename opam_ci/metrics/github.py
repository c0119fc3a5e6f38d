"""Metrics of requests to GitHub, by a transport around httpx's own."""

import time

import httpx

from opam_ci.core.github.limits import is_limited
from opam_ci.metrics.catalog import Metrics

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_RESOURCES = frozenset({"core", "graphql", "search", "integration_manifest"})
_REFUSED = range(400, 500)
_OK = range(200, 400)


class MeteredTransport(httpx.AsyncBaseTransport):
    """Forwards requests and counts their results.

    The transport of `Requests` (and so of the GitHub client). A rate limit is counted as
    `limited`, not as `refused`.

    Args:
        metrics: The metrics to update.
        inner: Transport that sends the requests.
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
            response = await self._inner.handle_async_request(request)
        except httpx.HTTPError:
            self._count(operation, "error")
            raise
        headers = {name.lower(): value for name, value in response.headers.items()}
        self._set_limits(headers)
        if response.status_code in _OK:
            self._count(operation, "ok")
            if operation == "write":
                self._metrics.github_written_at.set(time.time())
        elif is_limited(response.status_code, headers, ""):
            self._count(operation, "limited")
        else:
            self._count(operation, "refused" if response.status_code in _REFUSED else "error")
        return response

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._inner.aclose()

    def _count(self, operation: str, result: str) -> None:
        self._metrics.github_requests.labels(operation, result).inc()

    def _set_limits(self, headers: dict[str, str]) -> None:
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
