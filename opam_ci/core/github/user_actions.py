"""Actions of people: buttons, Re-run, and commands in comments."""

from opam_ci.core.github.action import (
    Action,
    Approve,
    Cancel,
    Ignore,
    Restart,
    Tracked,
    UnknownCommand,
    foreign,
    number_in,
)
from opam_ci.core.github.command import (
    USAGE,
    CancelCommand,
    Command,
    NoSuchCommand,
    OkCommand,
    RestartCommand,
    parse_command,
)
from opam_ci.core.github.payload import (
    App,
    CheckedPullRequest,
    CheckRunPayload,
    CheckSuitePayload,
    IssueCommentPayload,
    Repository,
)
from opam_ci.core.jobs.hold import Approval
from opam_ci.core.jobs.selector import RestartSelector, RestartWhich

RESTART_ERRORS = "restart-errors"
"""Identifier of the button "Restart CI errors"; GitHub accepts 20 characters."""

RESTART_FAILED = "restart-failed"
"""Identifier of the button "Restart failed"."""

_ERRORED = RestartSelector(which=RestartWhich.ERRORED)
_FAILED = RestartSelector(which=RestartWhich.FAILED)
_ALL = RestartSelector(which=RestartWhich.ALL)
_BUTTONS: dict[str, tuple[RestartSelector, ...]] = {
    RESTART_ERRORS: (_ERRORED,),
    RESTART_FAILED: (_FAILED,),
}


def _not_ours(app: App | None, tracked: Tracked) -> Ignore | None:
    if tracked.app_id is None:
        return Ignore(reason="checks are not in use: no GitHub App is configured")
    if app is None or app.id != tracked.app_id:
        return Ignore(reason="a check of another App")
    return None


def _numbers(found: tuple[CheckedPullRequest, ...], repository: Repository) -> tuple[int, ...]:
    """Returns those of the pull requests whose base is in the repository itself."""
    return tuple(sorted({pull.number for pull in found if pull.base.repo.id == repository.id}))


def _number_of(external_id: str | None, tracked: Tracked) -> tuple[int, ...]:
    """Returns the pull request in the id that we gave a check run.

    Two pull requests can share a head; a button belongs to one of them.
    """
    number = number_in(external_id or "")
    if number is None or tracked.ref(number).workflow_id != external_id:
        return ()
    return (number,)


def decide_check_run(payload: CheckRunPayload, tracked: Tracked) -> Action:
    """Returns the action of a pressed button, or of Re-run of one check."""
    run = payload.check_run
    if other := foreign(payload.repository.full_name, tracked) or _not_ours(run.app, tracked):
        return other
    match payload.action:
        case "requested_action":
            button = payload.requested_action.identifier if payload.requested_action else ""
            if button not in _BUTTONS:
                return Ignore(reason=f"unknown button: {button[:20]!r}")
            selectors = _BUTTONS[button]
        case "rerequested":
            # Re-run of a green check can only mean all of it.
            selectors = (_ALL,) if run.conclusion == "success" else (_ERRORED, _FAILED)
        case action:
            return Ignore(reason=f"{action!r} of a check run needs no action")
    return Restart(
        numbers=_number_of(run.external_id, tracked)
        or _numbers(run.pull_requests, payload.repository),
        head=run.head_sha,
        selectors=selectors,
        by=payload.sender.login,
        check_permission=False,
    )


def decide_check_suite(payload: CheckSuitePayload, tracked: Tracked) -> Action:
    """Returns the action of Re-run of all checks."""
    suite = payload.check_suite
    if other := foreign(payload.repository.full_name, tracked) or _not_ours(suite.app, tracked):
        return other
    if payload.action != "rerequested":
        return Ignore(reason=f"{payload.action!r}: heads to test come by pull_request events")
    return Restart(
        numbers=_numbers(suite.pull_requests, payload.repository),
        head=suite.head_sha,
        selectors=(_ALL,),
        by=payload.sender.login,
        check_permission=False,
    )


def decide_comment(payload: IssueCommentPayload, tracked: Tracked) -> Action:
    """Returns the action of a comment."""
    if other := foreign(payload.repository.full_name, tracked):
        return other
    if reason := _not_for_commands(payload):
        return Ignore(reason=reason)
    command = parse_command(payload.comment.body or "")
    if command is None:
        return Ignore(reason="a comment without a command")
    author = payload.comment.user
    if author is None or author.type == "Bot":
        return Ignore(reason="written by a bot or an unknown account")
    return _commanded(command, payload, author.login, tracked)


def _not_for_commands(payload: IssueCommentPayload) -> str | None:
    if payload.action != "created":
        return "only new comments are commands"
    if payload.issue.pull_request is None:
        return "a comment on an issue"
    if payload.issue.state != "open":
        return "a comment on a pull request that is not open"
    return None


def _commanded(command: Command, payload: IssueCommentPayload, by: str, tracked: Tracked) -> Action:
    issue = payload.issue
    ref = tracked.ref(issue.number)
    ask = issue.user is None or issue.user.login.lower() != by.lower()
    match command:
        case CancelCommand():
            return Cancel(pull_request=ref, by=by, check_permission=ask)
        case OkCommand(always=always):
            approval = Approval(as_of=payload.comment.created_at, always=always)
            return Approve(pull_request=ref, by=by, approval=approval)
        case RestartCommand(selector=selector):
            return Restart(
                numbers=(issue.number,),
                selectors=(selector,),
                by=by,
                check_permission=ask,
                by_author=not ask,
            )
        case NoSuchCommand():
            return UnknownCommand(pull_request=ref, by=by, check_permission=ask, answer=USAGE)
