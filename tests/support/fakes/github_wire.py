"""The transport to the fake GitHub: injected faults, and checks by GitHub's own description."""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from openapi_core import OpenAPI
from openapi_core.testing import MockRequest, MockResponse

from opam_ci.clients.github.api import GitHub
from opam_ci.clients.github.auth import AppCredentials
from opam_ci.web.webhook import Webhook, application
from tests.support.fakes.github import FakeGitHub, Listener, private_pem
from tests.support.fakes.github_api import api

_UNPROCESSABLE = 422
_ABOUT_COMMITS = re.compile(r"/statuses/[0-9a-f]{40}|/check-runs")


class Description:
    """Validates requests and responses by GitHub's OpenAPI description."""

    def __init__(self, file: Path) -> None:
        text = json.loads(file.read_text(), object_hook=_with_null)
        self._description = OpenAPI.from_dict(text)

    def violations(self, request: httpx.Request, response: httpx.Response) -> Iterator[str]:
        """Yields what is invalid in a request and its response."""
        kind = request.headers.get("content-type", "application/json")
        mock_request = MockRequest(
            f"{request.url.scheme}://{request.url.host}",
            request.method,
            request.url.path,
            args=dict(request.url.params),
            data=request.content,
            content_type=kind,
        )
        what = f"{request.method} {request.url.path}"
        if response.status_code < 400:
            # A request that GitHub refuses may be invalid on purpose.
            for error in self._description.iter_request_errors(mock_request):
                yield f"request {what}: {_details(error)}"
        if response.status_code == _UNPROCESSABLE and _ABOUT_COMMITS.search(what):
            # GitHub's response for an unknown commit, which its description leaves out.
            return
        mock_response = MockResponse(response.content, status_code=response.status_code)
        for error in self._description.iter_response_errors(mock_request, mock_response):
            yield f"response {response.status_code} to {what}: {_details(error)}"


def _with_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Adds null to an enumeration that is nullable.

    GitHub's description means so (its own example of a running check run has a null
    conclusion); by the letter of OpenAPI 3.0, such an enumeration does not allow null.
    """
    if schema.get("nullable") is True and None not in schema.get("enum", [None]):
        return {**schema, "enum": [*schema["enum"], None]}
    return schema


def _details(error: Exception) -> str:
    causes = getattr(error.__cause__, "schema_errors", ())
    details = [f"{'.'.join(map(str, found.absolute_path))}: {found.message}" for found in causes]
    return "; ".join([type(error).__name__, str(error)[:200], *[text[:300] for text in details]])


class Wire(httpx.AsyncBaseTransport):
    """Carries requests to the fake in this process, or breaks on demand.

    Attributes:
        violations: Violations of the description, if there is one.
        asked_at: When each of the fake's `requests` came, by its clock.
    """

    def __init__(self, fake: FakeGitHub, description: Description | None = None) -> None:
        self._fake = fake
        self._inner = httpx.ASGITransport(app=api(fake))
        self._description = description
        self.violations: list[str] = []
        self.asked_at: list[datetime] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        trouble = self._fake.next_trouble(request.url.path)
        if trouble is None or trouble.done:
            response = await self._inner.handle_async_request(request)
            await response.aread()
            self._note(request, response.status_code)
            if self._description is not None:
                self.violations += self._description.violations(request, response)
            if trouble is None:
                return response
        else:
            self._note(request, trouble.status)
        if not trouble.status:
            raise httpx.ReadError("the connection broke", request=request)
        return httpx.Response(trouble.status, headers=trouble.headers, content=trouble.body)

    def _note(self, request: httpx.Request, code: int) -> None:
        self._fake.requests.append((request.method, request.url.path, code))
        self.asked_at.append(self._fake.now)


def connect(fake: FakeGitHub, wire: Wire | None = None) -> GitHub:
    """Returns our client of the fake, as the fake's App."""
    credentials = AppCredentials(fake.app_id, private_pem())
    return GitHub(fake.full_name, credentials, transport=wire or Wire(fake), clock=fake.clock)


def listener(webhook: Webhook) -> Listener:
    """Returns our receiver as the fake calls it."""
    http = httpx.AsyncClient(
        transport=httpx.ASGITransport(app=application(webhook)), base_url="http://receiver"
    )

    async def deliver(headers: dict[str, str], body: bytes) -> int:
        return (await http.post("/webhook", headers=headers, content=body)).status_code

    return deliver
