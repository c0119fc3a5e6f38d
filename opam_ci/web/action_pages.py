"""Pages with which people restart and cancel jobs, and report wrong verdicts.

Each shows first what a press would do, and works without JavaScript. They are apart from the pages
of heads and jobs, which are the same for everybody.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import parse_qsl, urlencode

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from opam_ci.clients.remote.listing import Done
from opam_ci.clients.remote.requests import (
    VERDICTS,
    CancelRequest,
    RestartRequest,
    WhichAttempt,
    WrongVerdictRequest,
)
from opam_ci.core.jobs.outcome import label
from opam_ci.core.jobs.selector import CancelUpdate, RestartUpdate
from opam_ci.core.model import Frozen
from opam_ci.core.text.status import problems
from opam_ci.core.text.taken import jobs_text
from opam_ci.web.actions import Actions, Actor
from opam_ci.web.addresses import commit_path, job_id, job_path, target_path
from opam_ci.web.heads import CommitJobPath, PullPath
from opam_ci.web.operation import parsed_path
from opam_ci.web.problems import Way
from opam_ci.web.refusal import RefusedError
from opam_ci.web.rendering import HTML
from opam_ci.web.sign_in import Session
from opam_ci.web.site import Site
from opam_ci.web.wrong_verdicts import WrongVerdicts

M = TypeVar("M", bound=Frozen)

_BODY_LIMIT: Final = 64 << 10
_FIELDS: Final = 20
_FORM: Final = "application/x-www-form-urlencoded"
_PRIVATE: Final = {"cache-control": "no-store"}


@dataclass
class ActionPages:
    """The pages of actions.

    Attributes:
        site: Templates.
        actions: Carry out what is asked for.
    """

    site: Site
    actions: Actions

    def routes(self) -> list[Route]:
        """Returns the routes of actions; they go before those of pages."""
        pull = "/{owner}/{repo}/pull/{number}"
        job = "/{owner}/{repo}/commit/{commit}/job/{job}"
        return [
            Route(f"{pull}/restart", self.jobs, methods=["GET", "POST"]),
            Route(f"{pull}/cancel", self.jobs, methods=["GET", "POST"]),
            Route(f"{job}/wrong-verdict", self.wrong_verdict, methods=["GET", "POST"]),
        ]

    async def jobs(self, request: Request) -> Response:
        """Answers with what a restart or a cancel would do, or does it."""
        path = parsed_path(PullPath, request.path_params)
        action = request.url.path.rpartition("/")[2]
        session = self._session(request)
        if session is None:
            return _to_sign_in(request)
        is_preview = request.method != "POST"
        fields = dict(request.query_params) if is_preview else await self._form(request, session)
        actor = await self.actions.actor(session.login, path)
        head = fields.get("head") or (await self.actions.newest(path)).key.head
        fields = {"which": fields.get("which", ""), "job": fields.get("job", ""), "head": head}
        done = await self.actions.perform(
            actor, path, _update(action, fields, actor, preview=is_preview)
        )
        return self._page(
            request,
            "action.html",
            session=session,
            action=action,
            button=f"{action.capitalize()} {jobs_text(_number(done))}",
            can_press=is_preview and _number(done) > 0,
            done=done,
            fields=fields,
            back=target_path(path.repository, path.target),
            name=f"{path.repository}#{path.number}",
        )

    async def wrong_verdict(self, request: Request) -> Response:
        """Answers with the form of a report, or takes it."""
        path = parsed_path(CommitJobPath, request.path_params)
        session = self._session(request)
        if session is None:
            return _to_sign_in(request)
        reports = WrongVerdicts(self.actions)
        is_report = request.method == "POST"
        fields = await self._form(request, session) if is_report else dict(request.query_params)
        actor = await reports.maintainer(session.login, path)
        wanted: dict[str, str] = _attempt(fields)
        attempt = await reports.attempt(path, _parsed(WhichAttempt, wanted))
        if is_report:
            text = {name: fields.get(name, "") for name in ("expected", "comment")}
            await reports.report(actor, path, _parsed(WrongVerdictRequest, wanted | text))
        return self._page(
            request,
            "wrong_verdict.html",
            session=session,
            is_reported=is_report,
            attempt=attempt,
            attempt_name=fields.get("attempt", ""),
            verdict=label(attempt.outcome) if attempt.outcome is not None else "",
            verdicts=VERDICTS,
            back=job_path(commit_path(path.repository, path.commit), path.job_id),
            job=path.job_id,
        )

    def _page(
        self, request: Request, template: str, *, session: Session, **values: object
    ) -> Response:
        content = self.site.render(
            template,
            here="",
            path=request.url.path,
            login=session.login,
            form_token=self.actions.sign_in.form_token(session),
            **values,
        )
        return Response(content, media_type=HTML, headers=_PRIVATE)

    def _session(self, request: Request) -> Session | None:
        """Returns who a request is from; None if they are to sign in first.

        Raises:
            RefusedError: The session of a form has ended.
        """
        try:
            session = self.actions.sign_in.session(request)
        except RefusedError:
            session = None
        if session is None and request.method == "POST":
            way = Way("Sign in again", _sign_in_path(request.url.path))
            raise RefusedError(
                401, "the session has ended, and nothing was done: sign in again", ways=(way,)
            )
        return session

    async def _form(self, request: Request, session: Session) -> dict[str, str]:
        """Reads the fields of a form of ours.

        Raises:
            RefusedError: It is not one.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _FORM:
            raise RefusedError(415, f"a form is sent as {_FORM}")
        data = bytearray()
        try:
            async for chunk in request.stream():
                data += chunk
                if len(data) > _BODY_LIMIT:
                    raise RefusedError(413, "the form is larger than 64 KiB")
        except ClientDisconnect as error:
            raise RefusedError(400, "the form broke off") from error
        try:
            pairs = parse_qsl(data.decode("ascii"), max_num_fields=_FIELDS, errors="strict")
        except ValueError as error:  # also that of other characters, and of too many fields
            raise RefusedError(400, "the form cannot be read: load the page again") from error
        fields = dict(pairs)
        self.actions.sign_in.check_form(request, session, fields.get("token"))
        return fields


def _update(
    action: str, fields: Mapping[str, str], actor: Actor, *, preview: bool
) -> RestartUpdate | CancelUpdate:
    given: dict[str, object] = {"preview": preview, "head": fields["head"]}
    if fields["job"]:
        try:
            given["job"] = job_id(fields["job"])
        except ValueError as error:
            raise RefusedError(404, "no such job of this head") from error
    if action == "cancel":
        return _parsed(CancelRequest, given).update
    if fields["which"]:
        given["which"] = fields["which"]
    return _parsed(RestartRequest, given).restart(actor.origin)


def _attempt(fields: Mapping[str, str]) -> dict[str, str]:
    """Returns which attempt a report is about, as `ROUND-NUMBER`; none for the last one."""
    round_, _, number = fields.get("attempt", "").partition("-")
    return {"round": round_, "attempt": number} if round_ else {}


def _parsed(model: type[M], values: Mapping[str, object]) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RefusedError(400, problems(error)) from error


def _number(done: Done) -> int:
    return done.taken.jobs if done.taken is not None else 0


def _to_sign_in(request: Request) -> Response:
    query = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(_sign_in_path(request.url.path + query), 303, headers=_PRIVATE)


def _sign_in_path(to: str) -> str:
    return f"/sign-in?{urlencode({'to': to})}"
