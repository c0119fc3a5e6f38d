"""Requests to GitHub's REST API: authorised, rate-limited, and with errors by who must act."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from opam_ci.clients.github.auth import Credentials, InstallationToken
from opam_ci.clients.github.errors import GitHubRefusedError
from opam_ci.core.github.limits import is_limited, retry_after
from opam_ci.core.github.model import RepositoryName, Tolerant
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.printable import printable
from opam_ci.core.text.status import problems

API_VERSION = "2022-11-28"
"""The pinned version of GitHub's REST API."""

PUBLIC_API = "https://api.github.com"

SILENCE_TIMEOUT = timedelta(seconds=20)
"""Longest time without data within a request; GitHub itself gives up after ten seconds."""

TOTAL_TIMEOUT = timedelta(seconds=60)
"""Longest request. An activity that posts must have a longer time limit, so that no request
of an earlier attempt is still running in the next one."""

_CONCURRENT = 10
"""Requests at once; GitHub's limit is 100 for all that use the same credentials."""

_PAGES_KEPT = 256
"""Pages whose ETags are cached, the least recently used dropped first."""

_PAGE_SIZE = 100
"""Items of a page; GitHub gives no more."""

_MOST_PAGES = 500
"""Pages of one list: 50,000 items, more than GitHub gives."""

_OK = range(200, 300)
_NOT_MODIFIED = 304
_UNAUTHORIZED = 401
_FORBIDDEN = 403
_SERVER_ERROR = 500

Identity = Literal["app", "installation"]
"""Whose credentials a request has: the App's, or those of its installation in our repository."""

T = TypeVar("T")


class _ErrorBody(Tolerant):
    message: str = ""
    # A text, or a list of texts or objects.
    errors: Any = None


class _Installation(Tolerant):
    id: int


@dataclass
class _Page:
    """A page of a list as it was when GitHub sent its ETag."""

    etag: str
    items: tuple[Any, ...]
    following: str | None


