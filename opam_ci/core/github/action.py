"""What a delivery of GitHub's asks us to do."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from opam_ci.core.github.model import Login, RefName, RepositoryName, Sha
from opam_ci.core.model import Frozen
from opam_ci.core.requests import PullRequestRef
from opam_ci.core.selector import RestartSelector


class Tracked(Frozen):
    """What this CI is responsible for.

    Attributes:
        repository: Such as `ocaml/opam-repository`; GitHub ignores case in it, so do we.
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
        pull_request: Whose.
        head: Commit to test.
        base: Commit that the base branch had when GitHub wrote this.
        draft: Whether its author still works on it.
        why: What happened; `rebased` means another base under the same head, which needs
            a new test of the same head.
        as_of: When the pull request was like this, by GitHub's clock, to the second. Of
            two heads the one with the later time counts, whatever arrives first.
    """

    kind: Literal["head_changed"] = "head_changed"
    pull_request: PullRequestRef
    head: Sha
    base: Sha
    draft: bool
    why: Literal["opened", "reopened", "pushed", "ready", "drafted", "rebased", "missed"]
    as_of: AwareDatetime

    @property
    def again(self) -> bool:
        """Whether the head is to be tested even if it was tested before."""
        return self.why in {"reopened", "rebased"}


class Closed(Frozen):
    """A pull request is no longer ours: stop its builds, end its workflow.

    Attributes:
        pull_request: Which.
        why: What happened; `moved` means onto a base that is not tracked.
        as_of: As for `HeadChanged`.
    """

    kind: Literal["closed"] = "closed"
    pull_request: PullRequestRef
    why: Literal["merged", "closed", "moved"]
    as_of: AwareDatetime


class Restart(Frozen):
    """Jobs are to be run again.

    Attributes:
        numbers: Pull requests concerned. Empty when GitHub names none, as for a head in a
            fork: then those whose current head is `head`.
        head: Only if this is still the head; None for whatever the head is.
        selectors: Which jobs, one restart for each.
        by: Who asked.
        ask_permission: Whether `by` must first be looked up (see `command.is_permitted`);
            not so where GitHub itself lets only permitted people press.
    """

    kind: Literal["restart"] = "restart"
    numbers: tuple[int, ...]
    head: Sha | None = None
    selectors: Annotated[tuple[RestartSelector, ...], Field(min_length=1)]
    by: Login
    ask_permission: bool


class Cancel(Frozen):
    """Jobs under way are to be stopped.

    Attributes:
        pull_request: Whose.
        by: Who asked.
        ask_permission: As for `Restart`.
    """

    kind: Literal["cancel"] = "cancel"
    pull_request: PullRequestRef
    by: Login
    ask_permission: bool


class Misunderstood(Frozen):
    """A comment was meant for us and is no command: to be answered, once.

    Attributes:
        pull_request: Where.
        by: Who wrote it.
        ask_permission: As for `Restart`: only permitted people are answered, or anyone
            could make us talk.
        answer: What to answer, markdown.
    """

    kind: Literal["misunderstood"] = "misunderstood"
    pull_request: PullRequestRef
    by: Login
    ask_permission: bool
    answer: str


class RefreshBase(Frozen):
    """The base branch moved: the clone is to be fetched.

    Attributes:
        head: Where the branch is now.
    """

    kind: Literal["refresh_base"] = "refresh_base"
    head: Sha


class Reconcile(Frozen):
    """Much may have changed unseen: compare all open pull requests with the workflows.

    Attributes:
        why: What happened.
    """

    kind: Literal["reconcile"] = "reconcile"
    why: str


class Ignore(Frozen):
    """Nothing is to be done.

    Attributes:
        reason: Why, in words for a log.
    """

    kind: Literal["ignore"] = "ignore"
    reason: str


Action = Annotated[
    HeadChanged | Closed | Restart | Cancel | Misunderstood | RefreshBase | Reconcile | Ignore,
    Field(discriminator="kind"),
]
"""What a delivery asks for."""


def foreign(repository: str, tracked: Tracked) -> Ignore | None:
    """Returns why a delivery of this repository is not for us, None if it is."""
    if repository.lower() == tracked.repository.lower():
        return None
    return Ignore(reason=f"another repository: {repository}")
