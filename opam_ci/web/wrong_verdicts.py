"""Reports of wrong verdicts: maintainers keep a log, and say what it should have ended with."""

from dataclasses import dataclass

from starlette.responses import Response

from opam_ci.clients.index import AttemptFilter, Index, Place, RevisionFilter
from opam_ci.clients.logs.kept import keep_log
from opam_ci.clients.remote.requests import WhichAttempt, WrongVerdictRequest
from opam_ci.core.github.model import Login
from opam_ci.core.jobs.outcome import label
from opam_ci.core.jobs.records import AttemptRecord
from opam_ci.core.jobs.selector import RestartOrigin
from opam_ci.core.pages.model import WrongVerdict
from opam_ci.web.actions import Actions, Actor
from opam_ci.web.heads import CommitJobPath, find_head, no_such_job
from opam_ci.web.operation import Call, Operation, answer, read_body
from opam_ci.web.refusal import RefusedError

_ATTEMPTS_READ = 1000


@dataclass
class WrongVerdicts:
    """Takes reports of wrong verdicts.

    Attributes:
        actions: Say who may report, and record who did.
    """

    actions: Actions

    @property
    def operation(self) -> Operation:
        """The report as an operation of the API."""
        return Operation(
            "POST", "/{owner}/{repo}/commit/{commit}/job/{job}/wrong-verdict",
            "Keeps an attempt's log, with what its verdict should have been",
            self._report, WrongVerdict, path_model=CommitJobPath,
            body_model=WrongVerdictRequest, problems=self.actions.problems,
        )  # fmt: skip

    async def report(
        self, actor: Actor, path: CommitJobPath, body: WrongVerdictRequest
    ) -> WrongVerdict:
        """Keeps an attempt's log, and records what its verdict should have been.

        Raises:
            RefusedError: There is no such attempt, it has not ended, or its verdict is that one.
            InfrastructureError: The index or the store is not available.
        """
        attempt = await self.attempt(path, body)
        if attempt.outcome is None:
            raise RefusedError(409, "the attempt has no verdict yet: it is running")
        if label(attempt.outcome) == body.expected:
            raise RefusedError(409, f"the verdict is {body.expected} already")
        kept = None
        if attempt.log_key is not None:
            kept = await keep_log(self.actions.sources.store, attempt.log_key)
        found = WrongVerdict(
            at=self.actions.clock(),
            login=actor.login,
            attempt=attempt,
            expected=body.expected,
            comment=body.comment,
            log_key=kept,
        )
        await self.actions.sources.ask(Index.add_wrong_verdict, found)
        await self.actions.audit(actor, "wrong-verdict", attempt.revision.target, body, 1)
        return found

    async def maintainer(self, login: Login, path: CommitJobPath) -> Actor:
        """Returns as whom somebody reports.

        Raises:
            RefusedError: Nobody who may.
            InfrastructureError: GitHub is not available.
        """
        self.actions.check_tracked(path)
        role, may_command = await self.actions.role(login)
        if not may_command:
            raise RefusedError(
                403,
                f"{login} may not do that: it takes triage rights in "
                f"{self.actions.tracked.repository}",
            )
        return Actor(login, role, RestartOrigin.PERSON)

    async def _report(self, call: Call) -> Response:
        actor = await self.maintainer(await self.actions.login(call.request), call.path)
        body: WrongVerdictRequest = await read_body(call.request, WrongVerdictRequest)
        return answer(await self.report(actor, call.path, body))

    async def attempt(self, path: CommitJobPath, wanted: WhichAttempt) -> AttemptRecord:
        """Returns an attempt of a job.

        Raises:
            RefusedError: There is none.
            InfrastructureError: The index is not available.
        """
        sources = self.actions.sources
        key = await find_head(sources, path)
        all_of_job = AttemptFilter(of=RevisionFilter(revision=key), name=path.job_id)
        page = await sources.ask(Index.attempts, all_of_job, place=Place(limit=_ATTEMPTS_READ))
        matching = [
            each
            for each in page.items
            if wanted.round in {None, each.round} and wanted.attempt in {None, each.number}
        ]
        if not matching:
            raise (
                no_such_job(path.job)
                if not page.items
                else RefusedError(
                    404, f"no such attempt of {path.job[:200]!r}: its page lists all of them"
                )
            )
        return max(matching, key=lambda each: (each.round, each.number))
