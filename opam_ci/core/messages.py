"""What workflows and activities say to each other. Small: logs and lists travel as references."""

from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, Field

from opam_ci.core.analysis_result import Analysis, ChangedPackage, Packages
from opam_ci.core.build import BuildSpec, RepositoryRef
from opam_ci.core.github.origin import Known
from opam_ci.core.github.pace import Posted
from opam_ci.core.job import Phase
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Outcome
from opam_ci.core.packed import Packed
from opam_ci.core.platforms import Platform
from opam_ci.core.records import RevisionKey
from opam_ci.core.requests import (
    CheckOptions,
    PullRequestRef,
    RestartAsker,
    RestartSelector,
    Revision,
)
from opam_ci.core.retry import RetrySettings
from opam_ci.core.summary import Fault, JobGroup, Rows


class JobContext(Frozen):
    """To whom a job belongs; every job's activity gets one.

    Attributes:
        pull_request: Which pull request.
        head: Commit under test.
        opened_at: When the testing of this head began: the same head can be tested again.
        round: 1 for the job's first run at this head, one more for each restart.
        retry: Backoff, so that the activity can say when the next attempt comes.
        notify: Whether the workflow that runs the job wants to be told of faulted
            attempts at once; workflows of ours always do.
    """

    pull_request: PullRequestRef
    head: str
    opened_at: AwareDatetime
    round: int
    retry: RetrySettings
    notify: bool = True

    @property
    def revision(self) -> RevisionKey:
        """The testing under which logs and records are kept."""
        return revision_key(self.pull_request, self.head, self.opened_at)


class RunJob(Frozen):
    """Input of the `run_job` activity."""

    context: JobContext
    spec: BuildSpec


class RepositoryTask(Frozen):
    """Input of the activities that work on the repository itself.

    Attributes:
        context: To whom it belongs.
        revision: Head, base, and where they are.
        packages: For lint: what to lint; for the others empty.
        merge_tree: The merged tree, once the analysis has made it.
    """

    context: JobContext
    revision: Revision
    packages: tuple[ChangedPackage, ...] = ()
    merge_tree: str | None = None


class LintVerdict(Frozen):
    """What lint says of one package."""

    package: str
    outcome: Outcome


class LintReport(Frozen):
    """What lint says of all packages of a head."""

    verdicts: tuple[LintVerdict, ...]
    report: "JobReport"


class AnalysisReport(Frozen):
    """What the analysis activity answers.

    Attributes:
        analysis: What the change is.
        repository: The merged repository in the store, None where nothing is to be built.
        platforms: Those to build on, with their images by digest, from workers that found them
            in the analysis; since then each PlatformWorkflow finds its own.
        notices: What people should know of these.
        report: How the attempt ended.
        base: Commit into which the head was merged, where the activity chose it itself:
            the newest one of the base branch on GitHub.
    """

    analysis: Analysis
    repository: RepositoryRef | None
    platforms: tuple[Platform, ...] = ()
    notices: tuple[str, ...] = ()
    report: "JobReport"
    base: str | None = None


class ImageTask(Frozen):
    """Input of the `pin_image` activity.

    Attributes:
        context: To whom it belongs.
        image: An image by tag.
    """

    context: JobContext
    image: str


class ImageReport(Frozen):
    """What the `pin_image` activity answers.

    Attributes:
        image: The image by digest, None if its registry does not have it for us.
        notice: Why not.
    """

    image: str | None = None
    notice: str | None = None


class Listing(Frozen):
    """The reverse dependencies that a `list-revdeps` job found, as an artifact.

    Attributes:
        key: Artifact key of the list: `core.revdeps.RevdepList` as JSON.
        revdeps: How many there are: each is built.
        tested: How many of them have tests that are to run.
    """

    key: str
    revdeps: int
    tested: int


class JobReport(Frozen):
    """How one attempt of a job ended: returned, or carried by the error's details.

    Attributes:
        outcome: What it came to.
        attempt: Its number.
        worker: Identity of the worker that ran it.
        started_at: When the attempt began.
        ended_at: When it ended.
        log: Key of its log, None where it wrote none.
        listing: What a `list-revdeps` job found, None for the others.
    """

    outcome: Outcome
    attempt: int
    worker: str
    started_at: datetime
    ended_at: datetime
    log: str | None = None
    listing: Listing | None = None


class JobHeartbeat(Frozen):
    """What a running attempt's heartbeats carry: enough to explain its loss.

    Attributes:
        attempt: Number of the attempt.
        worker: Who runs it.
        started_at: When it began.
        phase: The phase under way, None before the first.
        log: Key of its log.
        log_bytes: Size of the log so far.
        alone: Whether no other attempt ran in the worker's process at that moment.
        limit_reached_on: Worker on which this attempt, or one before it, reached the job's own
            limit; None if none did.
        fault: How it ended, if it ended by an infrastructure fault: then it was not lost.
    """

    attempt: int
    worker: str
    started_at: datetime
    phase: Phase | None = None
    log: str | None = None
    log_bytes: int = 0
    alone: bool = False
    limit_reached_on: str | None = None
    fault: Fault | None = None


