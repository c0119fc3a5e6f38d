"""Reverse dependencies: their list, their jobs, and how the group of them stands."""

from pydantic import AwareDatetime

from opam_ci.core.build import RepositoryRef, Revdep
from opam_ci.core.job import Job, JobKind
from opam_ci.core.messages import Listing
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Cancelled, Cause, Outcome
from opam_ci.core.plan import FOLLOWED
from opam_ci.core.platforms import Platform
from opam_ci.core.records import RevisionKey, Standing
from opam_ci.core.requests import CheckOptions, PullRequestRef, RestartSelector, RestartWhich
from opam_ci.core.summary import GROUP_ROWS, Counts, JobGroup, JobState, JobStatus, cause_of

REVDEP_KINDS = (JobKind.REVDEP, JobKind.REVDEP_TEST)


class RevdepList(Frozen):
    """What is stored of a listing: sorted, each package once."""

    revdeps: tuple[Revdep, ...]


class RevdepsInput(Frozen):
    """Input of RevdepsWorkflow, and what it carries over when it continues as new.

    Attributes:
        pull_request: To whom the jobs belong.
        head: Commit under test.
        opened_at: When the testing of this head began.
        parent: PullRequestWorkflow that is told of progress; None for none.
        platform: Where to build.
        repository: With which packages.
        options: How.
        group: How the group stands.
        restarts: Jobs to run again; what is left of the listing runs in any case.
        sequence: Number of the last record written to the index.
    """

    pull_request: PullRequestRef
    head: str
    opened_at: AwareDatetime
    parent: str | None
    platform: Platform
    repository: RepositoryRef
    options: CheckOptions
    group: JobGroup
    restarts: tuple[RestartSelector, ...] = ()
    sequence: int = 0


class ListPart(Frozen):
    """Which part of a listing is wanted."""

    key: str
    start: int
    limit: int


class FoundJob(Frozen):
    """A job of the index that is to run again, and how it stood.

    Attributes:
        job: Which.
        standing: What it came to.
        cause: Of an errored one.
        automatic: What restarts of it have cost since somebody last asked for one.
    """

    job: Job
    standing: Standing
    cause: Cause | None = None
    automatic: int = 0


class FindJobs(Frozen):
    """Which jobs of a group a restart takes.

    Attributes:
        revision: The testing.
        platform: The group's platform.
        package: The group's package.
        selector: Which of its jobs.
        after: Where the part before this one ended.
    """

    revision: RevisionKey
    platform: str
    package: str
    selector: RestartSelector
    after: str | None = None


class FoundJobs(Frozen):
    """A part of the jobs found; `following` is None at the end."""

    jobs: tuple[FoundJob, ...]
    following: str | None = None


def new_group(platform: str, package: str, listing: Listing, *, round_: int) -> JobGroup:
    """Returns the group of a fresh listing: all of its jobs are queued."""
    return JobGroup(
        platform=platform,
        package=package,
        round=round_,
        listing=listing.key,
        listed=listing.revdeps,
        untaken=listing.revdeps + listing.tested,
        counts=Counts(queued=listing.revdeps + listing.tested),
    )


def revdep_jobs(group: JobGroup, revdep: Revdep) -> tuple[Job, ...]:
    """Returns the jobs on one reverse dependency: its build, then its tests if it has any."""
    kinds = REVDEP_KINDS if revdep.has_tests else (JobKind.REVDEP,)
    return tuple(
        Job(platform=group.platform, package=group.package, kind=kind, revdep=revdep.package)
        for kind in kinds
    )


def concerns(selector: RestartSelector, group: JobGroup) -> bool:
    """Whether a restart can take jobs of a group."""
    target = Job(platform=group.platform, package=group.package, kind=JobKind.LIST_REVDEPS)
    narrowed = selector.model_copy(update={"job": None, "jobs": ()}).narrows_to(target)
    return narrowed and _named(selector, group) != ()


def _named(selector: RestartSelector, group: JobGroup) -> tuple[str, ...] | None:
    """Returns which jobs of a group a restart names, None if it names none of any group."""
    if selector.job is None and not selector.jobs:
        return None
    prefixes = tuple(f"{kind.value} {group.platform} {group.package} " for kind in REVDEP_KINDS)
    named = selector.jobs or (selector.job or "",)
    return tuple(
        each for each in named if each.startswith(prefixes) and selector.job in {None, each}
    )


def number_taken(selector: RestartSelector, group: JobGroup) -> int:
    """Returns how many decided jobs of a group a restart takes, as far as numbers tell."""
    if not concerns(selector, group):
        return 0
    counts = group.counts
    named = _named(selector, group)
    match selector.which:
        case _ if named is not None:
            return len(named)
        case _ if selector.cause is not None:
            return group.causes.get(selector.cause, 0)
        case RestartWhich.ERRORED:
            return counts.errored + counts.cancelled
        case RestartWhich.FAILED:
            return counts.failed
        case RestartWhich.ALL:
            return counts.decided


