"""From a delivery to its action: a pure function of the bytes received."""

from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError

from opam_ci.core.errors import OpamCiError
from opam_ci.core.github.action import (
    Action,
    HeadEvent,
    Ignore,
    Reconcile,
    RefreshBase,
    Tracked,
    closed,
    foreign,
    head_changed,
)
from opam_ci.core.github.model import Tolerant
from opam_ci.core.github.payload import (
    CheckRunPayload,
    CheckSuitePayload,
    InstallationPayload,
    IssueCommentPayload,
    PullRequestPayload,
    PushPayload,
)
from opam_ci.core.github.user_actions import decide_check_run, decide_check_suite, decide_comment
from opam_ci.core.text.status import problems

_HEADS: dict[str, HeadEvent] = {
    "opened": "opened",
    "reopened": "reopened",
    "synchronize": "pushed",
    "ready_for_review": "ready",
    "converted_to_draft": "drafted",
}
"""Actions of `pull_request` after which a head is to be tested, as `HeadEvent`."""

_Payload = TypeVar("_Payload", bound=Tolerant)


class UnreadablePayloadError(OpamCiError):
    """The payload of a known event does not match GitHub's documentation."""


def decide(event: str, body: bytes, tracked: Tracked) -> Action:
    """Returns the action of a delivery.

    Args:
        event: `X-GitHub-Event`.
        body: The payload, JSON; its signature has been checked.
        tracked: The repository and branch that this CI tests.

    Raises:
        UnreadablePayloadError: The payload lacks required fields.
    """
    if event == "ping":
        return Ignore(reason="ping: the webhook works")
    reader = _READERS.get(event)
    if reader is None:
        return Ignore(reason="an event that this CI does not handle")
    return reader(event, body, tracked)


def _read(shape: type[_Payload], event: str, body: bytes) -> _Payload:
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        raise UnreadablePayloadError(f"invalid {event} payload: {problems(error)}") from error


def _pull_request(payload: PullRequestPayload, tracked: Tracked) -> Action:
    pull, action = payload.pull_request, payload.action
    if other := foreign(payload.repository.full_name, tracked):
        return other
    if action == "edited":
        return _edited(payload, tracked)
    if pull.base.ref != tracked.branch:
        return _other_base(payload, tracked)
    if action == "closed":
        return closed(pull, tracked)
    if action in _HEADS and pull.state == "open":
        return head_changed(pull, tracked, _HEADS[action])
    return Ignore(reason=f"{action!r} of a pull request that is {pull.state!r} changes no head")


def _other_base(payload: PullRequestPayload, tracked: Tracked) -> Ignore:
    base = payload.pull_request.base.ref
    return Ignore(reason=f"base is {base[:100]!r}, not the tracked {tracked.branch!r}")


def _edited(payload: PullRequestPayload, tracked: Tracked) -> Action:
    pull = payload.pull_request
    moved = payload.changes is not None and payload.changes.base is not None
    if not moved:
        return Ignore(reason="an edit of title or description")
    if pull.state != "open":
        return Ignore(reason="another base for a pull request that is not open")
    if pull.base.ref == tracked.branch:
        return head_changed(pull, tracked, "rebased")
    before = payload.changes.base.ref if payload.changes and payload.changes.base else None
    if before is not None and before.before == tracked.branch:
        return closed(pull, tracked)
    return _other_base(payload, tracked)


def _push(payload: PushPayload, tracked: Tracked) -> Action:
    if other := foreign(payload.repository.full_name, tracked):
        return other
    if payload.ref != f"refs/heads/{tracked.branch}":
        return Ignore(reason=f"{payload.ref[:100]!r} is not the tracked branch")
    if payload.deleted or not payload.after.strip("0"):
        return Ignore(reason="the tracked branch was deleted")
    return RefreshBase(head=payload.after)


def _installation(payload: InstallationPayload, _tracked: Tracked) -> Action:
    if payload.action in {"created", "unsuspend", "new_permissions_accepted", "added"}:
        return Reconcile(why=f"the App's installation: {payload.action}")
    return Ignore(reason=f"the App's installation: {payload.action[:40]!r}")


def _reader(
    shape: type[_Payload], handle: Callable[[_Payload, Tracked], Action]
) -> Callable[[str, bytes, Tracked], Action]:
    def read(event: str, body: bytes, tracked: Tracked) -> Action:
        return handle(_read(shape, event, body), tracked)

    return read


_READERS = {
    "pull_request": _reader(PullRequestPayload, _pull_request),
    "check_run": _reader(CheckRunPayload, decide_check_run),
    "check_suite": _reader(CheckSuitePayload, decide_check_suite),
    "issue_comment": _reader(IssueCommentPayload, decide_comment),
    "push": _reader(PushPayload, _push),
    "installation": _reader(InstallationPayload, _installation),
    "installation_repositories": _reader(InstallationPayload, _installation),
}
