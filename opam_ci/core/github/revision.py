"""From a head on GitHub to the input of its workflow."""

from datetime import datetime, timedelta
from typing import Literal
from urllib.parse import quote

from pydantic import Field

from opam_ci.core.github.action import HeadChanged
from opam_ci.core.github.posting_options import PostingOptions
from opam_ci.core.jobs.hold import Author
from opam_ci.core.jobs.requests import (
    MOST_POPULAR,
    CheckOptions,
    Origin,
    PullRequestRef,
    Revision,
)
from opam_ci.core.model import Frozen

NewAuthors = Literal["full", "small"]

_KNOWN = frozenset({"OWNER", "MEMBER", "COLLABORATOR", "CONTRIBUTOR"})
"""Associations of accounts of which something was merged, or that are trusted anyway. The others of
GitHub's are FIRST_TIMER, FIRST_TIME_CONTRIBUTOR, NONE and MANNEQUIN."""

_GHOST = "ghost"
"""Account that GitHub shows in place of one that was deleted."""


class Policy(Frozen):
    """How the pull requests of a repository on GitHub are tested and reported.

    Attributes:
        clone_url: Where commits are fetched from.
        branch: The base branch that is tracked.
        posting: What is posted, None for nothing; its target URL is made from `target`.
        target: Where statuses link to: a URL in which `{owner}`, `{repo}`, `{number}` and
            `{workflow}` (the workflow's id, quoted) are filled in; None for nowhere.
        checks: How a head is checked.
        draft_checks: How the head of a draft is.
        new_authors: What is run for an author of whom nothing was merged before: everything, or a
            small set until somebody with rights approves the head.
        author_hours: CPU hours that jobs of an author may use in a day; None for any number.
        author_restarts: Restarts of a pull request that its author may make in an hour; None for
            any number.
        health_packages: How many packages of the base itself are built each night; 0 for none.
        follow_interval: Time in which moves of the base are collected before open pull requests
            are merged into it again; None if they are not.
        retest_interval: How often at most a head is tested again only since its dependencies have
            changed on the base.
    """

    clone_url: str = Field(min_length=1)
    branch: str
    posting: PostingOptions | None = PostingOptions()
    target: str | None = None
    checks: CheckOptions = CheckOptions()
    draft_checks: CheckOptions = CheckOptions()
    new_authors: NewAuthors = "full"
    author_hours: float | None = None
    author_restarts: int | None = None
    health_packages: int = Field(default=0, ge=0, le=MOST_POPULAR)
    follow_interval: timedelta | None = None
    retest_interval: timedelta = timedelta(days=1)

    def revision(self, action: HeadChanged, *, authoritative: bool = False) -> Revision:
        """Returns what is to be tested.

        Args:
            action: What was decided.
            authoritative: Whether GitHub's API confirmed it.
        """
        return Revision(
            head=action.head,
            base=action.base,
            repository="",
            options=self.draft_checks if action.draft else self.checks,
            again=action.again,
            origin=Origin(
                clone_url=self.clone_url,
                branch=self.branch,
                draft=action.draft,
                as_of=action.as_of,
                authoritative=authoritative,
                author=Author(
                    login=action.author or _GHOST,
                    is_new=self.new_authors == "small" and action.association not in _KNOWN,
                    hours_a_day=self.author_hours,
                    restarts_an_hour=self.author_restarts,
                ),
            ),
        )

    def base_revision(self, tip: str, now: datetime) -> Revision:
        """Returns what is to be tested to see how the base itself does.

        Builds and tests alone: what the packages need, and what needs them, is among them, or is
        not popular. A check of yesterday that is still under way is superseded: the verdicts that
        it has need not be found again.

        Args:
            tip: The newest commit of the base.
            now: The time.
        """
        platforms = tuple(
            each.model_copy(update={"lower_bounds": False, "revdeps": False})
            for each in self.checks.platforms
        )
        changed = {"platforms": platforms, "popular": self.health_packages, "keep_open": False}
        return Revision(
            head=tip,
            base=tip,
            repository="",
            options=self.checks.model_copy(update=changed),
            again=True,
            origin=Origin(
                clone_url=self.clone_url, branch=self.branch, as_of=now, authoritative=True
            ),
        )

    def posting_for(self, pull_request: PullRequestRef) -> PostingOptions | None:
        """Returns what is posted for a pull request, None for nothing."""
        if self.posting is None:
            return None
        return self.posting.model_copy(update={"target_url": self._target_url(pull_request)})

    def _target_url(self, pull_request: PullRequestRef) -> str | None:
        if self.target is None:
            return None
        words = {
            "{owner}": quote(pull_request.owner, safe=""),
            "{repo}": quote(pull_request.repo, safe=""),
            "{number}": pull_request.slug,
            "{workflow}": quote(pull_request.workflow_id, safe=""),
        }
        url = self.target
        for word, value in words.items():
            url = url.replace(word, value)
        return url


def lighter(checks: CheckOptions) -> CheckOptions:
    """Returns how a draft is checked: lint, and builds on the first platform only.

    No lower bounds and no reverse dependencies: they cost most and say least about work
    that is not done. `ready_for_review` then brings the rest.
    """
    first = checks.platforms[:1]
    return checks.model_copy(
        update={
            "platforms": tuple(
                platform.model_copy(update={"lower_bounds": False, "revdeps": False})
                for platform in first
            )
        }
    )
