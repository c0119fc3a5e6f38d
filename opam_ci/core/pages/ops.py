"""The page of operators as a value. Every number is a count of rows of the job index.

What the index does not know is not here: free slots, versions and disks of workers are metrics
(docs/metrics.md), and so is the last canary of a pool.
"""

from pydantic import AwareDatetime, Field

from opam_ci.core.incidents.model import Incident
from opam_ci.core.jobs.hold import Hold
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.overview import AuthorRow, ErrorGroup
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.jobs.waiver import Waiver
from opam_ci.core.model import Frozen
from opam_ci.core.pages.estimate import EstimatesKept
from opam_ci.core.pages.model import AuditEntry, WrongVerdict
from opam_ci.core.pages.waiting import WaitReason
from opam_ci.core.reuse.settled import Audits

ROWS_SHOWN = 10
"""Rows of most lists: an operator reads the first ones, and commands list all."""

WORKERS_SHOWN = 40
"""Workers with their attempts; those with most faults come first."""

ATTEMPTS_SHOWN = 20
"""Last attempts of a worker."""

HOURS = 24
"""Hours that counts of attempts and faults reach back."""

LEAST_FAULTS = 2
"""Faults of an incident that is listed: one whose retry succeeds is hardly an incident."""


class OpsIncident(Frozen):
    """An open incident.

    Attributes:
        incident: The incident.
        faults_hour: Its faults within the last hour.
        restarts: Jobs that its resolution would restart.
        restart_pull_requests: Pull requests of these.
        spent: Errored jobs without automatic restarts left: they wait for a manual one.
        retrying: Its jobs that wait for a retry.
        next_retry_at: The first of these retries, which is the next probe; None without any.
    """

    incident: Incident
    faults_hour: int = Field(ge=0)
    restarts: int = Field(ge=0)
    restart_pull_requests: int = Field(ge=0)
    spent: int = Field(ge=0)
    retrying: int = Field(ge=0)
    next_retry_at: AwareDatetime | None = None


class Share(Frozen):
    """Attempts of some time that ended, and those that met an infrastructure fault.

    Attributes:
        attempts: Attempts that ended.
        faults: Those that met a fault.
    """

    attempts: int = Field(default=0, ge=0)
    faults: int = Field(default=0, ge=0)

    @property
    def percent(self) -> float:
        """Share of faults, from 0 to 100; 0 without attempts."""
        return 100 * self.faults / self.attempts if self.attempts else 0.0

    def __add__(self, other: "Share") -> "Share":
        """Adds the attempts of another place."""
        return Share(attempts=self.attempts + other.attempts, faults=self.faults + other.faults)


class PoolRow(Frozen):
    """A pool whose workers began attempts within `HOURS`.

    Attributes:
        pool: Its name; empty for workers of analysis and lint.
        workers: Workers that began an attempt within `HOURS`.
        busy: Workers with an attempt under way.
        running: Attempts under way.
        hour: Ended attempts that began within the last hour.
        day: Ended attempts that began within `HOURS`.
        last_passed_at: When an attempt passed last, within `HOURS`; None if none did.
        faults_by_hour: Faults of attempts by the hour in which these began, the oldest first;
            `HOURS` numbers.
    """

    pool: str
    workers: int = Field(ge=0)
    busy: int = Field(ge=0)
    running: int = Field(ge=0)
    hour: Share
    day: Share
    last_passed_at: AwareDatetime | None
    faults_by_hour: tuple[int, ...]


class KindCount(Frozen):
    """Queued jobs of a kind, in the order in which kinds run.

    Attributes:
        kind: Their kind.
        number: How many.
    """

    kind: JobKind
    number: int = Field(ge=0)


class QueueRow(Frozen):
    """Undecided jobs of one platform, of the newest heads of open pull requests.

    Attributes:
        platform: Its name; empty for analysis and lint.
        queued: Jobs that wait, held ones included.
        kinds: These by kind.
        oldest_at: Since when the first of them waits; None without any.
        running: Jobs under way.
        retrying: Jobs that wait for a retry.
    """

    platform: str
    queued: int = Field(ge=0)
    kinds: tuple[KindCount, ...]
    oldest_at: AwareDatetime | None
    running: int = Field(ge=0)
    retrying: int = Field(ge=0)


class AttemptMark(Frozen):
    """An attempt of a worker, as one character of a row.

    Attributes:
        standing: Running, or the kind of its outcome.
        why: Its cause or reason; empty if there is none.
        job: The job's id.
        revision: The testing.
        started_at: When it began.
    """

    standing: Standing
    why: str
    job: str
    revision: RevisionKey
    started_at: AwareDatetime


class WorkerStrip(Frozen):
    """A worker that began an attempt within `HOURS`.

    Attributes:
        worker: Its identity.
        pools: Its pools; an empty name for analysis and lint.
        running: Attempts under way.
        day: Ended attempts that began within `HOURS`.
        causes: Faults of these by cause.
        last_seen_at: When its last attempt began.
        last: Its last attempts, the newest first; `ATTEMPTS_SHOWN` at most.
    """

    worker: str
    pools: tuple[str, ...]
    running: int = Field(ge=0)
    day: Share
    causes: dict[Cause, int]
    last_seen_at: AwareDatetime
    last: tuple[AttemptMark, ...] = ()


