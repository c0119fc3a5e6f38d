"""The payloads of webhooks: the fields that are needed.

Everything here is hostile until it is parsed: a valid signature proves that GitHub sent it,
not that its values are sane. Only the fields below are read, so a title full of control
characters or a deleted fork (whose `repo` is null) does not matter.
"""

from typing import Annotated, Any

from pydantic import AwareDatetime, BeforeValidator, Field

from opam_ci.core.github.model import (
    Login,
    Number,
    RefName,
    RepositoryName,
    Sha,
    Tolerant,
    Word,
)


def _known(value: Any) -> Any:
    """Drops items that are not objects, for lists whose items are only a hint."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


class Repository(Tolerant):
    """The repository of a delivery."""

    id: Number
    full_name: RepositoryName


class Account(Tolerant):
    """The account that caused an event, or wrote something."""

    login: Login
    type: Word = "User"


class HeadBranch(Tolerant):
    """The head of a pull request; its repository may be gone."""

    sha: Sha


class BaseBranch(Tolerant):
    """The base of a pull request."""

    ref: RefName
    sha: Sha


class PullRequest(Tolerant):
    """A pull request, alike in webhooks and in GitHub's REST API."""

    number: Number
    state: Word
    updated_at: AwareDatetime
    head: HeadBranch
    base: BaseBranch
    draft: bool | None = None
    merged: bool | None = None
    user: Account | None = None
    author_association: Word = ""


class BaseRefChange(Tolerant):
    """The name of the base before an edit."""

    ref: "Before | None" = None


class Before(Tolerant):
    """The value before an edit."""

    before: RefName = Field(alias="from")


class Changes(Tolerant):
    """Fields that an edit changed."""

    base: BaseRefChange | None = None


class PullRequestPayload(Tolerant):
    """`pull_request`."""

    action: Word
    pull_request: PullRequest
    repository: Repository
    changes: Changes | None = None


class App(Tolerant):
    """The GitHub App that owns a check."""

    id: Number


class BaseRepository(Tolerant):
    """The repository of a base; check payloads have its id only."""

    id: Number


class CheckedBase(Tolerant):
    """The base of a pull request that a check is about."""

    repo: BaseRepository


class CheckedPullRequest(Tolerant):
    """A pull request that a check is about; there are none for heads in forks."""

    number: Number
    base: CheckedBase


CheckedPullRequests = Annotated[tuple[CheckedPullRequest, ...], BeforeValidator(_known)]


class ReceivedCheckRun(Tolerant):
    """A check run."""

    head_sha: Sha
    conclusion: str | None = None
    external_id: str | None = None
    app: App | None = None
    pull_requests: CheckedPullRequests = ()


class RequestedAction(Tolerant):
    """The button that was pressed."""

    identifier: Word


class CheckRunPayload(Tolerant):
    """`check_run`."""

    action: Word
    check_run: ReceivedCheckRun
    repository: Repository
    requested_action: RequestedAction | None = None
    sender: Account


class CheckSuite(Tolerant):
    """All check runs of one App at one head."""

    head_sha: Sha
    app: App | None = None
    pull_requests: CheckedPullRequests = ()


class CheckSuitePayload(Tolerant):
    """`check_suite`."""

    action: Word
    check_suite: CheckSuite
    repository: Repository
    sender: Account


class Issue(Tolerant):
    """An issue, or a pull request, which has `pull_request` set."""

    number: Number
    state: Word
    pull_request: dict[str, Any] | None = None
    user: Account | None = None


class Comment(Tolerant):
    """A comment. GitHub accepts 65,536 characters."""

    body: str | None = Field(default=None, max_length=262_144)
    user: Account | None = None
    created_at: AwareDatetime


class IssueCommentPayload(Tolerant):
    """`issue_comment`."""

    action: Word
    issue: Issue
    comment: Comment
    repository: Repository


class PushPayload(Tolerant):
    """`push`."""

    ref: RefName
    after: Sha
    deleted: bool = False
    repository: Repository


class InstallationPayload(Tolerant):
    """`installation` and `installation_repositories`."""

    action: Word
