"""Inputs and results of activities. Small: logs and lists travel as references."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import AwareDatetime, Field, model_serializer

from opam_ci.core.jobs.build import BuildSpec, RepositoryRef, SourceCounts
from opam_ci.core.jobs.hold import Author, Hold
from opam_ci.core.jobs.installable import Unavailable
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.known_verdict import KnownVerdict
from opam_ci.core.jobs.outcome import CancelledBy, Outcome, Skipped
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.requests import PullRequestRef, Revision, Surroundings
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.jobs.selector import JobSelector, RestartOrigin, RestartSelector
from opam_ci.core.jobs.summary import Fault, PlatformStanding
from opam_ci.core.model import Frozen
from opam_ci.core.packed import Packed
from opam_ci.core.platforms.model import Platform
from opam_ci.core.submission.inputs import HeadInputs
from opam_ci.core.submission.result import BUILT_KINDS, Analysis, ChangedPackage, Packages


class JobContext(Frozen):
    """To whom a job belongs; every job's activity gets one.

    Attributes:
        pull_request: Which pull request.
        head: Commit under test.
        opened_at: When the testing of this head began: the same head can be tested again.
        round: 1 for the job's first run at this head, one more for each restart.
        retry: Backoff, so that the activity can say when the next attempt comes.
        notify: Whether the workflow that runs the job gets signals of faulted
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
    """Input of the `run_job` activity.

    Its JSON leaves out what has its default value. There is one for every job, and Temporal's
    server spends as much on 2 kB of input as on all the rest of an activity. A worker of another
    version fills in its own defaults.
    """

    context: JobContext
    spec: BuildSpec

    @model_serializer(when_used="json")
    def _without_defaults(self) -> dict[str, Any]:
        return {
            "context": self.context.model_dump(mode="json", exclude_defaults=True),
            "spec": self.spec.model_dump(mode="json", exclude_defaults=True),
        }


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

    @property
    def job(self) -> str:
        """Id of the job in signals of its attempts; for lint that of its first package."""
        if not self.packages:
            return JobKind.ANALYSIS.value
        return f"{JobKind.LINT} {self.packages[0].package}"


class HeadTask(Frozen):
    """Input of what is found out about a head besides its jobs.

    Not a `RepositoryTask`, which is an attempt of a job, and is counted and measured as one.

    Attributes:
        on: The head, where it is, and to whom it belongs. Another base than that of its testing is
            one that moved.
    """

    on: RepositoryTask


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
        base_repository: The base in the store, without the head.
        report: How the attempt ended.
        base: Commit into which the head was merged, where the activity chose it itself:
            the newest one of the base branch on GitHub.
        inputs: What the head's jobs work on; None from a worker of an older version.
    """

    analysis: Analysis
    repository: RepositoryRef | None
    base_repository: RepositoryRef | None = None
    report: "JobReport"
    base: str | None = None
    inputs: HeadInputs | None = None


class ImageTask(Frozen):
    """Input of the `pin_image` activity.

    Attributes:
        context: To whom it belongs.
        job: Id of the job.
        image: An image by tag.
    """

    context: JobContext
    job: str
    image: str


class ImageReport(Frozen):
    """What the `pin_image` activity answers.

    Attributes:
        image: The image by digest, None if its registry does not have it for us.
        notice: Why not.
        report: How the attempt ended.
    """

    image: str | None = None
    notice: str | None = None
    report: "JobReport"


class Listing(Frozen):
    """The reverse dependencies that a `list-revdeps` job found, as an artifact.

    Attributes:
        key: Artifact key of the list: `core.jobs.build.RevdepList` as JSON.
        revdeps: How many there are: each is built.
        tested: How many of them have tests that are to run.
        flagged: How many are not built, since they are flagged `avoid-version` or `deprecated`.
    """

    key: str
    revdeps: int
    tested: int
    flagged: int = 0


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
        cpu_seconds: Processor time that it used, None if unknown.
        image: Fingerprint of the image that it ran in, None if unknown.
        sources: Where its archives came from, None if unknown.
        verdict_key: What the outcome depends on, see `BuildFacts.verdict_key`.
        audits: Label of the verdict that was known for that key, if the job ran all the same.
    """

    outcome: Outcome
    attempt: int
    worker: str
    started_at: datetime
    ended_at: datetime
    log: str | None = None
    listing: Listing | None = None
    cpu_seconds: float | None = None
    image: str | None = None
    sources: SourceCounts | None = None
    verdict_key: str | None = None
    audits: str | None = None