class UnknownFaults(Frozen):
    """Faults of unknown cause that look the same, within a week.

    Attributes:
        rule: Rule of the first one.
        line: The evidence of the newest one, verbatim.
        attempts: How many attempts met it.
        workers: Workers that ran them.
        pull_requests: Pull requests that these are of.
        first_at: When the first of them ended.
        last: The newest of them.
    """

    rule: str
    line: str
    attempts: int = Field(ge=1)
    workers: int = Field(ge=0)
    pull_requests: int = Field(ge=1)
    first_at: AwareDatetime
    last: AttemptMark


class GreenUnbuilt(Frozen):
    """A green head none of whose builds and tests passed.

    Attributes:
        revision: Its testing.
        title: Title of the pull request.
    """

    revision: RevisionKey
    title: str


class Quality(Frozen):
    """What may be wrong with verdicts.

    Attributes:
        judged_again: Verdicts of the last week that were revised in the light of others' verdicts,
            the newest first; `ROWS_SHOWN` at most.
        judged_again_number: All of these.
        green_unbuilt: Open pull requests that are green although nothing was built; `ROWS_SHOWN` at
            most.
        green_unbuilt_number: All of these.
        wrong: Verdicts that maintainers call wrong, the newest first; `ROWS_SHOWN` at most.
        audits: How often verdicts of jobs with the same inputs were compared, 30 days.
    """

    judged_again: tuple[AttemptMark, ...] = ()
    judged_again_number: int = Field(default=0, ge=0)
    green_unbuilt: tuple[GreenUnbuilt, ...] = ()
    green_unbuilt_number: int = Field(default=0, ge=0)
    wrong: tuple[WrongVerdict, ...] = ()
    audits: Audits = Audits()


class Quantiles(Frozen):
    """Quantiles of durations, in s.

    Attributes:
        p50: Half of them are not longer.
        p95: Nineteen of twenty are not longer.
    """

    p50: float = Field(ge=0)
    p95: float = Field(ge=0)


class Flow(Frozen):
    """How long heads took whose newest verdict is of the last `HOURS`.

    Attributes:
        heads: Number of these.
        first_job: From the beginning of a testing to its first job after the analysis; None if
            there was none.
        verdict: From the beginning of a testing to the decision of its last job; None without
            heads.
        estimates: How often first estimates of heads held, of 30 days.
    """

    heads: int = Field(default=0, ge=0)
    first_job: Quantiles | None = None
    verdict: Quantiles | None = None
    estimates: EstimatesKept = EstimatesKept()


class Waiting(Frozen):
    """A pull request with queued jobs.

    Attributes:
        revision: Its newest testing.
        title: Its title.
        author: Account that opened it, None if not known.
        queued: Queued jobs.
        running: Jobs under way.
        since: Since when the first of the queued ones waits.
        reason: Why.
        hold: For the reason `held`.
    """

    revision: RevisionKey
    title: str
    author: str | None
    queued: int = Field(ge=1)
    running: int = Field(ge=0)
    since: AwareDatetime
    reason: WaitReason
    hold: Hold | None = None


class OpsPage(Frozen):
    """The page of operators.

    Attributes:
        as_of: When it was read.
        is_well: Whether operators need not do anything.
        sentence: Whether the CI is well, and what is wrong first.
        incidents: Open ones of `LEAST_FAULTS` or more, last seen first; `ROWS_SHOWN` at most.
        more_incidents: Number of other such ones.
        pools: All pools with attempts, by name.
        queue: Platforms with undecided jobs, the longest waiting first.
        workers: `WORKERS_SHOWN` at most, most faults first.
        more_workers: Number of the others.
        unknown: Faults of unknown cause, most attempts first; `ROWS_SHOWN` at most.
        quality: What may be wrong with verdicts.
        parked: Errored and retrying jobs by cause.
        authors: Processor time of authors since the day began (UTC), most first; `ROWS_SHOWN` at
            most.
        flow: How long heads take.
        waiting: Who waits longest; `ROWS_SHOWN` at most.
        more_waiting: Number of other pull requests with queued jobs.
        waivers: Those that end soon, or ended a short time ago, the nearest to its end first;
            `ROWS_SHOWN` at most.
        audit: Actions of those who are signed in, and of commands, the newest first; `ROWS_SHOWN`
            at most.
    """

    as_of: AwareDatetime
    is_well: bool
    sentence: str = Field(max_length=200)
    incidents: tuple[OpsIncident, ...] = ()
    more_incidents: int = Field(default=0, ge=0)
    pools: tuple[PoolRow, ...] = ()
    queue: tuple[QueueRow, ...] = ()
    workers: tuple[WorkerStrip, ...] = ()
    more_workers: int = Field(default=0, ge=0)
    unknown: tuple[UnknownFaults, ...] = ()
    quality: Quality = Quality()
    parked: tuple[ErrorGroup, ...] = ()
    authors: tuple[AuthorRow, ...] = ()
    flow: Flow = Flow()
    waiting: tuple[Waiting, ...] = ()
    more_waiting: int = Field(default=0, ge=0)
    waivers: tuple[Waiver, ...] = ()
    audit: tuple[AuditEntry, ...] = ()