class AttemptFaulted(Frozen):
    """Signal: an attempt met an infrastructure fault.

    Attributes:
        job: Id of the job; for repository jobs its kind, since one attempt of lint
            stands for all packages.
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


class RevdepsRestart(Frozen):
    """Jobs of a group that are to run again.

    Attributes:
        group: How the group stands.
        selector: Which of its jobs.
    """

    group: JobGroup
    selector: RestartSelector


class PlatformInput(Frozen):
    """Input of PlatformWorkflow.

    Attributes:
        pull_request: To whom the jobs belong.
        head: Commit under test.
        opened_at: When the testing of this head began.
        parent: Workflow that is told of progress; None for a benchmark.
        platform: Where to build.
        repository: With which packages.
        options: How.
        jobs: What to run, as queued rows; a job whose dependency is not among them starts
            at once.
        submitted: Packages that the pull request itself builds.
        rounds: Of each package whose reverse dependencies were listed before, the highest
            round of their jobs.
        revdeps: Jobs on reverse dependencies to run again.
    """

    pull_request: PullRequestRef
    head: str
    opened_at: AwareDatetime
    parent: str | None
    platform: Platform
    repository: RepositoryRef
    options: CheckOptions
    jobs: Rows
    submitted: tuple[str, ...] = ()
    rounds: dict[str, int] = Field(default_factory=dict)
    revdeps: tuple[RevdepsRestart, ...] = ()


class PlatformProgress(Frozen):
    """Signal from a PlatformWorkflow to its parent: rows that changed.

    Attributes:
        head: Of which head: late words about a superseded one are ignored.
        workflow_id: Who says it.
        jobs: The rows.
        groups: Groups of jobs that came to be, told of together with the listing's row: a
            moment at which the listing is decided and its jobs unknown would look green.
        done: Whether the child has nothing more to say.
        platform: The platform with its image by digest, if the child had to look that up: later
            jobs of the head use the same one.
        notice: What people should know of the image.
    """

    head: str
    workflow_id: str
    jobs: Rows
    groups: tuple[JobGroup, ...] = ()
    done: bool = False
    platform: Platform | None = None
    notice: str | None = None


class RevdepsProgress(Frozen):
    """Signal from a RevdepsWorkflow to the PullRequestWorkflow: how its group stands.

    Attributes:
        head: Of which head.
        workflow_id: Who says it.
        group: The group.
        done: Whether the workflow has nothing more to say.
    """

    head: str
    workflow_id: str
    group: JobGroup
    done: bool = False


class RestartWaiting(Frozen):
    """Signal to a PlatformWorkflow: start these jobs at once instead of after their backoff.

    Attributes:
        jobs: Their ids.
        asker: Who wants that.
    """

    jobs: tuple[str, ...]
    asker: RestartAsker = RestartAsker.PERSON


class RunningChild(Frozen):
    """A PlatformWorkflow under way, and the ids of the jobs it runs."""

    workflow_id: str
    jobs: Annotated[tuple[str, ...], Packed()]


class PullRequestInput(Frozen):
    """Input of PullRequestWorkflow, and what it carries over when it continues as new.

    Attributes:
        pull_request: Which.
        revision: The head it works on, None until the first `head_changed`.
        opened_at: When the testing of this head began.
        sequence: Number of the last record written to the index.
        jobs: Job rows so far, when it continues as new within one head.
        packages: What the analysis found.
        merge_tree: The merged tree.
        repository: The merged repository in the store.
        platforms: Those to build on, with their images by digest where they were found.
        planned: Whether the job list is complete.
        automatic: What restarts of the head have cost since somebody last asked for one.
        batch: How many batches of PlatformWorkflows were started for this head.
        running: PlatformWorkflows under way.
        groups: Jobs on reverse dependencies, as numbers.
        notices: Things to know that are no verdict.
        known: The newest that GitHub said of the pull request.
        posted: By context, what GitHub was told last.
    """

    pull_request: PullRequestRef
    revision: Revision | None = None
    opened_at: AwareDatetime | None = None
    sequence: int = 0
    jobs: Rows = ()
    packages: Packages = ()
    merge_tree: str | None = None
    repository: RepositoryRef | None = None
    platforms: tuple[Platform, ...] = ()
    planned: bool = False
    automatic: int = 0
    batch: int = 0
    running: tuple[RunningChild, ...] = ()
    groups: tuple[JobGroup, ...] = ()
    notices: tuple[str, ...] = ()
    known: Known | None = None
    posted: dict[str, Posted] = Field(default_factory=dict)


def revision_key(pull_request: PullRequestRef, head: str, opened_at: datetime) -> RevisionKey:
    """Returns the index key of one testing of one head."""
    return RevisionKey(
        repository=f"{pull_request.owner}/{pull_request.repo}",
        number=pull_request.number,
        branch=pull_request.branch,
        head=head,
        opened_at=opened_at,
    )