def is_taken(selector: RestartSelector, job: Job, outcome: Outcome | None) -> bool:
    """Whether a restart takes a job that no workflow runs.

    One without an outcome was left behind by a workflow that an operator ended. Tests that
    were skipped because their build failed come back together with it.
    """
    if outcome is None:
        lost = selector.which is not RestartWhich.FAILED and selector.cause is None
        return lost and selector.narrows_to(job)
    if selector.takes(job, outcome):
        return True
    followed = outcome.kind == "skipped" and outcome.evidence.rule in FOLLOWED
    return selector.which is RestartWhich.FAILED and followed and selector.narrows_to(job)


_INTEREST = ("failed", "errored", "retrying", "running", "cancelled", "skipped", "passed", "queued")


class Tally:
    """Keeps a group's numbers while its jobs move; forgets the rows that nobody looks for."""

    def __init__(self, group: JobGroup) -> None:
        self._group = group
        self._numbers = group.counts.model_dump()
        self._causes = dict(group.causes)
        self._shown = {row.job.id: row for row in group.shown}
        self._counted: dict[str, tuple[str, Cause | None]] = {}

    def resume(self) -> None:
        """Counts what is left of the listing as queued again, whatever a stop made of it."""
        left = self._group.untaken - self._numbers["queued"]
        for standing in ("cancelled", "errored"):
            moved = max(0, min(left, self._numbers[standing]))
            self._numbers[standing] -= moved
            self._numbers["queued"] += moved
            left -= moved
            if standing == "errored" and moved:
                self._causes[Cause.UNKNOWN] = self._causes.get(Cause.UNKNOWN, 0) - moved

    def take(self, job: Job, standing: Standing, cause: Cause | None = None) -> None:
        """Notes how a job is counted so far, before its row moves for the first time."""
        self._counted[job.id] = (standing.value, cause)

    def move(self, row: JobStatus) -> None:
        """Counts a job anew: as its row stands now, and no longer as it was counted."""
        before, cause_before = self._counted[row.job.id]
        standing, cause = row.standing, cause_of(row)
        self._numbers[before] -= 1
        self._numbers[standing] += 1
        if cause_before is not None:
            self._causes[cause_before] = self._causes.get(cause_before, 1) - 1
        if cause is not None:
            self._causes[cause] = self._causes.get(cause, 0) + 1
        self._counted[row.job.id] = (standing, cause)
        self._shown[row.job.id] = row
        if len(self._shown) > 2 * GROUP_ROWS:
            self._shown = {shown.job.id: shown for shown in self._most_interesting()}

    def forget(self, job_id: str) -> None:
        """Drops what is known of a decided job but its number."""
        self._counted.pop(job_id, None)

    def give_up(self, outcome: Outcome) -> None:
        """Counts everything undecided as having come to an outcome."""
        for standing in ("queued", "running", "retrying"):
            self._numbers[outcome.kind] += self._numbers[standing]
            self._numbers[standing] = 0
        if outcome.kind == "errored":
            undecided = self._numbers["errored"] - sum(self._causes.values())
            self._causes[outcome.cause] = self._causes.get(outcome.cause, 0) + max(undecided, 0)

    def group(self, **changes: object) -> JobGroup:
        """Returns the group as it stands, one version on."""
        self._group = self._group.model_copy(
            update={
                "version": self._group.version + 1,
                "counts": Counts(**self._numbers),
                "causes": {cause: n for cause, n in sorted(self._causes.items()) if n > 0},
                "shown": tuple(self._most_interesting()[:GROUP_ROWS]),
                **changes,
            }
        )
        return self._group

    def _most_interesting(self) -> list[JobStatus]:
        ranked = sorted(self._shown.values(), key=lambda row: _INTEREST.index(row.standing))
        return ranked[:GROUP_ROWS]


def given_up(group: JobGroup, outcome: Outcome) -> JobGroup:
    """Returns a group of which nobody runs the undecided jobs any more."""
    if not group.counts.undecided:
        return group
    tally = Tally(group)
    tally.give_up(outcome)
    shown = tuple(
        row
        if row.outcome is not None
        else row.model_copy(update={"state": JobState.DECIDED, "outcome": outcome})
        for row in group.shown
    )
    return tally.group(shown=shown)


def cancelled_as(group: JobGroup, cancelled: Cancelled) -> JobGroup:
    """Returns a group whose cancelled rows say by whom: its workflow cannot know."""
    return group.model_copy(
        update={
            "shown": tuple(
                row.model_copy(update={"outcome": cancelled})
                if row.outcome is not None and row.outcome.kind == "cancelled"
                else row
                for row in group.shown
            )
        }
    )
