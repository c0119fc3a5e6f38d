"""Requests to GitHub's REST API: authorised, paced, and with errors that say whose they are."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from opam_ci.clients.github_auth import Credentials, InstallationToken
from opam_ci.clients.github_errors import GitHubRefusedError
from opam_ci.core.github.limits import is_limited, retry_after
from opam_ci.core.github.model import RepositoryName, Tolerant
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.outcome import Cause
from opam_ci.core.text import problems

API_VERSION = "2022-11-28"
"""The pinned version of GitHub's REST API."""

PUBLIC_API = "https://api.github.com"

SILENCE_TIMEOUT = timedelta(seconds=20)
"""Longest silence of GitHub's within a request; it gives up itself after ten seconds."""

TOTAL_TIMEOUT = timedelta(seconds=60)
"""Longest request. An activity that posts must have a longer time limit, so that no request
of an earlier attempt is still under way in the next one."""

_CONCURRENT = 10
"""Requests at once; GitHub's limit is 100 for all that use the same credentials."""

_PAGES_KEPT = 256
"""Pages whose ETags are remembered, the least recently used forgotten first."""

_PAGE_SIZE = 100
"""Items of a page; GitHub gives no more."""

_MOST_PAGES = 500
"""Pages of one list: 50,000 items, more than GitHub gives."""

_OK = range(200, 300)
_NOT_MODIFIED = 304
_UNAUTHORIZED = 401
_FORBIDDEN = 403
_SERVER_ERROR = 500

As = Literal["app", "installation"]
"""Who asks: the App itself, or its installation in our repository."""

T = TypeVar("T")


class _Words(Tolerant):
    message: str = ""


class _Installation(Tolerant):
    id: int


class _Page:
    """A page of a list as it was when GitHub gave us its ETag."""

    def __init__(self, etag: str, items: tuple[Any, ...], following: str | None) -> None:
        self.etag = etag
        self.items = items
        self.following = following

    @property
    def is_full(self) -> bool:
        return len(self.items) >= _PAGE_SIZE