class RestClient:
    """Sends requests; implements GitHub's rules and none of its objects.

    After a rate limit nothing is sent until it is over: GitHub bans clients that go on. To be
    used from one event loop.
    """

    def __init__(  # noqa: PLR0913 - each is a fact of its own
        self,
        repository: RepositoryName,
        credentials: Credentials,
        *,
        base_url: str = PUBLIC_API,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        total_timeout: timedelta = TOTAL_TIMEOUT,
    ) -> None:
        """Makes a client; nothing is sent yet.

        Args:
            repository: Owner and name.
            credentials: An App's, or a token.
            base_url: Of the API; another one for GitHub Enterprise and for tests.
            transport: For tests.
            clock: For tests.
            total_timeout: Longest request, waiting for its turn included.
        """
        self.repository = repository
        self._total_timeout = total_timeout
        self._credentials = credentials
        self._clock = clock
        self._slots = asyncio.Semaphore(_CONCURRENT)
        self._resume_at: datetime | None = None
        self._pages: OrderedDict[str, _Page] = OrderedDict()
        self._http = httpx.AsyncClient(
            base_url=base_url,
            transport=transport,
            timeout=SILENCE_TIMEOUT.total_seconds(),
            headers={
                "Accept": "application/vnd.github+json",
                "X-GitHub-Api-Version": API_VERSION,
                "User-Agent": "opam-ci",
            },
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    async def get(self, shape: type[T], path: str, *, identity: Identity = "installation") -> T:
        """Gets one object.

        Raises:
            GitHubRefusedError: GitHub refuses it.
            InfrastructureError: GitHub is not available, or a rate limit holds.
        """
        return _parse(shape, await self._send("GET", path, identity), path)

    async def send(
        self,
        shape: type[T],
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        identity: Identity = "installation",
    ) -> T:
        """Writes something and returns the object in GitHub's response.

        Raises:
            GitHubRefusedError: GitHub refuses it.
            InfrastructureError: GitHub is not available, or a rate limit holds.
        """
        return _parse(shape, await self._send(method, path, identity, body), path)

    async def get_all(
        self,
        shape: type[T],
        path: str,
        query: Mapping[str, str],
        *,
        identity: Identity = "installation",
        enough: Callable[[T], bool] = lambda _item: False,
    ) -> tuple[T, ...]:
        """Gets the pages of a list; pages that did not change do not count for the rate limit.

        Args:
            shape: Of an item.
            path: Of the list.
            query: Which items.
            identity: Whose credentials the requests have.
            enough: Whether no further page is needed after the one with this item.

        Raises:
            GitHubRefusedError: GitHub refuses it.
            InfrastructureError: GitHub is not available, or a rate limit holds.
        """
        items: list[T] = []
        following: str | None = str(httpx.URL(path, params={**query, "per_page": str(_PAGE_SIZE)}))
        for _ in range(_MOST_PAGES):
            if following is None:
                return tuple(items)
            page = await self._page(shape, following, identity)
            items += page.items
            following = None if any(map(enough, page.items)) else page.following
        raise InfrastructureError(
            f"GitHub's list {path} has more than {_MOST_PAGES} pages", cause=Cause.GITHUB
        )

    async def _page(self, shape: type[T], url: str, identity: Identity) -> _Page:
        known = self._pages.get(url)
        # A last page that is full can be followed by a new one without changing itself.
        settled = known is not None and (
            known.following is not None or len(known.items) < _PAGE_SIZE
        )
        headers = {"If-None-Match": known.etag} if known is not None and settled else {}
        response = await self._send("GET", url, identity, headers=headers)
        if response.status_code == _NOT_MODIFIED and known is not None:
            if "link" in response.headers:
                known.following = self._following(response)
            self._pages.move_to_end(url)
            return known
        items: tuple[T, ...] = _parse(tuple[shape, ...], response, url)  # type: ignore[valid-type]
        page = _Page(response.headers.get("etag", ""), items, self._following(response))
        if page.etag:
            self._pages[url] = page
            self._pages.move_to_end(url)
            if len(self._pages) > _PAGES_KEPT:
                self._pages.popitem(last=False)
        return page

    def _following(self, response: httpx.Response) -> str | None:
        link = response.links.get("next", {}).get("url")
        if link is None:
            return None
        url, ours = self._http.base_url.join(link), self._http.base_url
        if (url.scheme, url.host, url.port) != (ours.scheme, ours.host, ours.port):
            # Our token must not go to a host that a response names.
            raise InfrastructureError(
                f"GitHub's list continues on another host: {url.host}", cause=Cause.GITHUB
            )
        return str(url)

    async def _send(
        self,
        method: str,
        path: str,
        identity: Identity,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        for last in (False, True):
            authorization = await self._authorization(identity)
            response = await self._exchange(method, path, authorization, body, headers)
            if response.status_code != _UNAUTHORIZED or identity == "app" or last:
                break
            # A token can become invalid before it expires, for example when the App is changed.
            if not self._credentials.forget(authorization):
                break
        return self._checked(response, f"{method} {path.partition('?')[0]}")

    async def _authorization(self, identity: Identity) -> str:
        now = self._clock()
        if identity == "app":
            return self._credentials.as_app(now)
        return await self._credentials.as_installation(now, self._make_token)

    async def _make_token(self, authorization: str) -> InstallationToken:
        try:
            path = f"/repos/{self.repository}/installation"
            response = await self._exchange("GET", path, authorization)
            found = _parse(_Installation, self._checked(response, f"GET {path}"), path)
            path = f"/app/installations/{found.id}/access_tokens"
            response = await self._exchange("POST", path, authorization)
            return _parse(InstallationToken, self._checked(response, f"POST {path}"), path)
        except GitHubRefusedError as error:
            # An operator can repair this, and the request that needs the token is not refused.
            raise InfrastructureError(
                f"the GitHub App is not installed on {self.repository}, or lacks access ({error}): "
                "install it there, or end its suspension",
                cause=Cause.GITHUB,
            ) from error

    async def _exchange(
        self,
        method: str,
        path: str,
        authorization: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        self._refuse_while_limited()
        try:
            async with asyncio.timeout(self._total_timeout.total_seconds()), self._slots:
                return await self._http.request(
                    method,
                    path,
                    json=body,
                    headers={**(headers or {}), "Authorization": authorization},
                    # Only reads follow redirects: those of a moved repository.
                    follow_redirects=method == "GET",
                )
        except (httpx.RequestError, TimeoutError) as error:
            raise InfrastructureError(
                f"GitHub is not reachable: {type(error).__name__} at {method} "
                f"{path.partition('?')[0]}: {error}",
                cause=Cause.GITHUB,
            ) from error

    def _refuse_while_limited(self) -> None:
        now = self._clock()
        if self._resume_at is not None and now < self._resume_at:
            raise InfrastructureError(
                f"GitHub's rate limit: nothing is sent before {self._resume_at:%H:%M:%S} UTC",
                cause=Cause.GITHUB,
                retry_after=self._resume_at - now,
            )

    def _checked(self, response: httpx.Response, what: str) -> httpx.Response:
        """Returns a successful response, and raises the error that another one stands for."""
        status = response.status_code
        if status in _OK or status == _NOT_MODIFIED:
            return response
        body = _error_body(response)
        message = printable(body.message)[:200]
        headers = {name.lower(): value for name, value in response.headers.items()}
        now = self._clock()
        if is_limited(status, headers, message):
            wait = retry_after(status, headers, now)
            if wait is not None:
                # Two requests at once may meet two limits: the longer one counts.
                self._resume_at = max(now + wait, self._resume_at or now)
            raise InfrastructureError(
                f"GitHub's rate limit at {what}: {message}", cause=Cause.GITHUB, retry_after=wait
            )
        if status >= _SERVER_ERROR:
            raise InfrastructureError(
                f"GitHub has a server error: {status} at {what}",
                cause=Cause.GITHUB,
                retry_after=retry_after(status, headers, now),
            )
        if status == _UNAUTHORIZED:
            # An operator can repair this, and the request is retried.
            raise InfrastructureError(
                f"GitHub rejects our credentials at {what} ({message}): "
                "check the App's id and private key, or the token",
                cause=Cause.GITHUB,
            )
        raise GitHubRefusedError(
            what, status=status, message=message, errors=str(body.errors or "")
        )


def _error_body(response: httpx.Response) -> _ErrorBody:
    try:
        return _ErrorBody.model_validate_json(response.content)
    except ValidationError:
        return _ErrorBody()


def _parse(shape: type[T], response: httpx.Response, what: str) -> T:
    try:
        return TypeAdapter(shape).validate_json(response.content or b"null")
    except ValidationError as error:
        raise InfrastructureError(
            f"invalid response of GitHub to {what.partition('?')[0]}: {problems(error)}",
            cause=Cause.GITHUB,
        ) from error
