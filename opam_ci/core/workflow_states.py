"""Signals that workflows take, and states that they carry over when they continue as new."""

from datetime import datetime, timedelta

from pydantic import AwareDatetime, Field

from opam_ci.core.analysis_result import Packages
from opam_ci.core.build import RepositoryRef
from opam_ci.core.github.origin import Known
from opam_ci.core.github.pace import Posted
from opam_ci.core.messages import JobHeartbeat, revision_key
from opam_ci.core.model import Frozen, State
from opam_ci.core.outcome import CancelledBy
from opam_ci.core.platforms import Platform
from opam_ci.core.records import RevisionKey
from opam_ci.core.requests import JobSelector, PullRequestRef, RestartSelector, Revision
from opam_ci.core.summary import Fault, JobStatus, PlatformStanding


class AttemptFaulted(Frozen):
    """Signal: an attempt met an infrastructure fault.

    Attributes:
        job: Id of the job; of the first one where an attempt does several, as lint does.
        round: Of which round.
        fault: What happened.
        next_attempt_at: When the next attempt comes, None if this was the last.
    """

    job: str
    round: int
    fault: Fault
    next_attempt_at: datetime | None = None


class AttemptStarted(Frozen):
    """Signal: an attempt after the first has begun.

    Attributes:
        job: As in `AttemptFaulted`.
        round: Of which round.
        attempt: Its number.
        worker: Who runs it.
        at: When.
        previous: Last heartbeat of the attempts before. Where no fault is known for the
            attempt before this one, its worker was lost.
    """

    job: str
    round: int
    attempt: int
    worker: str
    at: datetime
    previous: JobHeartbeat | None = None


class StopJobs(Frozen):
    """Signal to a PlatformWorkflow: cancel jobs under way.

    Attributes:
        selector: Which; nothing selects all.
        by: Who cancels.
        final: Whether it is to end and take no further jobs.
        number: See `PlatformProgress.heard`.
    """

    selector: JobSelector = JobSelector()
    by: CancelledBy = "request"
    final: bool = False
    number: int = 0


class RestartJobs(Frozen):
    """Signal to a PlatformWorkflow: jobs were queued again in the index.

    Attributes:
        selector: Which were; those of them that wait for their retry start at once.
        round: Their round.
        number: See `PlatformProgress.heard`.
    """

    selector: RestartSelector
    round: int
    number: int


class PlatformProgress(Frozen):
    """Signal from a PlatformWorkflow to its parent: how its jobs stand.

    Attributes:
        key: Of which testing: late words about a superseded one are ignored.
        workflow_id: Who says it.
        standing: How the platform's jobs stand.
        heard: The newest of its parent's numbered signals that it has taken into account: one that
            was sent a newer one is not over, whatever it says.
        written: The highest request to write everything down that it has fulfilled.
        stopped: Whether nothing of it runs any more, though not all may be written down.
        done: Whether it has nothing more to say.
        platform: The platform with its image by digest, once it was looked up: later jobs of
            the head use the same one.
        notice: What people should know of the image.
    """

    key: RevisionKey
    workflow_id: str
    standing: PlatformStanding
    heard: int = 0
    written: int = 0
    stopped: bool = False
    done: bool = False
    platform: Platform | None = None
    notice: str | None = None


class PlatformState(State):
    """What a PlatformWorkflow knows; its input.

    Attributes:
        pull_request: To whom the jobs belong.
        parent: Workflow that is told of progress; None for a benchmark.
        revision: The head under test, and how it is checked.
        opened_at: When the testing of this head began.
        name: Name of the platform; empty for lint.
        platform: Where to build; None for lint.
        repository: With which packages; None for lint.
        packages: What the analysis found.
        merge_tree: The merged tree.
        standing: How its jobs stand, None before they were counted.
        sequence: Number of the last record written to the index.
        heard: The newest of its parent's numbered signals.
        write_asked: The newest request to write everything down.
        notice: What people should know of the platform's image.
        stopping: Whether it ends, and by whom it was stopped.
    """

    pull_request: PullRequestRef
    parent: str | None
    revision: Revision
    opened_at: AwareDatetime
    name: str
    platform: Platform | None
    repository: RepositoryRef | None
    packages: Packages = ()
    merge_tree: str | None = None
    standing: PlatformStanding | None = None
    sequence: int = 0
    heard: int = 0
    write_asked: int = 0
    notice: str | None = None
    stopping: CancelledBy | None = None

    @property
    def key(self) -> RevisionKey:
        """The testing's name in the index."""
        return revision_key(self.pull_request, self.revision.head, self.opened_at)


class TestingState(State):
    """What a PullRequestWorkflow knows of the head that it tests.

    Attributes:
        revision: The head, with the base that the analysis found where it looks for one.
        opened_at: When the testing of this head began.
        analysis: The row of the analysis.
        packages: What the analysis found.
        merge_tree: The merged tree.
        repository: The merged repository in the store.
        platforms: Those to build on, with their images by digest where they were found.
        planned: Whether the jobs are in the index.
        concluded: Whether what only all platforms together can decide is decided.
        round: Number of the newest round of any job: one more for each restart.
        automatic: What restarts of the head have cost since somebody last asked for one.
        children: The PlatformWorkflow that runs the jobs of each platform.
        woken: Of each of these workflows the newest signal after which it looks at the index again.
        asked: How many numbered signals they were sent.
        batch: How many PlatformWorkflows were started for this head.
        standings: How the jobs of each platform stand.
        notices: What people should know of images.
    """

    __test__ = False

    revision: Revision
    opened_at: AwareDatetime
    analysis: JobStatus
    packages: Packages = ()
    merge_tree: str | None = None
    repository: RepositoryRef | None = None
    platforms: tuple[Platform, ...] = ()
    planned: bool = False
    concluded: bool = True
    round: int = 1
    automatic: int = 0
    children: dict[str, str] = Field(default_factory=dict)
    woken: dict[str, int] = Field(default_factory=dict)
    asked: int = 0
    batch: int = 0
    standings: dict[str, PlatformStanding] = Field(default_factory=dict)
    notices: tuple[str, ...] = ()


class PullRequestState(State):
    """What a PullRequestWorkflow knows; its input.

    Attributes:
        pull_request: Which.
        testing: The head that it tests, None until the first `head_changed`.
        sequence: Number of the last record written to the index.
        notices: Things to know that are no verdict.
        known: The newest that GitHub said of the pull request.
        posted: By context, what GitHub was told last.
    """

    pull_request: PullRequestRef
    testing: TestingState | None = None
    sequence: int = 0
    notices: list[str] = Field(default_factory=list)
    known: Known | None = None
    posted: dict[str, Posted] = Field(default_factory=dict)


def opened_at(now: datetime, before: datetime | None) -> datetime:
    """Returns when a testing counts as opened.

    The index takes the latest for the newest, and two may begin in one workflow task.

    Args:
        now: The workflow's time.
        before: When the testing before this one was opened.
    """
    return now if before is None else max(now, before + timedelta(microseconds=1))