class Requests:
    """Sends requests; knows GitHub's rules and none of its objects.

    After a rate limit nothing is sent until it is over: asking on is what GitHub bans
    for. To be used from one event loop.
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
        self._repository = repository
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

    async def close(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    async def get(self, shape: type[T], path: str, *, who: As = "installation") -> T:
        """Gets one object.

        Raises:
            GitHubRefusedError: GitHub will not give it, now or later.
            InfrastructureError: GitHub is not there, or it is too early.
        """
        return _read(shape, await self._send("GET", path, who=who), path)

    async def send(
        self,
        shape: type[T],
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        who: As = "installation",
    ) -> T:
        """Writes something and returns what GitHub made of it.

        Raises:
            GitHubRefusedError: GitHub will not take it, now or later.
            InfrastructureError: GitHub is not there, or it is too early.
        """
        return _read(shape, await self._send(method, path, body=body, who=who), path)

    async def list(
        self,
        shape: type[T],
        path: str,
        query: Mapping[str, str],
        *,
        who: As = "installation",
        enough: Callable[[T], bool] = lambda _item: False,
    ) -> tuple[T, ...]:
        """Gets the pages of a list; pages that did not change cost nothing.

        Args:
            shape: Of an item.
            path: Of the list.
            query: Which items.
            who: Who asks.
            enough: Whether no further page is needed after the one with this item.

        Raises:
            GitHubRefusedError: GitHub will not give it, now or later.
            InfrastructureError: GitHub is not there, or it is too early.
        """
        items: list[T] = []
        following: str | None = str(httpx.URL(path, params={**query, "per_page": str(_PAGE_SIZE)}))
        for _ in range(_MOST_PAGES):
            if following is None:
                return tuple(items)
            page = await self._page(shape, following, who)
            items += page.items
            following = None if any(map(enough, page.items)) else page.following
        raise InfrastructureError(f"GitHub's list {path} has no end", cause=Cause.GITHUB)

    async def _page(self, shape: type[T], url: str, who: As) -> _Page:
        known = self._pages.get(url)
        # A last page that is full can be followed by a new one without changing itself.
        settled = known is not None and (known.following is not None or not known.is_full)
        headers = {"If-None-Match": known.etag} if known is not None and settled else {}
        answer = await self._send("GET", url, who=who, headers=headers)
        if answer.status_code == _NOT_MODIFIED and known is not None:
            if "link" in answer.headers:
                known.following = self._following(answer)
            self._pages.move_to_end(url)
            return known
        items: TypeAdapter[tuple[T, ...]] = TypeAdapter(tuple[shape, ...])  # type: ignore[valid-type]
        page = _Page(
            answer.headers.get("etag", ""), _parse(items, answer, url), self._following(answer)
        )
        if page.etag:
            self._pages[url] = page
            self._pages.move_to_end(url)
            if len(self._pages) > _PAGES_KEPT:
                self._pages.popitem(last=False)
        return page

    def _following(self, answer: httpx.Response) -> str | None:
        link = answer.links.get("next", {}).get("url")
        if link is None:
            return None
        url, ours = self._http.base_url.join(link), self._http.base_url
        if (url.scheme, url.host, url.port) != (ours.scheme, ours.host, ours.port):
            # Our token is for GitHub and for nobody whom an answer names.
            raise InfrastructureError(
                f"GitHub's list goes on at another host: {url.host}", cause=Cause.GITHUB
            )
        return str(url)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        who: As,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        for last in (False, True):
            authorization = await self._authorization(who)
            answer = await self._exchange(method, path, authorization, body, headers or {})
            if answer.status_code != _UNAUTHORIZED or who == "app" or last:
                break
            # A token can end before its time, for example when the App is changed.
            if not self._credentials.forget(authorization):
                break
        return self._judged(answer, f"{method} {path.partition('?')[0]}")

    async def _authorization(self, who: As) -> str:
        now = self._clock()
        if who == "app":
            return self._credentials.as_app(now)
        return await self._credentials.as_installation(now, self._make_token)

    async def _make_token(self, authorization: str) -> InstallationToken:
        try:
            path = f"/repos/{self._repository}/installation"
            answer = await self._exchange("GET", path, authorization)
            found = _read(_Installation, self._judged(answer, f"GET {path}"), path)
            path = f"/app/installations/{found.id}/access_tokens"
            answer = await self._exchange("POST", path, authorization)
            return _read(InstallationToken, self._judged(answer, f"POST {path}"), path)
        except GitHubRefusedError as error:
            # Ours to repair: the request for which the token was to be is not refused.
            raise InfrastructureError(
                f"the GitHub App has no use of {self._repository} ({error}): "
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
                    # Only what reads may go elsewhere by itself: a moved repository.
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

    def _judged(self, answer: httpx.Response, what: str) -> httpx.Response:
        """Returns a good answer, and raises what a bad one means."""
        status = answer.status_code
        if status in _OK or status == _NOT_MODIFIED:
            return answer
        message = _message(answer)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        now = self._clock()
        if is_limited(status, headers, message):
            wait = retry_after(status, headers, now)
            if wait is not None:
                # Of two limits at once, as of two requests under way, the longer one counts.
                self._resume_at = max(now + wait, self._resume_at or now)
            raise InfrastructureError(
                f"GitHub's rate limit at {what}: {message}", cause=Cause.GITHUB, retry_after=wait
            )
        if status >= _SERVER_ERROR:
            raise InfrastructureError(
                f"GitHub has trouble of its own: {status} at {what}",
                cause=Cause.GITHUB,
                retry_after=retry_after(status, headers, now),
            )
        if status == _UNAUTHORIZED:
            # Nothing is lost while an operator repairs this.
            raise InfrastructureError(
                f"GitHub does not know our credentials at {what} ({message}): "
                "check the App's id and private key, or the token",
                cause=Cause.GITHUB,
            )
        raise GitHubRefusedError(what, status=status, message=message)


def _message(answer: httpx.Response) -> str:
    try:
        words = _Words.model_validate_json(answer.content).message
    except ValidationError:
        return ""
    return "".join(char if char.isprintable() else " " for char in words)[:200]


def _read(shape: type[T], answer: httpx.Response, what: str) -> T:
    return _parse(TypeAdapter(shape), answer, what)


def _parse(adapter: TypeAdapter[T], answer: httpx.Response, what: str) -> T:
    try:
        return adapter.validate_json(answer.content or b"null")
    except ValidationError as error:
        raise InfrastructureError(
            f"GitHub's answer to {what.partition('?')[0]} is not readable: {problems(error)}",
            cause=Cause.GITHUB,
        ) from error
