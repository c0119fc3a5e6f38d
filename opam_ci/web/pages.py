"""The application of pages: routes, errors and headers. Read-only, from index and store alone."""

import logging
from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.web.bounds import BoundsFiles
from opam_ci.web.head_pages import HeadPages
from opam_ci.web.incident_pages import IncidentPages
from opam_ci.web.job_logs import JobLogs
from opam_ci.web.job_pages import JobPages
from opam_ci.web.ops import OpsPages
from opam_ci.web.overview_pages import OverviewPages
from opam_ci.web.problems import ALL_PULL_REQUESTS, PageError, Way, no_such_page
from opam_ci.web.security import SecurityHeaders
from opam_ci.web.site import Site

_log = logging.getLogger(__name__)

_NOT_FOUND = 404


def application(site: Site, more: Sequence[BaseRoute] = ()) -> ASGIApp:
    """Returns the application of all pages.

    Args:
        site: What pages are made from.
        more: Routes that go before those of pages, such as those of the JSON API.
    """
    app = Starlette(
        routes=[*more, *routes(site)],
        exception_handlers={
            PageError: _handler(site, _as_it_is),
            HTTPException: _handler(site, _of_http),
            UsageError: _handler(site, _of_usage),
            InfrastructureError: _handler(site, _of_infrastructure),
            Exception: _handler(site, _of_bug),
        },
    )
    # Around it, and not as its middleware: the page of a bug is made outside of that.
    return SecurityHeaders(app)


def routes(site: Site) -> list[Route]:
    """Returns the routes of all pages."""
    logs = JobLogs(site)
    heads, jobs = HeadPages(site), JobPages(site, logs)
    overview, incidents = OverviewPages(site), IncidentPages(site)
    ops, bounds = OpsPages(site), BoundsFiles(site)
    pull = "/{owner}/{repo}/pull/{number:int}"
    commit = "/{owner}/{repo}/commit/{commit}"
    branch = "/{owner}/{repo}/heads/{branch:path}"
    return [
        Route("/", overview.all),
        Route("/healthz", _healthz),
        Route("/platforms", overview.platforms),
        Route("/incidents", incidents.page),
        Route("/incidents.atom", incidents.atom),
        Route("/ops", ops.page),
        Route("/package/{package}", overview.package),
        Route("/static/{name}", site.assets.serve),
        Route(f"/badge{pull}.svg", heads.badge),
        Route(f"/badge{branch}.svg", heads.badge),
        # A branch may have slashes, so what may follow it is before it.
        *(route for head in (pull, commit, branch) for route in logs.routes(f"{head}/job/{{job}}")),
        *(
            Route(f"{head}/job/{{job}}/bound.patch", bounds.of_job)
            for head in (pull, commit, branch)
        ),
        *(Route(f"{head}/job/{{job}}", jobs.page) for head in (pull, commit, branch)),
        *(Route(f"{head}/bounds.patch", bounds.of_head) for head in (pull, commit, branch)),
        *(Route(f"{head}/revdeps", heads.revdeps) for head in (pull, commit, branch)),
        *(Route(head, heads.page) for head in (pull, commit, branch)),
        Route("/{owner}/{repo}", overview.repository),
    ]


async def _healthz(_request: Request) -> Response:
    """Responds whenever the process does, with index and store away too."""
    return JSONResponse({"status": "ok"})


def _handler(
    site: Site, made: Callable[[Request, Exception], PageError]
) -> Callable[[Request, Exception], Response]:
    def handle(request: Request, error: Exception) -> Response:
        return site.problem(request, made(request, error))

    return handle


def _as_it_is(_request: Request, error: Exception) -> PageError:
    return error if isinstance(error, PageError) else no_such_page()


def _of_http(_request: Request, error: Exception) -> PageError:
    if isinstance(error, HTTPException) and error.status_code != _NOT_FOUND:
        return PageError(
            error.status_code, error.detail, "Pages are read by GET: start from the list."
        )
    return no_such_page()


def _of_usage(request: Request, error: Exception) -> PageError:
    """A filter or a cursor that does not parse: its text says what to do instead."""
    text = str(error)
    ways = (Way("The same page without it", request.url.path), ALL_PULL_REQUESTS)
    filter_text = request.query_params.get("q")
    mend = Way(filter_text, request.url.path) if filter_text else None
    advice = f"{text[:1].upper()}{text[1:]}."
    return PageError(400, "This cannot be listed", advice, ways, mend=mend)


def _of_infrastructure(request: Request, error: Exception) -> PageError:
    # The text may have addresses of the CI's own machines.
    _log.warning("a page cannot be made: %s", error)
    return PageError(
        503,
        "The CI's index or store does not answer",
        "That is not your fault, and no result is lost: try again in a minute. "
        "Statuses on GitHub are up to date as far as GitHub has them.",
        (Way("Try again", str(request.url.replace(scheme="", netloc=""))), ALL_PULL_REQUESTS),
    )


def _of_bug(_request: Request, _error: Exception) -> PageError:
    return PageError(
        500,
        "A bug of opam-ci",
        "This page cannot be made. Its operators find the reason in the log.",
    )
