"""Messages between workflows and activities about GitHub."""

from datetime import timedelta

from pydantic import AwareDatetime, Field

from opam_ci.core.github.action import Action
from opam_ci.core.github.checks import CheckRun
from opam_ci.core.github.debounce import UNDELAYED, Debounce, Posted
from opam_ci.core.github.reconcile import REDELIVERED_FOR
from opam_ci.core.github.refusal import Refusal
from opam_ci.core.github.status import Status
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.model import Frozen


class DeliveryTask(Frozen):
    """Input of DeliveryWorkflow: the action of a delivery.

    Attributes:
        action: The action.
        refusal: GitHub's refusals of earlier tries, None for none.
    """

    action: Action
    refusal: Refusal | None = None


class DeliveryResult(Frozen):
    """Result of an action.

    Attributes:
        words: What was done, for people.
        again_at: When to repeat the action, None for never.
        refusal: For the next try.
    """

    words: str
    again_at: AwareDatetime | None = None
    refusal: Refusal | None = None


class FetchTask(Frozen):
    """Input of the activity that fetches a pull request's state from GitHub.

    Attributes:
        pull_request: The pull request.
        refusal: GitHub's refusals of earlier tries, None for none.
    """

    pull_request: PullRequestRef
    refusal: Refusal | None = None


class PostContent(Frozen):
    """What to post to GitHub at this moment: the result of a query.

    An activity that had to wait for GitHub queries again, so that no outdated status is posted.

    Attributes:
        statuses: As they should be, on either channel.
        check_runs: Check runs, by context.
        posted: Last posted statuses, by `Status.key`.
        debounce: Debounce of the statuses.
        annotated: Context whose check run gets lint's findings, None for none.
        testing: The testing.
    """

    statuses: tuple[Status, ...] = ()
    check_runs: dict[str, CheckRun] = Field(default_factory=dict)
    posted: dict[str, Posted] = Field(default_factory=dict)
    debounce: Debounce = UNDELAYED
    annotated: str | None = None
    testing: RevisionKey | None = None


class PostTask(Frozen):
    """Input of the activity that posts; it queries the workflow for what to post.

    Attributes:
        pull_request: The pull request.
    """

    pull_request: PullRequestRef


class ReconcileTask(Frozen):
    """Input of ReconcileWorkflow.

    Attributes:
        since: How far back failed deliveries are redelivered.
    """

    since: timedelta = REDELIVERED_FOR


class BaseMoved(Frozen):
    """Argument of the signal that the base branch has moved, or may have.

    Attributes:
        interval: Time in which further moves are collected.
    """

    interval: timedelta = Field(ge=timedelta(0))


class FollowBase(Frozen):
    """Input of the activity that notifies open pull requests of a move of the base.

    Attributes:
        followed: The commit of which they were notified last, None for none.
    """

    followed: str | None = None


class Reconciled(Frozen):
    """Result of a reconciliation of GitHub with the workflows.

    Attributes:
        open_pull_requests: Number of pull requests open on GitHub.
        missed: Pull requests whose head no workflow had.
        looked_at: Those that were not listed: their workflows fetch them one by one.
        redelivered: Number of deliveries that GitHub was requested to redeliver.
    """

    open_pull_requests: int
    missed: tuple[int, ...] = ()
    looked_at: tuple[int, ...] = ()
    redelivered: int = 0
