"""Overviews: pull requests, platforms, and the history of a package."""

import re

from starlette.requests import Request
from starlette.responses import Response

from opam_ci.clients.index import IncidentFilter, Index, Place, RevisionFilter
from opam_ci.core.pages.overview_filter import OverviewFilter
from opam_ci.web.addresses import repository_path, requested_repository
from opam_ci.web.problems import PageError
from opam_ci.web.site import Site

_ROWS = 100
_CURSOR_LENGTH = 200
_PACKAGE = re.compile(r"[A-Za-z0-9_+~.-]{1,200}")


class OverviewPages:
    """The overviews."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def all(self, request: Request) -> Response:
        """Answers with the pull requests of all repositories."""
        return await self._listing(request, None)

    async def repository(self, request: Request) -> Response:
        """Answers with those of one repository."""
        return await self._listing(request, requested_repository(request))

    async def platforms(self, request: Request) -> Response:
        """Answers with the platforms that packages are built on."""
        return self._site.page(request, "platforms.html", table=self._site.sources.platforms)

    async def package(self, request: Request) -> Response:
        """Answers with the builds of a package's versions."""
        package = request.path_params["package"]
        if _PACKAGE.fullmatch(package) is None:
            raise PageError(404, "No such package", "This is not the name of a package.")
        name = package.partition(".")[0]
        history = await self._site.sources.ask(Index.package_history, name)
        builds = {(each.package, each.platform): each for each in history.builds}
        return self._site.page(request, "package.html", history=history, builds=builds)

    async def _listing(self, request: Request, repository: str | None) -> Response:
        text = " ".join(request.query_params.get("q", "").split())
        wanted = OverviewFilter.parse(text)
        after = request.query_params.get("after")
        ask = self._site.sources.ask
        found = await ask(
            Index.pull_request_rows,
            RevisionFilter(repository=repository, state=wanted.state, is_open=wanted.is_open),
            author=wanted.author,
            words=wanted.words,
            place=Place(limit=_ROWS, after=after and after[:_CURSOR_LENGTH]),
        )
        incidents = await ask(Index.incidents, IncidentFilter(is_open=True))
        return self._site.page(
            request,
            "overview.html",
            filter_text=text,
            following=found.following,
            open_incidents=len(incidents.items),
            path=repository_path(repository) if repository else "/",
            repository=repository,
            rows=found.items,
        )
