"""Which jobs a restart or a cancel takes, and what it took."""

from enum import StrEnum

from pydantic import Field

from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Cause, Skipped, SkipReason
from opam_ci.core.jobs.summary import DECIDED, JobState, JobStatus, Standing, cause_of
from opam_ci.core.model import Frozen


class RestartWhich(StrEnum):
    """Which decided jobs a restart takes."""

    ERRORED = "errored"
    FAILED = "failed"
    STOPPED = "stopped"
    """Those that were not run because others fail alike, see `early_stop.py`."""
    ALL = "all"


class RestartOrigin(StrEnum):
    """Who initiated a restart. Automatic restarts are limited by a budget."""

    PERSON = "person"
    """Somebody, by any way. Resets the budget of automatic restarts."""
    AUTHOR = "author"
    """The author of the pull request, who may do so some times an hour. Resets that budget too."""
    INCIDENT = "incident"
    """A resolved incident: counts against the budgets."""
    TRIAL = "canary"
    """An incident that tests whether it is repaired. Much cheaper: a fault that lasts all night
    takes many, and the job that is used must not lose its budget to them. The value is that of
    requests on their way."""

    @property
    def is_manual(self) -> bool:
        """Whether somebody asks, and not the CI itself."""
        return self in {RestartOrigin.PERSON, RestartOrigin.AUTHOR}

    def charged(self, before: int, restarts: int = 1) -> int:
        """Returns the cost of automatic restarts since the last manual one.

        Args:
            before: Their cost before.
            restarts: Number of jobs that are restarted now.
        """
        if self.is_manual:
            return 0
        return before + restarts * (TRIAL_COST if self is RestartOrigin.TRIAL else RESTART_COST)


RESTART_COST = 20
"""Cost of an automatic restart of a job."""
TRIAL_COST = 3
"""Cost if the restart is a trial."""


class JobSelector(Frozen):
    """Which jobs of a head; every given field narrows.

    Attributes:
        platform: Only on this platform.
        package: Only this package, with or without its version.
        kind: Only jobs of this kind.
        revdep: Only on this reverse dependency, with or without its version.
        job: Only the job with this id.
        jobs: Only the jobs with these ids; none narrows nothing.
        head: Only while this commit is under test: a later head's jobs are others.
    """

    platform: str | None = Field(default=None, max_length=100)
    package: str | None = Field(default=None, max_length=300)
    kind: JobKind | None = None
    revdep: str | None = Field(default=None, max_length=300)
    job: str | None = Field(default=None, max_length=900)
    jobs: tuple[str, ...] = Field(default=(), max_length=10_000)
    head: str | None = Field(default=None, max_length=100)

    def narrows_to(self, job: Job) -> bool:
        """Whether all but the head match; the caller compares the head."""
        return (
            self.platform in {None, job.platform}
            and _is_named(self.package, job.package)
            and self.kind in {None, job.kind}
            and _is_named(self.revdep, job.revdep)
            and self.job in {None, job.id}
            and (not self.jobs or job.id in self.jobs)
        )


def _is_named(wanted: str | None, package: str | None) -> bool:
    return wanted is None or (
        package is not None and wanted in {package, package.partition(".")[0]}
    )


class RestartSelector(JobSelector):
    """Which decided jobs to restart; every given field narrows.

    Attributes:
        which: Jobs that the CI itself lost (the default), failed ones, those that were not run
            because others fail alike, or all.
        cause: Only jobs errored for this cause.
        origin: Who asks.
    """

    which: RestartWhich = RestartWhich.ERRORED
    cause: Cause | None = None
    origin: RestartOrigin = RestartOrigin.PERSON

    @property
    def standings(self) -> frozenset[Standing]:
        """Standings of the jobs that are selected.

        `errored` selects cancelled jobs too: they ended without a verdict.
        """
        standings = _STANDINGS[self.which]
        return standings if self.cause is None else standings & {Standing.ERRORED}

    @property
    def skips(self) -> frozenset[SkipReason]:
        """Reasons of skipped jobs that are selected whatever their standing.

        Platforms that no worker served are looked at again: that is no verdict, but no fault
        either, so only people restart it.
        """
        if self.which is RestartWhich.STOPPED:
            return frozenset({SkipReason.STOPPED_EARLY})
        is_asked = self.takes_retrying and self.cause is None and self.origin.is_manual
        return frozenset({SkipReason.NOT_SERVED} if is_asked else ())

    @property
    def takes_retrying(self) -> bool:
        """Whether jobs that wait for their automatic retry start at once."""
        return self.which in {RestartWhich.ERRORED, RestartWhich.ALL}

    def takes_decided(self, row: JobStatus) -> bool:
        """Whether a decided job is selected."""
        skip = row.outcome.reason if isinstance(row.outcome, Skipped) else None
        return (row.standing in self.standings or skip in self.skips) and self._fits(row)

    def takes_waiting(self, row: JobStatus) -> bool:
        """Whether a job that waits for its automatic retry is to start at once."""
        return row.state is JobState.RETRYING and self.takes_retrying and self._fits(row)

    def _fits(self, row: JobStatus) -> bool:
        return self.cause in {None, cause_of(row)} and self.narrows_to(row.job)


_STANDINGS = {
    RestartWhich.ERRORED: frozenset({Standing.ERRORED, Standing.CANCELLED}),
    RestartWhich.FAILED: frozenset({Standing.FAILED}),
    RestartWhich.STOPPED: frozenset(),
    RestartWhich.ALL: DECIDED,
}


class Taken(Frozen):
    """What a restart or a cancel takes, or would take.

    Attributes:
        jobs: How many jobs, those included that follow from others.
        by_platform: How many on each platform; analysis and lint under the empty name.
        first: Ids of the first of them, `TAKEN_SHOWN` at most.
        total_seconds: Of a preview, how long they ran in all when they last ended; else 0.
        longest_seconds: The same of the one that ran longest.
        refusal: Why nothing was taken, in a sentence; None where something was.
    """

    jobs: int = 0
    by_platform: dict[str, int] = Field(default_factory=dict)
    first: tuple[str, ...] = ()
    total_seconds: float = 0
    longest_seconds: float = 0
    refusal: str | None = None


TAKEN_SHOWN = 20
"""Ids in the answer to a restart or a cancel."""


class RestartUpdate(Frozen):
    """Input of the update `restart_jobs`.

    Attributes:
        selector: Which jobs.
        preview: Whether only to return what it would take.
    """

    selector: RestartSelector = RestartSelector()
    preview: bool = False


class CancelUpdate(Frozen):
    """Input of the update `cancel_jobs`.

    Attributes:
        selector: Which jobs; nothing selects all that are undecided.
        preview: Whether only to return what it would take.
    """

    selector: JobSelector = JobSelector()
    preview: bool = False
