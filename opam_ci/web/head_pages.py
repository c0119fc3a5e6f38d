"""Pages of a head: of a pull request, of a branch of a local clone, and of an older commit."""

from collections.abc import Awaitable, Callable, Iterable
from itertools import groupby
from typing import NamedTuple, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from opam_ci.clients.index import Index, Place, RevisionFilter
from opam_ci.clients.lint.findings import load_findings
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.summary import BUILDS_NOTHING, Counts, Standing
from opam_ci.core.lint.finding import LintFinding
from opam_ci.core.pages.filter import PageFilter, parse_filter
from opam_ci.core.pages.model import CauseGroup, HeadPage, HeadTop
from opam_ci.web import matrix
from opam_ci.web.addresses import (
    commit_path,
    requested_commit,
    requested_pull_request,
    requested_repository,
)
from opam_ci.web.badge import badge
from opam_ci.web.formats import target_name
from opam_ci.web.glyphs import GLYPHS
from opam_ci.web.problems import ALL_PULL_REQUESTS, PageError, Way
from opam_ci.web.rendering import answer, has, not_modified, tag_of
from opam_ci.web.site import Site, newest_path

_JOBS = 200
"""Jobs on one page of a list."""

_REVDEPS = 500
"""Reverse dependencies on one."""

_CURSOR_LENGTH = 500
"""Characters of a cursor at most: that of reverse dependencies is a name."""

_BUILDS = tuple(kind for kind in JobKind if kind not in BUILDS_NOTHING)


Top = TypeVar("Top", bound=HeadTop)

_Make = Callable[[Request, Top, dict[str, object]], Awaitable[tuple[str, bool]]]
"""Renders a page of a head with what all of them have, and returns whether it lacks nothing."""


class HeadPages:
    """The pages of heads."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def page(self, request: Request) -> Response:
        """Answers with the page of a head, or with a list of its jobs if there is a filter."""
        if "q" in request.query_params:
            return await self._answer(request, Index.head_top, self._jobs)
        return await self._answer(request, Index.head_page, self._overview)

    async def revdeps(self, request: Request) -> Response:
        """Answers with a list of reverse dependencies by name."""
        return await self._answer(request, Index.head_top, self._revdeps)

    async def badge(self, request: Request) -> Response:
        """Answers with the state of the newest head as an image."""
        key = await find(self._site, request)
        found = await self._site.sources.ask(Index.revisions, RevisionFilter(revision=key))
        if not found.items:
            raise unknown_head()
        return answer(request, badge(found.items[0].state), media_type="image/svg+xml")

    async def _answer(
        self, request: Request, read: Callable[..., Top | None], make: _Make[Top]
    ) -> Response:
        """Answers with what is made of a head, unless the client has it as it is."""
        site = self._site
        key = await find(site, request)

        def tag_at(version: str) -> str:
            return tag_of(site.version, request.url.path, request.url.query, version)

        if "if-none-match" in request.headers:
            version = await site.sources.ask(Index.head_version, key)
            if version is not None and has(request, tag := tag_at(version)):
                return not_modified(tag)
        page = await site.sources.ask(
            read,
            key,
            contexts=site.sources.contexts,
            maximum_attempts=site.sources.maximum_attempts,
        )
        if page is None:
            raise unknown_head()
        tag = tag_at(page.version)
        common = head_context(site, request, key)
        text = " ".join(request.query_params.get("q", "").split())
        common |= {
            "filter_path": common["base"],
            "filter_text": text,
            "is_listing": read == Index.head_top,
            "newest": _is_older(page),
            "page": page,
            "tag": tag,
        }
        content, is_whole = await make(request, page, common)
        # What lacks something for the moment is asked for again.
        return answer(request, content, tag=tag if is_whole else None)

    async def _overview(
        self, _: Request, page: HeadPage, common: dict[str, object]
    ) -> tuple[str, bool]:
        findings = await self._findings(page)
        content = self._site.render(
            "head.html",
            **common,
            causes=titled_causes(page.causes.groups),
            exceptions=matrix.exceptions(page.matrix),
            findings=findings,
            shares=shares(page.counts),
            tables=matrix.tables(page.matrix),
        )
        return content, findings is not None

    async def _jobs(
        self, request: Request, page: HeadTop, common: dict[str, object]
    ) -> tuple[str, bool]:
        place = _place(request, _JOBS)
        wanted = parse_filter(str(common["filter_text"]))
        found = await self._site.sources.ask(
            Index.head_jobs, page.revision.key, wanted, place=place
        )
        is_part = found.following is not None or place.after is not None
        following, jobs = found.following, found.items
        content = self._site.render(
            "jobs.html", **common, following=following, is_part=is_part, jobs=jobs
        )
        return content, True

    async def _revdeps(
        self, request: Request, page: HeadTop, common: dict[str, object]
    ) -> tuple[str, bool]:
        wanted = parse_filter(str(common["filter_text"]))
        found = await self._site.sources.ask(
            Index.head_revdeps, page.revision.key, wanted, place=_place(request, _REVDEPS)
        )
        common["filter_path"] = f"{common['base']}/revdeps"
        following, rows = found.following, found.items
        content = self._site.render("revdeps.html", **common, following=following, rows=rows)
        return content, True

    async def _findings(self, page: HeadPage) -> tuple[LintFinding, ...] | None:
        """Returns lint's findings if there are some; None if the store does not answer."""
        lint = [at for at, each in enumerate(page.matrix.columns) if each.kind is JobKind.LINT]
        has_failed = any(
            cell is not None and cell.standing is Standing.FAILED
            for row in page.matrix.rows
            for cell in (row.cells[at] for at in lint)
        )
        if not has_failed:
            return ()
        try:
            return await load_findings(self._site.sources.store, page.revision.key)
        except InfrastructureError:
            return None


