"""The actions of a process with pages: put together from its settings."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.routing import BaseRoute

from opam_ci.app.github_service import transport_for
from opam_ci.app.github_settings import GitHubSettings
from opam_ci.app.pull_requests import PullRequests
from opam_ci.clients.github.api import GitHub
from opam_ci.clients.github.oauth import OAuth
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.selector import CancelUpdate, RestartUpdate, Taken
from opam_ci.web.action_pages import ActionPages
from opam_ci.web.actions import Actions
from opam_ci.web.api import Api
from opam_ci.web.job_logs import JobLogs
from opam_ci.web.operation import Operation
from opam_ci.web.sign_in import SignIn
from opam_ci.web.site import Site
from opam_ci.web.sources import PageSources
from opam_ci.web.tokens import Tokens
from opam_ci.web.wrong_verdicts import WrongVerdicts

Connect = Callable[[], Awaitable[PullRequests]]


class UpdatesOnDemand:
    """Connects to Temporal for the first action: pages are shown without it."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connected: PullRequests | None = None

    async def restart_jobs(self, workflow_id: str, update: RestartUpdate) -> Taken | None:
        """Restarts jobs, and returns which."""
        return await (await self._pull_requests()).restart_jobs(workflow_id, update)

    async def cancel_jobs(self, workflow_id: str, update: CancelUpdate) -> Taken | None:
        """Cancels jobs, and returns which."""
        return await (await self._pull_requests()).cancel_jobs(workflow_id, update)

    async def _pull_requests(self) -> PullRequests:
        if self._connected is None:
            try:
                self._connected = await self._connect()
            except UsageError as error:
                # For whoever presses a button it is a fault of the CI.
                raise InfrastructureError(str(error), cause=Cause.UNKNOWN) from error
        return self._connected


@contextlib.asynccontextmanager
async def acting(
    github: GitHubSettings, connect: Connect, sources: PageSources, *, url: str
) -> AsyncIterator[Actions | None]:
    """Makes the actions for the time of a block; None where nobody can sign in.

    Args:
        github: Of the GitHub part.
        connect: Connects to Temporal.
        sources: The index.
        url: Of the pages, as browsers see them.

    Raises:
        UsageError: A setting is missing, or the pages are not served with TLS.
    """
    secret = github.client_secret()
    if secret is None:
        yield None
        return
    async with (
        GitHub(
            github.tracked.repository,
            github.credentials(),
            base_url=github.api_url,
            transport=transport_for(github.api_url),
        ) as api,
        OAuth(
            github.client_id,
            secret,
            web_url=github.web_url,
            api_url=github.api_url,
        ) as oauth,
    ):
        yield Actions(
            sources=sources,
            updates=UpdatesOnDemand(connect),
            github=api,
            sign_in=SignIn(oauth, secret, url=url),
            tokens=Tokens(oauth),
            tracked=github.tracked,
        )


def routes_beside_pages(site: Site, actions: Actions | None) -> list[BaseRoute]:
    """Returns the routes of the JSON API, and those of actions where there are some.

    Args:
        site: The pages.
        actions: What people can do; None where nobody can sign in.
    """
    others: tuple[Operation, ...] = ()
    found: list[BaseRoute] = []
    if actions is not None:
        others = (*actions.operations, WrongVerdicts(actions).operation)
        found = [*actions.sign_in.routes(), *ActionPages(site, actions).routes()]
    return [*found, *Api(site.sources, JobLogs(site), others).routes()]
