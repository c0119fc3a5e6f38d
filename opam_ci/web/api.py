"""The JSON API: everything that pages show, and the listings of the index, read-only."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pydantic import Field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from opam_ci.clients.index import Index, RevisionFilter
from opam_ci.clients.remote.listing import Listing
from opam_ci.clients.remote.queries import (
    AttemptQuery,
    Cursor,
    IncidentQuery,
    JobQuery,
    Paged,
    SummaryQuery,
    TestingQuery,
    Text,
)
from opam_ci.core.incidents.model import Incident
from opam_ci.core.jobs.records import AttemptRecord, JobRecord, RevisionKey, RevisionRecord
from opam_ci.core.jobs.summary import Counts, State, Summary
from opam_ci.core.model import Frozen
from opam_ci.core.pages.attempt import AttemptDetails
from opam_ci.core.pages.bounds import BoundsPatch
from opam_ci.core.pages.filter import LENGTH, parse_filter
from opam_ci.core.pages.model import (
    AuditEntry,
    HeadPage,
    JobPage,
    PackageHistory,
    PullRequestRow,
    RevdepRow,
)
from opam_ci.core.pages.ops import OpsPage
from opam_ci.core.platforms.model import PlatformTable
from opam_ci.web.api_logs import AttemptName, log_operations
from opam_ci.web.api_problem import problem_response
from opam_ci.web.attempts import Attempts
from opam_ci.web.bounds import Bounds
from opam_ci.web.heads import HEADS, JobPath, find_head, no_such_job, not_tested
from opam_ci.web.job_logs import JobLogs, chosen
from opam_ci.web.openapi import document
from opam_ci.web.operation import PREFIX, Call, Operation
from opam_ci.web.refusal import RefusedError
from opam_ci.web.sources import PageSources


class HeadJobsQuery(Paged):
    """Which jobs of a head.

    Attributes:
        q: As in pages: `is:failed platform:debian* package:re kind:revdep cause:dns new:`.
    """

    q: str = Field(default="", max_length=LENGTH)


class IncidentPath(Frozen):
    """An incident.

    Attributes:
        incident: Its number.
    """

    incident: int = Field(ge=1, le=2**31 - 1)


class PackagePath(Frozen):
    """A package.

    Attributes:
        package: Its name, without a version.
    """

    package: Text


class PullsQuery(Frozen):
    """Which pull requests and branches.

    Attributes:
        repository: Only of this one.
        author: Only those that this account opened.
        state: Only those whose newest testing has this state on GitHub.
        words: Each is contained in its target or title, in any case.
        is_open: Whether the pull request is open.
        limit: Entries at most.
        after: Cursor: the `following` of the page before; none for the first page.
    """

    repository: Text | None = None
    author: Text | None = None
    state: State | None = None
    words: tuple[Text, ...] = Field(default=(), max_length=20)
    is_open: bool | None = None
    limit: int = Field(default=50, ge=1, le=500)
    after: Cursor | None = None


@dataclass
class Api:
    """Reads the index for the API.

    Attributes:
        sources: Index and settings.
        logs: Of jobs.
        others: Operations besides those that read: the actions.
    """

    sources: PageSources
    logs: JobLogs
    others: Sequence[Operation] = ()
    attempts: Attempts = field(init=False)
    bounds: Bounds = field(init=False)

    def __post_init__(self) -> None:
        self.attempts = Attempts(self.sources)
        self.bounds = Bounds(self.sources)

    def routes(self) -> list[BaseRoute]:
        """Returns the routes of the API: an application of its own, with problems of its own."""
        described = Route("/openapi.json", self._describe, methods=["GET"])
        app = Starlette(
            routes=[described, *(each.route() for each in self.operations)],
            exception_handlers={HTTPException: _refuse},
        )
        # A path of ours has one form.
        app.router.redirect_slashes = False
        mounted = Mount(PREFIX, app)
        # A path with a line break is ours to refuse, too.
        mounted.path_regex = re.compile(mounted.path_regex.pattern, re.DOTALL)
        return [mounted]

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        """All operations, the more specific paths first."""
        return (
            Operation(
                "GET", "/pulls", "Pull requests and branches, last changed first",
                self._pulls, Listing[PullRequestRow], query_model=PullsQuery,
            ),
            Operation(
                "GET", "/testings", "Testings of heads, last changed first",
                self._testings, Listing[RevisionRecord], query_model=TestingQuery,
            ),
            Operation(
                "GET", "/summary", "A testing of a head as the command line shows it",
                self._summary, Summary, query_model=SummaryQuery,
            ),
            Operation(
                "GET", "/jobs", "Jobs, last changed first",
                self._jobs, Listing[JobRecord], query_model=JobQuery,
            ),
            Operation(
                "GET", "/counts", "Numbers of jobs by standing",
                self._counts, Counts, query_model=JobQuery,
            ),
            Operation(
                "GET", "/attempts", "Attempts, last started first",
                self._attempts, Listing[AttemptRecord], query_model=AttemptQuery,
            ),
            Operation(
                "GET", "/incidents", "Incidents, last seen first",
                self._incidents, Listing[Incident], query_model=IncidentQuery,
            ),
            Operation(
                "GET", "/incidents/{incident}", "An incident",
                self._incident, Incident, path_model=IncidentPath,
            ),
            Operation("GET", "/ops", "Whether the CI is well", self._ops, OpsPage),
            Operation("GET", "/platforms", "Platforms and pools", self._platforms, PlatformTable),
            Operation(
                "GET", "/package/{package}", "The last builds of a package's versions",
                self._package, PackageHistory, path_model=PackagePath,
            ),
            Operation(
                "GET", "/audit", "Actions, the newest first",
                self._audit, Listing[AuditEntry], query_model=Paged,
            ),
            *self.others,
            *log_operations(self.logs),
            *self._of_heads,
        )  # fmt: skip

    @property
    def _of_heads(self) -> list[Operation]:
        # A branch may have slashes, so what may follow it is before it.
        parts = [
            [
                Operation(
                    "GET", head + "/jobs", "Jobs of a head, by the filter of its page",
                    self._head_jobs, Listing[JobRecord], path_model=path,
                    query_model=HeadJobsQuery,
                ),
                Operation(
                    "GET", head + "/revdeps", "Reverse dependencies of a head, by name",
                    self._head_revdeps, Listing[RevdepRow], path_model=path,
                    query_model=HeadJobsQuery,
                ),
                Operation(
                    "GET", head + "/bounds",
                    "Upper bounds that reverse dependencies lack which the change breaks",
                    self._bounds, BoundsPatch, path_model=path,
                ),
                Operation(
                    "GET", head + "/job/{job}", "A job: its verdict, witnesses and attempts",
                    self._job, JobPage, path_model=job_path,
                ),
                Operation(
                    "GET", head + "/job/{job}/attempt",
                    "An attempt: its phases, with what it was built, and what differs from where "
                    "the job passed",
                    self._attempt, AttemptDetails, path_model=job_path,
                    query_model=AttemptName,
                ),
            ]
            for head, path, job_path in HEADS
        ]  # fmt: skip
        whole = [
            Operation(
                "GET", head, "A head: its state, causes, and changes since the one before",
                self._head, HeadPage, path_model=path,
            )
            for head, path, _ in HEADS
        ]  # fmt: skip
        return [*(each for part in parts for each in part), *whole]

    async def _describe(self, _request: Request) -> Response:
        return JSONResponse(self._document)

    @cached_property
    def _document(self) -> dict[str, object]:
        return document(self.operations)

    async def _pulls(self, call: Call) -> Listing[PullRequestRow]:
        query: PullsQuery = call.query
        page = await self.sources.ask(
            Index.pull_request_rows,
            RevisionFilter(repository=query.repository, state=query.state, is_open=query.is_open),
            author=query.author,
            words=query.words,
            place=Paged(limit=query.limit, after=query.after).place,
        )
        return Listing[PullRequestRow].of(page)

    async def _testings(self, call: Call) -> Listing[RevisionRecord]:
        query: TestingQuery = call.query
        page = await self.sources.ask(Index.revisions, query.filter, place=query.place)
        return Listing[RevisionRecord].of(page)

    async def _jobs(self, call: Call) -> Listing[JobRecord]:
        query: JobQuery = call.query
        page = await self.sources.ask(Index.jobs, query.filter, place=query.place)
        return Listing[JobRecord].of(page)

    async def _counts(self, call: Call) -> Counts:
        query: JobQuery = call.query
        return await self.sources.ask(Index.counts, query.filter)

    async def _attempts(self, call: Call) -> Listing[AttemptRecord]:
        query: AttemptQuery = call.query
        page = await self.sources.ask(Index.attempts, query.filter, place=query.place)
        return Listing[AttemptRecord].of(page)

    async def _incidents(self, call: Call) -> Listing[Incident]:
        query: IncidentQuery = call.query
        page = await self.sources.ask(Index.incidents, query.filter, place=query.place)
        return Listing[Incident].of(page)

    async def _incident(self, call: Call) -> Incident:
        path: IncidentPath = call.path
        found = await self.sources.ask(Index.incident, path.incident)
        if found is None:
            raise RefusedError(
                404,
                f"no incident {path.incident} (any more): {PREFIX}/incidents lists them",
            )
        return found

    async def _ops(self, _call: Call) -> OpsPage:
        return await self.sources.ops()

    async def _platforms(self, _call: Call) -> PlatformTable:
        return self.sources.platforms

    async def _package(self, call: Call) -> PackageHistory:
        path: PackagePath = call.path
        return await self.sources.ask(Index.package_history, path.package)

    async def _audit(self, call: Call) -> Listing[AuditEntry]:
        query: Paged = call.query
        return Listing[AuditEntry].of(await self.sources.ask(Index.audit, query.place))

    async def _head(self, call: Call) -> HeadPage:
        key = await self._found(call)
        page = await self.sources.ask(
            Index.head_page,
            key,
            contexts=self.sources.contexts,
            maximum_attempts=self.sources.maximum_attempts,
        )
        if page is None:
            raise not_tested(call.path)
        return page

    async def _summary(self, call: Call) -> Summary:
        query: SummaryQuery = call.query
        found = await self.sources.ask(Index.summary, query.key)
        if found is None:
            raise RefusedError(404, f"no such testing (any more): {PREFIX}/testings lists them")
        return found

    async def _head_jobs(self, call: Call) -> Listing[JobRecord]:
        query: HeadJobsQuery = call.query
        wanted = parse_filter(query.q)
        key = await self._found(call)
        page = await self.sources.ask(Index.head_jobs, key, wanted, place=query.place)
        return Listing[JobRecord].of(page)

    async def _head_revdeps(self, call: Call) -> Listing[RevdepRow]:
        query: HeadJobsQuery = call.query
        wanted = parse_filter(query.q)
        key = await self._found(call)
        page = await self.sources.ask(Index.head_revdeps, key, wanted, place=query.place)
        return Listing[RevdepRow].of(page)

    async def _bounds(self, call: Call) -> BoundsPatch:
        return await self.bounds.read(await self._found(call))

    async def _attempt(self, call: Call) -> AttemptDetails:
        query: AttemptName = call.query
        found = chosen((await self._job(call)).attempts, query.attempt)
        if found is None:
            raise RefusedError(404, "no such attempt: the job has a list of its attempts")
        return await self.attempts.details(found)

    async def _job(self, call: Call) -> JobPage:
        path: JobPath = call.path
        key = await self._found(call)
        page = await self.sources.ask(Index.job_page, key, path.job_id)
        if page is None:
            raise no_such_job(path.job)
        return page

    async def _found(self, call: Call) -> RevisionKey:
        return await find_head(self.sources, call.path)


async def _refuse(_request: Request, error: Exception) -> Response:
    return problem_response(error)
