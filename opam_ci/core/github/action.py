"""Actions that a delivery of GitHub's can lead to."""

import re
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from opam_ci.core.github.model import Login, RefName, RepositoryName, Sha, Word
from opam_ci.core.github.payload import PullRequest
from opam_ci.core.jobs.hold import Approval
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.selector import RestartSelector
from opam_ci.core.model import Frozen

HeadEvent = Literal["opened", "reopened", "pushed", "ready", "drafted", "rebased", "missed"]
"""Why a head is to be tested. `rebased` means another base under the same head, which needs a new
test of the same head; `missed` that no delivery reported it."""

_WORKFLOW_ID = re.compile(r"pr/.*/([1-9][0-9]{0,11})")


class Tracked(Frozen):
    """The repository and branch that this CI tests.

    Attributes:
        repository: Such as `ocaml/opam-repository`; its case is ignored, as on GitHub.
        branch: Base branch whose pull requests are tested.
        app_id: Id of the GitHub App, None with a plain token: then there are no checks.
    """

    repository: RepositoryName
    branch: RefName = "master"
    app_id: int | None = None

    def ref(self, number: int) -> PullRequestRef:
        """Returns the reference of a pull request, spelt as configured."""
        owner, _, repo = self.repository.partition("/")
        return PullRequestRef(owner=owner, repo=repo, number=number)


class HeadChanged(Frozen):
    """A head is to be tested.

    Attributes:
        pull_request: The pull request.
        head: Commit to test.
        base: Commit of the base branch at the time of the event.
        draft: Whether the pull request is a draft.
        why: The event.
        as_of: Time of the event by GitHub's clock, to the second. Of two heads the one with the
            later time wins, in whatever order they arrive.
        author: Account that opened the pull request, None if it does not exist any more.
        association: `author_association`: what the account is to the repository.
    """

    kind: Literal["head_changed"] = "head_changed"
    pull_request: PullRequestRef
    head: Sha
    base: Sha
    draft: bool
    why: HeadEvent
    as_of: AwareDatetime
    author: Login | None = None
    association: Word = ""

    @property
    def again(self) -> bool:
        """Whether the head is to be tested even if it was tested before."""
        return self.why in {"reopened", "rebased"}


class Closed(Frozen):
    """A pull request is no longer tracked: stop its builds, end its workflow.

    Attributes:
        pull_request: The pull request.
        why: The event; `moved` means onto a base that is not tracked.
        as_of: As for `HeadChanged`.
    """

    kind: Literal["closed"] = "closed"
    pull_request: PullRequestRef
    why: Literal["merged", "closed", "moved"]
    as_of: AwareDatetime


class Restart(Frozen):
    """Jobs are to be run again.

    Attributes:
        numbers: The pull requests. Empty if the payload has none, as for a head in a fork: then
            those whose current head is `head`.
        head: Only if this is still the head; None for any head.
        selectors: Which jobs, one restart for each.
        by: Account that requested it.
        check_permission: Whether the permission of `by` must be checked first (see
            `command.is_permitted`); not for buttons, which GitHub shows to permitted people only.
        by_author: Whether `by` is the author of the pull request, who needs no permission and has
            a limit without one.
    """

    kind: Literal["restart"] = "restart"
    numbers: tuple[int, ...]
    head: Sha | None = None
    selectors: Annotated[tuple[RestartSelector, ...], Field(min_length=1)]
    by: Login
    check_permission: bool
    by_author: bool = False


class Cancel(Frozen):
    """Jobs under way are to be stopped.

    Attributes:
        pull_request: The pull request.
        by: Account that requested it.
        check_permission: As for `Restart`.
    """

    kind: Literal["cancel"] = "cancel"
    pull_request: PullRequestRef
    by: Login
    check_permission: bool


class Approve(Frozen):
    """What waits for an approval is to be run; the permission of `by` is always checked.

    Attributes:
        pull_request: The pull request.
        by: Account that approves.
        approval: What it approves.
    """

    kind: Literal["approve"] = "approve"
    pull_request: PullRequestRef
    by: Login
    approval: Approval
    check_permission: Literal[True] = True


class UnknownCommand(Frozen):
    """A comment with an unknown command: to be answered, once.

    Attributes:
        pull_request: The pull request.
        by: Author of the comment.
        check_permission: As for `Restart`: only permitted people get an answer, or anybody
            could make the CI write comments.
        answer: The answer, markdown.
    """

    kind: Literal["misunderstood"] = "misunderstood"
    pull_request: PullRequestRef
    by: Login
    check_permission: bool
    answer: str


class RefreshBase(Frozen):
    """The base branch moved: the clone is to be fetched.

    Attributes:
        head: The branch's new commit.
    """

    kind: Literal["refresh_base"] = "refresh_base"
    head: Sha


class Reconcile(Frozen):
    """Deliveries may be missing: compare all open pull requests with the workflows.

    Attributes:
        why: The event.
    """

    kind: Literal["reconcile"] = "reconcile"
    why: str


class Ignore(Frozen):
    """Nothing is to be done.

    Attributes:
        reason: Why, for the log and the response.
    """

    kind: Literal["ignore"] = "ignore"
    reason: str


Action = Annotated[
    HeadChanged
    | Closed
    | Restart
    | Cancel
    | Approve
    | UnknownCommand
    | RefreshBase
    | Reconcile
    | Ignore,
    Field(discriminator="kind"),
]
"""The action of a delivery."""


def head_changed(pull: PullRequest, tracked: Tracked, why: HeadEvent) -> HeadChanged:
    """Returns the action that tests the head of a pull request."""
    return HeadChanged(
        pull_request=tracked.ref(pull.number),
        head=pull.head.sha,
        base=pull.base.sha,
        draft=bool(pull.draft),
        why=why,
        as_of=pull.updated_at,
        author=pull.user.login if pull.user is not None else None,
        association=pull.author_association,
    )


def closed(pull: PullRequest, tracked: Tracked) -> Closed:
    """Returns the action for a pull request that is closed, or has left the tracked branch."""
    why: Literal["merged", "closed", "moved"] = "merged" if pull.merged else "closed"
    if pull.state == "open" and pull.base.ref != tracked.branch:
        why = "moved"
    return Closed(pull_request=tracked.ref(pull.number), why=why, as_of=pull.updated_at)


def foreign(repository: str, tracked: Tracked) -> Ignore | None:
    """Returns the reason to ignore a delivery of another repository, None for the tracked one."""
    if repository.lower() == tracked.repository.lower():
        return None
    return Ignore(reason=f"another repository: {repository}")


def number_in(workflow_id: str) -> int | None:
    """Returns the number of the pull request with this workflow id, None if it is not one."""
    number = _WORKFLOW_ID.fullmatch(workflow_id)
    return None if number is None else int(number[1])
