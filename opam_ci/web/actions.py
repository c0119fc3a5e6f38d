"""Restarting and cancelling jobs, and reporting verdicts, for those whom GitHub lets do so.

The same people as by comments: those with triage rights or more, and the author of the pull
request, whose restarts are limited. GitHub is asked at each action.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from opam_ci.clients.github.api import GitHub
from opam_ci.clients.github.errors import GitHubRefusedError
from opam_ci.clients.index import Index, Place, RevisionFilter
from opam_ci.clients.remote.listing import Done
from opam_ci.clients.remote.requests import CancelRequest, RestartRequest
from opam_ci.core.errors import UsageError
from opam_ci.core.github.action import Tracked
from opam_ci.core.github.model import Login
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.records import RevisionRecord
from opam_ci.core.jobs.selector import CancelUpdate, RestartOrigin, RestartUpdate, Taken
from opam_ci.core.pages.model import AuditEntry
from opam_ci.core.printable import clip
from opam_ci.core.text.taken import taken_lines
from opam_ci.web.heads import HeadPath, PullPath
from opam_ci.web.operation import Call, Operation, answer, read_body
from opam_ci.web.refusal import RefusedError
from opam_ci.web.sign_in import SignIn
from opam_ci.web.sources import PageSources
from opam_ci.web.throttle import Throttle
from opam_ci.web.tokens import HINT, Tokens

_LOG = logging.getLogger(__name__)

FORM_TOKEN_HEADER = "x-csrf-token"  # noqa: S105 - the name of a header

_DETAIL_LENGTH = 2000

ROLES_A_MINUTE, ROLES_A_MINUTE_EACH = 40, 20
"""Questions to GitHub about what accounts may do, of all and of one: half of what GitHub answers in
an hour is left for statuses. A press takes two."""


class Updates(Protocol):
    """Client of the workflows, implemented by `app.pull_requests.PullRequests`."""

    async def restart_jobs(self, workflow_id: str, update: RestartUpdate) -> Taken | None:
        """Restarts jobs, and returns which."""

    async def cancel_jobs(self, workflow_id: str, update: CancelUpdate) -> Taken | None:
        """Cancels jobs, and returns which."""


class Actor(NamedTuple):
    """Somebody who may act on a pull request.

    Attributes:
        login: The account.
        role: Its role in the repository, as GitHub names it, or `author`.
        origin: As whom jobs are restarted.
    """

    login: Login
    role: str
    origin: RestartOrigin


@dataclass
class Actions:
    """Carries out what people ask for on pages and on the command line.

    Attributes:
        sources: The index.
        updates: Client of the workflows.
        github: Says what an account may do.
        sign_in: Says whose a browser's request is.
        tokens: Say whose another client's request is.
        tracked: The repository.
        throttle: Limits how often GitHub is asked.
        clock: For the audit log.
    """

    sources: PageSources
    updates: Updates
    github: GitHub
    sign_in: SignIn
    tokens: Tokens
    tracked: Tracked
    throttle: Throttle = field(
        default_factory=lambda: Throttle(ROLES_A_MINUTE, most_each=ROLES_A_MINUTE_EACH)
    )
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    @property
    def problems(self) -> dict[int, str]:
        """What refusals of an action mean, by status code."""
        return {
            401: "Nobody is signed in, the session has expired, or the token is not valid.",
            403: "The account may not do that, or another site sent the request.",
            409: "Nothing was done: what was asked for is outdated, has ended, or is limited.",
            413: "The body is larger than 1 MiB.",
            415: "The body is not JSON by its content type.",
            422: "The body is not what this action takes.",
            429: "GitHub is asked too often at the moment, or by this account.",
        }

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Restarting and cancelling as operations of the API."""
        pull = "/{owner}/{repo}/pull/{number}"
        later = {202: "It is accepted and not executed yet; it need not be repeated."}
        return (
            Operation(
                "POST", pull + "/restart", "Restarts decided jobs, or returns which it would",
                self._restart, Done, path_model=PullPath, body_model=RestartRequest,
                problems=self.problems, more=later,
            ),
            Operation(
                "POST", pull + "/cancel", "Cancels undecided jobs, or returns which it would",
                self._cancel, Done, path_model=PullPath, body_model=CancelRequest,
                problems=self.problems, more=later,
            ),
        )  # fmt: skip

    async def login(self, request: Request) -> Login:
        """Returns whose request of the API this is.

        Raises:
            RefusedError: Nobody's, or another site may have sent it.
            InfrastructureError: GitHub is not available.
        """
        header = request.headers.get("authorization")
        if header is not None:
            return await self.tokens.login(header)
        session = self.sign_in.session(request)
        if session is None:
            raise RefusedError(401, f"sign in, or {HINT}", headers={"www-authenticate": "Bearer"})
        self.sign_in.check_form(request, session, request.headers.get(FORM_TOKEN_HEADER))
        return session.login

    async def actor(self, login: Login, path: PullPath) -> Actor:
        """Returns what somebody may do with a pull request; asked of GitHub each time.

        Raises:
            RefusedError: Nothing, or there is no such pull request.
            InfrastructureError: GitHub or the index is not available.
        """
        author = (await self.newest(path)).author
        role, may_command = await self.role(login)
        if may_command:
            return Actor(login, role, RestartOrigin.PERSON)
        if author is not None and author.lower() == login.lower():
            return Actor(login, "author", RestartOrigin.AUTHOR)
        raise RefusedError(
            403,
            f"{login} may not do that: it takes triage rights in {self.tracked.repository}, or to "
            "be the author of the pull request",
        )

    async def role(self, login: Login) -> tuple[str, bool]:
        """Returns an account's role in the repository, and whether it may command the CI.

        Raises:
            RefusedError: Too many have been asked about.
            InfrastructureError: GitHub is not available.
        """
        self.throttle.count(login.lower())
        try:
            permission = await self.github.permission(login)
        except GitHubRefusedError:
            # An account that was renamed or deleted since it signed in.
            return "none", False
        return permission.role, permission.may_command

    async def perform(
        self, actor: Actor, path: PullPath, update: RestartUpdate | CancelUpdate
    ) -> Done:
        """Restarts or cancels jobs, or returns which it would, and records who did.

        Raises:
            RefusedError: Nothing was done.
            InfrastructureError: Temporal is not available.
        """
        ref = self.tracked.ref(path.number)
        try:
            if isinstance(update, RestartUpdate):
                taken = await self.updates.restart_jobs(ref.workflow_id, update)
            else:
                taken = await self.updates.cancel_jobs(ref.workflow_id, update)
        except UsageError as error:
            raise RefusedError(409, str(error)) from error
        if taken is None and update.preview:
            raise InfrastructureError(
                f"{ref.workflow_id} did not return a preview in time", cause=Cause.STORAGE
            )
        if taken is not None and taken.refusal is not None:
            raise RefusedError(409, taken.refusal)
        if not update.preview:
            kind = "restart" if isinstance(update, RestartUpdate) else "cancel"
            await self.audit(
                actor, kind, path.target, update.selector, taken.jobs if taken is not None else 0
            )
        name = f"{self.tracked.repository}/{path.number}"
        lines = tuple(taken_lines(name, taken, update))
        return Done(taken=taken, preview=update.preview, lines=lines)

    async def audit(
        self, actor: Actor, action: str, target: str, detail: BaseModel, taken: int
    ) -> None:
        """Records what somebody did; it is done already, and so remains if that fails."""
        entry = AuditEntry(
            at=self.clock(),
            login=actor.login,
            role=actor.role,
            action=action,
            repository=self.tracked.repository,
            target=target,
            detail=clip(detail.model_dump_json(exclude_defaults=True), _DETAIL_LENGTH),
            taken=taken,
        )
        _LOG.info("%s", entry.model_dump_json())
        try:
            await self.sources.ask(Index.add_audit, entry)
        except InfrastructureError:
            _LOG.exception("the audit log lacks the entry above")

    def check_tracked(self, path: HeadPath) -> None:
        """Refuses pull requests of other repositories.

        Raises:
            RefusedError: It is one.
        """
        if path.repository.lower() != self.tracked.repository.lower():
            raise RefusedError(404, f"this CI acts on {self.tracked.repository} alone")

    async def newest(self, path: PullPath) -> RevisionRecord:
        """Returns the newest testing of a pull request.

        Raises:
            RefusedError: There is none.
            InfrastructureError: The index is not available.
        """
        self.check_tracked(path)
        wanted = RevisionFilter(repository=self.tracked.repository, number=path.number, newest=True)
        found = await self.sources.ask(Index.revisions, wanted, place=Place(limit=1))
        if not found.items:
            raise RefusedError(404, f"no test of {path.repository}#{path.number} (yet)")
        return found.items[0]

    async def _restart(self, call: Call) -> Response:
        actor = await self.actor(await self.login(call.request), call.path)
        body: RestartRequest = await read_body(call.request, RestartRequest)
        return _answered(await self.perform(actor, call.path, body.restart(actor.origin)))

    async def _cancel(self, call: Call) -> Response:
        actor = await self.actor(await self.login(call.request), call.path)
        body: CancelRequest = await read_body(call.request, CancelRequest)
        return _answered(await self.perform(actor, call.path, body.update))


def _answered(done: Done) -> Response:
    return answer(done, status=200 if done.taken is not None else 202)