class JobHeartbeat(Frozen):
    """What a running attempt's heartbeats carry: enough to explain its loss.

    Attributes:
        attempt: Number of the attempt.
        worker: Who runs it.
        started_at: When it began.
        phase: The phase under way, None before the first.
        log: Key of its log.
        log_bytes: Size of the log so far.
        note: See `BuildProgress`.
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
    note: str = ""
    alone: bool = False
    limit_reached_on: str | None = None
    fault: Fault | None = None


class QueuedJob(Frozen):
    """A job that the index says is to run.

    Attributes:
        job: Which.
        round: In which round.
        restart_budget_used: Cost of its automatic restarts since the last manual one, in units of
            `RESTART_COST`.
        needs: Id of the job that must pass first; None for none.
        waits: Whether that job is undecided, as the index knows it.
        inherited_outcome: Outcome of the job without being run, if the job that it needs ended with
            something else than passed.
        known_verdicts: Verdicts that it may turn out to have, by verdict key.
    """

    job: Job
    round: int = Field(ge=1)
    restart_budget_used: int = 0
    needs: str | None = None
    waits: bool = False
    inherited_outcome: Outcome | None = None
    known_verdicts: dict[str, KnownVerdict] = Field(default_factory=dict)


class JobPage(Frozen):
    """Some of a platform's queued jobs.

    Attributes:
        jobs: The jobs.
        following: Cursor of the next page, None on the last one.
        hold: Why jobs are left out, None if none are.
    """

    jobs: Annotated[tuple[QueuedJob, ...], Packed()]
    following: str | None = None
    hold: Hold | None = None


class PlanJobs(Frozen):
    """Input of the activity that puts the jobs of a head into the index.

    Attributes:
        key: The testing.
        packages: What the analysis found.
        platforms: Where to build.
        round: In which round: jobs that were decided in an earlier one run again.
        origin: Origin of the restart, None if it is none.
        lint: Whether to lint, too.
        reuse: What the jobs have in common, if they may take verdicts of jobs with the same
            inputs; None if all are to run.
    """

    key: RevisionKey
    packages: Packages
    platforms: tuple[Platform, ...]
    round: int
    origin: RestartOrigin | None = None
    lint: bool = True
    reuse: Surroundings | None = None

    @property
    def submitted(self) -> tuple[str, ...]:
        """Packages that the head itself builds."""
        return tuple(each.package for each in self.packages if each.kind in BUILT_KINDS)


class PlannedPlatforms(Frozen):
    """Where the jobs of a head are built.

    Attributes:
        platforms: Each in the pool that was chosen for it, or as it was if none is served.
        notices: What is to be said of the plan.
    """

    platforms: tuple[Platform, ...]
    notices: tuple[str, ...] = ()


class PlanRevdeps(Frozen):
    """Input of the activity that puts the jobs on reverse dependencies into the index.

    Attributes:
        key: The testing.
        platform: Name of the platform.
        package: Whose reverse dependencies.
        listing: Key of the list in the store.
        round: As in `PlanJobs`.
        on: The platform in the pool that was chosen for it, for `reuse`.
        reuse: As in `PlanJobs`.
    """

    key: RevisionKey
    platform: str
    package: str
    listing: str
    round: int
    on: Platform | None = None
    reuse: Surroundings | None = None


class TakeJobs(Frozen):
    """Input of the activity that reads which jobs of a platform are next.

    Attributes:
        key: The testing.
        platform: Name of the platform; empty for lint.
        limit: How many at most.
        after: The `following` of the page before; None for the first.
        author: Whose limits apply; None for none.
        is_first_platform: Whether the small set of a new author is built on this platform.
        reuse: Whether the jobs may take verdicts of jobs with the same solution.
    """

    key: RevisionKey
    platform: str
    limit: int
    after: str | None = None
    author: Author | None = None
    is_first_platform: bool = False
    reuse: bool = False


class CountJobs(Frozen):
    """Input of the activity that counts the jobs of platforms, and reads rows that explain them.

    Attributes:
        key: The testing.
        platforms: Names of the platforms; an empty name for analysis and lint.
        excluding: Ids of jobs that the asker counts itself.
    """

    key: RevisionKey
    platforms: tuple[str, ...]
    excluding: Annotated[tuple[str, ...], Packed()] = ()


class PlatformStandings(Frozen):
    """How the jobs of some platforms stand."""

    platforms: tuple[PlatformStanding, ...] = ()


class ChangeJobs(Frozen):
    """Input of the activities that restart or cancel jobs in the index.

    Attributes:
        key: The testing.
        selector: Which jobs: a restart's takes decided ones, a cancel's undecided ones.
        round: The round of a restart: jobs that have it already are taken by this very restart.
        by: Who cancels.
        preview: Whether only to say what would be taken.
    """

    key: RevisionKey
    selector: RestartSelector | JobSelector
    round: int = 0
    by: CancelledBy = "request"
    preview: bool = False


class SettleJobs(Frozen):
    """Input of the activity that decides jobs that no workflow runs any more.

    Attributes:
        key: The testing.
        outcome: What undecided jobs come to.
        platforms: Names of the platforms; None for all.
    """

    key: RevisionKey
    outcome: Outcome
    platforms: tuple[str, ...] | None = None


class StopEarly(Frozen):
    """Input of the `stop_early` activity.

    Attributes:
        key: The testing.
        platform: On which platform.
    """

    key: RevisionKey
    platform: str


class EarlyStops(Frozen):
    """Packages whose other reverse dependencies are not run on a platform.

    Attributes:
        outcomes: Outcome of these, by the package that is tested.
    """

    outcomes: dict[str, Skipped] = Field(default_factory=dict)


class ConcludeJobs(Frozen):
    """Input of the activity that decides what only all platforms together can decide.

    Attributes:
        key: The testing.
        unavailable: What packages are that are available on no platform.
        round: The round of the testing's newest jobs.
        there: Packages of the change that the base has, too.
        platforms: Where to build.
        reuse: As in `PlanJobs`.
    """

    key: RevisionKey
    unavailable: Unavailable
    round: int = 1
    there: tuple[str, ...] = ()
    platforms: tuple[Platform, ...] = ()
    reuse: Surroundings | None = None


def revision_key(pull_request: PullRequestRef, head: str, opened_at: datetime) -> RevisionKey:
    """Returns the index key of one testing of one head."""
    return RevisionKey(
        repository=f"{pull_request.owner}/{pull_request.repo}",
        number=pull_request.number,
        branch=pull_request.branch,
        head=head,
        opened_at=opened_at,
    )


def opened_at(now: datetime, before: datetime | None) -> datetime:
    """Returns when a testing counts as opened.

    The index takes the latest for the newest, and two may begin in one workflow task.

    Args:
        now: The workflow's time.
        before: When the testing before this one was opened.
    """
    return now if before is None else max(now, before + timedelta(microseconds=1))