async def find(site: Site, request: Request) -> RevisionKey:
    """Finds the newest testing that a request is about.

    Raises:
        PageError: There is none.
        InfrastructureError: The index is away.
    """
    if "commit" not in request.path_params:
        ref = requested_pull_request(request)
        target = f"pull/{ref.number}" if ref.branch is None else f"heads/{ref.branch}"
        repository = f"{ref.owner}/{ref.repo}"
        found = await site.sources.ask(Index.find_head, repository, target=target)
    else:
        repository = requested_repository(request)
        commit = requested_commit(request)
        try:
            found = await site.sources.ask(Index.find_head, repository, head=commit)
        except UsageError as error:
            raise PageError(404, "Several commits begin so", f"{error}.") from error
    if found is None:
        raise unknown_head(repository)
    return found


def unknown_head(repository: str = "") -> PageError:
    """Returns the problem of a head that is not in the index."""
    way = (Way(f"Pull requests of {repository}", f"/{repository}"),) if repository else ()
    return PageError(
        404,
        "Not tested here",
        "This CI has not tested it: it may be closed for long, of another repository, or so new "
        "that its webhook is still to come. Then try again in a minute.",
        (*way, ALL_PULL_REQUESTS),
    )


def head_context(site: Site, request: Request, key: RevisionKey) -> dict[str, object]:
    """Returns what templates of all pages below a head use."""
    is_commit = "commit" in request.path_params
    newest = newest_path(key)
    return {
        "base": commit_path(key.repository, key.head) if is_commit else newest,
        "is_commit": is_commit,
        "name": target_name(key),
        "name_short": f"#{key.number}" if key.branch is None else key.branch,
        "target_path": newest,
        "temporal_url": site.temporal_path(key),
    }


class Share(NamedTuple):
    """The part of a head's jobs with one standing, in the bar below the sentence.

    Attributes:
        name: The standing.
        number: How many.
        filter: Lists them.
        start: Where its part of the bar begins, in percent.
        width: How wide it is.
    """

    name: str
    number: int
    filter: str
    start: float
    width: float


def shares(counts: Counts) -> tuple[Share, ...]:
    """Returns the parts of builds and tests by standing, the worst first."""
    found = []
    start = 0.0
    for standing in GLYPHS:
        number: int = getattr(counts, standing.value)
        if number:
            width = 100 * number / counts.total
            wanted = PageFilter(standings=(standing,), kinds=_BUILDS).text
            found.append(Share(standing.value, number, wanted, round(start, 3), round(width, 3)))
            start += width
    return tuple(found)


def titled_causes(groups: Iterable[CauseGroup]) -> list[tuple[str, list[CauseGroup]]]:
    """Returns groups of causes by whose fault they are, in their order, each with a title."""
    return [
        (title, list(some)) for title, some in groupby(groups, lambda each: _TITLES[each.standing])
    ]


_CI = "What the CI could not do: not your fault"
_TITLES = {
    Standing.ERRORED: _CI,
    Standing.RETRYING: _CI,
    Standing.FAILED: "Why it is red",
    Standing.SKIPPED: "What was skipped, and why",
}


def _is_older(page: HeadTop) -> bool:
    key = page.revision.key
    return bool(page.heads) and page.heads[0].opened_at > key.opened_at


def _place(request: Request, limit: int) -> Place:
    after = request.query_params.get("after")
    return Place(limit=limit, after=after and after[:_CURSOR_LENGTH])
