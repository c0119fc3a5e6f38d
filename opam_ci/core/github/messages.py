"""What workflows and activities say to each other about GitHub."""

from datetime import timedelta

from pydantic import AwareDatetime, Field

from opam_ci.core.github.action import Action
from opam_ci.core.github.checks import CheckRun
from opam_ci.core.github.pace import HURRIED, Pace, Posted
from opam_ci.core.github.status import Status
from opam_ci.core.model import Frozen
from opam_ci.core.records import RevisionKey
from opam_ci.core.requests import PullRequestRef


class Delivered(Frozen):
    """Input of DeliveryWorkflow: what a delivery asks for."""

    action: Action


class Carried(Frozen):
    """What became of an action.

    Attributes:
        words: What was done, for people who look.
        again_at: When it is to be looked at again, None for never.
    """

    words: str
    again_at: AwareDatetime | None = None


class Look(Frozen):
    """Input of the activity that asks GitHub how a pull request is."""

    pull_request: PullRequestRef


class ToPost(Frozen):
    """What GitHub is to be told, as it is at this moment: the answer of a query.

    An activity that had to wait for GitHub asks anew, so that nothing old is posted late.

    Attributes:
        statuses: As they should be, on either channel.
        check_runs: By context, the check run.
        posted: By `Status.key`, what was posted before.
        pace: How often.
        annotated: Context to whose check run lint's findings belong, None for none.
        testing: Which testing of which head.
    """

    statuses: tuple[Status, ...] = ()
    check_runs: dict[str, CheckRun] = Field(default_factory=dict)
    posted: dict[str, Posted] = Field(default_factory=dict)
    pace: Pace = HURRIED
    annotated: str | None = None
    testing: RevisionKey | None = None


class PostTask(Frozen):
    """Input of the activity that posts; what to post it asks the workflow.

    Attributes:
        pull_request: Whose statuses.
    """

    pull_request: PullRequestRef


class ReconcileTask(Frozen):
    """Input of ReconcileWorkflow.

    Attributes:
        since: How far back failed deliveries are asked for.
    """

    since: timedelta = timedelta(days=3)


class Reconciled(Frozen):
    """What a comparison of GitHub with the workflows came to.

    Attributes:
        open_pull_requests: How many are open on GitHub.
        missed: Pull requests whose head no workflow knew.
        looked_at: Those that were not listed, and asked for one by one.
        redelivered: How many deliveries were asked for again.
    """

    open_pull_requests: int
    missed: tuple[int, ...] = ()
    looked_at: tuple[int, ...] = ()
    redelivered: int = 0
