"""A client of an opam-ci server: what a person may read and do without Temporal and index."""

import contextlib
from collections.abc import Iterator
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError

from opam_ci.clients.index import AttemptFilter, JobFilter, Page, Place, RevisionFilter
from opam_ci.clients.remote.listing import Done, Listing
from opam_ci.clients.remote.queries import (
    PAGE_LIMIT,
    attempt_parameters,
    job_parameters,
    testing_parameters,
)
from opam_ci.clients.remote.requests import request_for
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.records import AttemptRecord, JobRecord, RevisionKey, RevisionRecord
from opam_ci.core.jobs.selector import CancelUpdate, RestartUpdate, Taken
from opam_ci.core.jobs.summary import Counts, Summary
from opam_ci.core.printable import printable

T = TypeVar("T")

_TIMEOUT = 70.0
"""Seconds without data: an action takes up to a minute where no worker accepts it."""

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_CONFLICT = 409
_SERVER_ERROR = 500


class _Problem(BaseModel):
    detail: str


class Server:
    """An opam-ci server: its listings as the index has them, and its actions.

    All methods block, also those that are coroutines: for a command that does one thing.

    Attributes:
        url: Of the server's pages.
        api: Of its JSON API.
    """

    def __init__(
        self, url: str, token: SecretStr | None, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Makes a client; nothing is sent yet.

        Args:
            url: Of the server's pages.
            token: For actions; reading needs none.
            transport: For tests.

        Raises:
            UsageError: It is not the URL of a server.
        """
        address = urlsplit(url)
        if address.scheme not in {"http", "https"} or not address.hostname:
            raise UsageError(
                f"not the URL of a server: {url!r}; write it as a browser shows it, such as "
                "https://ci.example.org"
            )
        if "@" in address.netloc:
            raise UsageError("a server's URL has no user name or password: set OPAM_CI_TOKEN")
        self.url = url.rstrip("/")
        self.api = f"{self.url}/api/v1"
        self._token = token
        self._has_responded = False
        self._is_private = address.scheme == "https" or address.hostname in _LOOPBACK
        self._http = httpx.Client(
            base_url=self.api,
            transport=transport,
            timeout=_TIMEOUT,
            headers={"User-Agent": "opam-ci", "Accept": "application/json"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def revisions(self, wanted: RevisionFilter, *, place: Place) -> Page[RevisionRecord]:
        """Lists testings of heads, last changed first.

        Raises:
            UsageError: The server refuses that, or is not one.
            InfrastructureError: The server is not available.
        """
        return self._list("testings", testing_parameters(wanted), place, RevisionRecord)

    def jobs(self, wanted: JobFilter, *, place: Place) -> Page[JobRecord]:
        """Lists jobs, last changed first; errors are those of `revisions`."""
        return self._list("jobs", job_parameters(wanted), place, JobRecord)

    def attempts(self, wanted: AttemptFilter, *, place: Place) -> Page[AttemptRecord]:
        """Lists attempts, last started first; errors are those of `revisions`."""
        return self._list("attempts", attempt_parameters(wanted), place, AttemptRecord)

    def counts(self, wanted: JobFilter) -> Counts:
        """Counts jobs by standing; errors are those of `revisions`."""
        return self.get(Counts, "counts", job_parameters(wanted))

    def summary(self, key: RevisionKey) -> Summary:
        """Returns the state of a testing; errors are those of `revisions`."""
        parameters = key.model_dump(mode="json", exclude_none=True)
        return self.get(Summary, "summary", parameters)

    async def restart_jobs(self, workflow_id: str, update: RestartUpdate) -> Taken | None:
        """Restarts jobs and returns which; None if that is accepted and done later.

        Raises:
            UsageError: The server refuses that, or is not one.
            InfrastructureError: The server is not available.
        """
        return self._act(workflow_id, "restart", update)

    async def cancel_jobs(self, workflow_id: str, update: CancelUpdate) -> Taken | None:
        """Cancels undecided jobs and returns which; errors are those of `restart_jobs`."""
        return self._act(workflow_id, "cancel", update)

    def get(self, shape: type[T], path: str, parameters: dict[str, Any] | None = None) -> T:
        """Gets a value; errors are those of `revisions`.

        Args:
            shape: Its type.
            path: Below the API's address.
            parameters: Of the query.
        """
        return self._read(shape, self.checked(self._send("GET", path, params=parameters)))

    @contextlib.contextmanager
    def responding(self) -> Iterator[None]:
        """Turns errors of a connection to the server into ours.

        Raises:
            UsageError: No server responds.
            InfrastructureError: It has responded before.
        """
        try:
            yield
        except (httpx.TransportError, httpx.InvalidURL) as error:
            text = f"no opam-ci server responds at {self.url} ({type(error).__name__})"
            if self._has_responded:
                raise InfrastructureError(text, cause=Cause.UNKNOWN) from error
            raise UsageError(f"{text}: check --server, or OPAM_CI_SERVER") from error
        self._has_responded = True

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        with self.responding():
            return self._http.request(method, path, **more)

    def _list(self, path: str, parameters: dict[str, Any], place: Place, item: type[T]) -> Page[T]:
        """Reads pages of the server until one of the index's size is full."""
        items: list[T] = []
        after = place.after
        while True:
            limit = min(place.limit - len(items), PAGE_LIMIT)
            page = {"limit": limit} | ({} if after is None else {"after": after})
            found = self.get(Listing[item], path, parameters | page)  # type: ignore[valid-type]
            items += found.items
            after = found.following
            if after is None or len(items) >= place.limit:
                return Page(tuple(items), after)

    def _act(
        self, workflow_id: str, action: str, update: RestartUpdate | CancelUpdate
    ) -> Taken | None:
        name = workflow_id.removeprefix("pr/")
        repository, _, number = name.rpartition("/")
        if not number.isdecimal():
            raise UsageError(
                f"{name} is not a pull request on GitHub: a server acts on these alone"
            )
        if self._token is None:
            raise UsageError(
                "no token: set OPAM_CI_TOKEN to a personal access token of GitHub's; it needs no "
                "permission"
            )
        if not self._is_private:
            raise UsageError(f"{self.url} is not https: others could read the token")
        response = self._send(
            "POST",
            f"{repository}/pull/{number}/{action}",
            json=request_for(update),
            headers={"Authorization": f"Bearer {self._token.get_secret_value()}"},
        )
        if response.status_code == _CONFLICT:
            return Taken(refusal=self._read(_Problem, response).detail)
        return self._read(Done, self.checked(response)).taken

    def checked(self, response: httpx.Response) -> httpx.Response:
        """Returns a successful response.

        Raises:
            UsageError: The server refuses that, or is not one.
            InfrastructureError: The server has a fault.
        """
        if response.is_success:
            return response
        try:
            detail = printable(_Problem.model_validate_json(response.content).detail)[:1000]
        except ValidationError as error:
            raise self._not_a_server(f"status {response.status_code}") from error
        if response.status_code >= _SERVER_ERROR:
            raise InfrastructureError(f"{self.url}: {detail}", cause=Cause.UNKNOWN)
        raise UsageError(f"{self.url}: {detail}")

    def _read(self, shape: type[T], response: httpx.Response) -> T:
        try:
            return TypeAdapter(shape).validate_json(response.content)
        except ValidationError as error:
            raise self._not_a_server("an unknown answer") from error

    def _not_a_server(self, what: str) -> UsageError:
        return UsageError(
            f"{self.url} has no API of this opam-ci's version ({what}): check --server, or "
            "OPAM_CI_SERVER"
        )
