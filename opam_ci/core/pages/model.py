"""The pages of heads, jobs, pull requests and packages, as values: web pages and JSON alike.

Each number has the filter that lists what it counts (`Linked`); `filter.py` parses it.
"""

from typing import Literal

from pydantic import AwareDatetime, Field

from opam_ci.core.incidents.model import Incident
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.records import AttemptRecord, JobRecord, RevisionRecord
from opam_ci.core.jobs.summary import Counts, Standing, State
from opam_ci.core.model import Frozen
from opam_ci.core.pages.estimate import Estimate, NoEstimate

CAUSES_SHOWN = 10
"""Groups of causes that a page shows; of the others it has their number, and that of their jobs."""

MATRIX_ROWS = 100
"""Packages in the matrix of a page, the worst first."""

MATRIX_CELLS = 6000
"""Cells of a matrix: with more columns it has fewer rows."""

HEADS_SHOWN = 50
"""Heads of a pull request that a page lists, the newest first."""


class Linked(Frozen):
    """A number, and the filter that lists what it counts.

    Attributes:
        number: How many.
        filter: In the language of `core/pages/filter.py`; empty for all jobs of the head.
    """

    number: int = Field(ge=0)
    filter: str


class JobRef(Frozen):
    """A job that a page links to.

    Attributes:
        id: Its id within the head, see `Job.id`.
        title: For people, without the platform.
        platform: Name of its platform; empty for analysis and lint.
        standing: Its standing.
        log_key: Key of its last attempt's log, None if there is none.
    """

    id: str
    title: str
    platform: str
    standing: Standing
    log_key: str | None = None


class ContextState(Frozen):
    """A required or advisory context, as it is posted to GitHub.

    Attributes:
        name: Its name on GitHub.
        advisory: Whether the overall context leaves its jobs out.
        state: GitHub's state.
        description: The text of its status.
    """

    name: str
    advisory: bool
    state: State
    description: str


class HeadRef(Frozen):
    """A testing of a head, in the list of a pull request's heads.

    Attributes:
        head: Commit under test.
        opened_at: When its testing began.
        state: GitHub's state.
    """

    head: str
    opened_at: AwareDatetime
    state: State


ChangeClass = Literal["fixed", "newly-failing", "still-failing", "errored", "new", "gone"]
"""How a job differs from the same job of the previous head; a job can be in several classes.

- `fixed`: failed there, passed here.
- `newly-failing`: failed here, and not there.
- `still-failing`: failed here and there.
- `errored`: errored here, whatever it was there.
- `new`: not planned there.
- `gone`: planned there, and not here.
"""


class Changes(Frozen):
    """The difference to the previous head's testing.

    The same job is the job of the same id: of the same kind and platform, and with the same
    versions of its package and reverse dependency. Another version is another package to opam, and
    a pull request may have several versions of one.

    Attributes:
        head: The previous head.
        fixed: See `ChangeClass`.
        newly_failing: See `ChangeClass`.
        still_failing: See `ChangeClass`.
        errored: See `ChangeClass`.
        new: See `ChangeClass`.
        gone: See `ChangeClass`; its filter lists jobs of the previous head.
    """

    head: HeadRef
    fixed: Linked
    newly_failing: Linked
    still_failing: Linked
    errored: Linked
    new: Linked
    gone: Linked


class HitIncident(Frozen):
    """An incident that hit a head.

    Attributes:
        incident: The incident.
        jobs: Jobs of the head that it hit, and that are errored or retrying.
    """

    incident: Incident
    jobs: Linked


class CauseGroup(Frozen):
    """Jobs of a head that are failed, errored, retrying or skipped for what looks the same.

    Attributes:
        key: Identifies what it looks like, in all heads: see `core/pages/causes.py`.
        standing: Of its jobs.
        why: Their reason or cause.
        line: The evidence of its first job: a line of the log verbatim, or a fact.
        rule: Id of the rule that decided, such as `compile-error`.
        rationale: Why that rule proves it; empty if the rule has no text.
        jobs: Its jobs, without those of the cascade.
        packages: Number of packages, or reverse dependencies, that these are about.
        platforms: Names of their platforms, sorted; empty for analysis and lint.
        first: Its first job in the order in which jobs run.
        cascade: Jobs that did not pass only since a job of the group did not: those that depend on
            its package, and tests of what was not built. None if there are none.
        also_in: Number of other open pull requests whose newest testing has jobs of this group.
        new: Whether the previous head's testing has no job of it; None without a previous head.
    """

    key: str
    standing: Standing
    why: str
    line: str
    rule: str
    rationale: str = ""
    jobs: Linked
    packages: int = Field(ge=0)
    platforms: tuple[str, ...]
    first: JobRef
    cascade: Linked | None = None
    also_in: int = Field(default=0, ge=0)
    new: bool | None = None


class Causes(Frozen):
    """The causes of a head: errors, then failures, then skips, each with the most jobs first.

    Attributes:
        groups: `CAUSES_SHOWN` at most.
        more: Number of further groups.
        more_jobs: Number of their jobs, cascades included.
    """

    groups: tuple[CauseGroup, ...] = ()
    more: int = Field(default=0, ge=0)
    more_jobs: int = Field(default=0, ge=0)


class Cell(Frozen):
    """A cell of the matrix: the jobs of one package, platform and kind; usually one.

    Attributes:
        standing: The worst of its jobs.
        number: Jobs with that standing.
        total: All jobs of the cell.
        job: Id of the job if it is one, else None.
        filter: Lists the jobs of the cell.
    """

    standing: Standing
    number: int = Field(ge=1)
    total: int = Field(ge=1)
    job: str | None
    filter: str


class MatrixColumn(Frozen):
    """A column of the matrix.

    Attributes:
        platform: Name of the platform; empty for lint.
        kind: Kind of its jobs.
    """

    platform: str
    kind: JobKind


class MatrixRow(Frozen):
    """A package in the matrix.

    Attributes:
        package: Its full name.
        worst: The worst standing of its cells.
        cells: One for each column; None where the package has no such job.
        filter: Lists the jobs of the row.
    """

    package: str
    worst: Standing
    cells: tuple[Cell | None, ...]
    filter: str


class Matrix(Frozen):
    """Jobs by package, platform and kind, without reverse dependencies and analysis.

    Attributes:
        columns: Platforms and kinds that have jobs.
        rows: `MATRIX_ROWS` at most, the worst first; none in which every job passed unless there
            is room for all.
        green: Packages of which every job passed and that have no row.
        more: Other packages without a row.
    """

    columns: tuple[MatrixColumn, ...] = ()
    rows: tuple[MatrixRow, ...] = ()
    green: int = Field(default=0, ge=0)
    more: int = Field(default=0, ge=0)


class RevdepRoot(Frozen):
    """Jobs on reverse dependencies that fail for the same root.

    Attributes:
        root: Full name of the package that failed: a dependency, or the package of the pull
            request; None where each fails by itself.
        key: Key of the group of causes.
        line: The evidence of its first job.
        jobs: The jobs.
    """

    root: str | None
    key: str
    line: str
    jobs: Linked


class Revdeps(Frozen):
    """Totals of the jobs on reverse dependencies.

    Attributes:
        total: All.
        failed: Failed ones.
        errored: Errored ones, and those that wait for a retry.
        passed: Passed ones.
        skipped: Skipped ones.
        not_run: Queued, running and cancelled ones.
        stopped: Of the skipped ones, those that were not run since all before them fail alike.
        roots: Failed ones by root, most jobs first, `CAUSES_SHOWN` at most.
        more_roots: Number of further roots.
    """

    total: Linked
    failed: Linked
    errored: Linked
    passed: Linked
    skipped: Linked
    not_run: Linked
    stopped: Linked
    roots: tuple[RevdepRoot, ...] = ()
    more_roots: int = Field(default=0, ge=0)


class RevdepRow(Frozen):
    """A reverse dependency in a fragment of a page.

    Attributes:
        revdep: Its full name.
        worst: The worst standing of its jobs.
        number: Jobs with that standing.
        total: All its jobs.
        filter: Lists them.
    """

    revdep: str
    worst: Standing
    number: int = Field(ge=1)
    total: int = Field(ge=1)
    filter: str


class HeadTop(Frozen):
    """What the page of a head and the lists of its jobs begin with.

    Attributes:
        version: Changes with every change of the testing and its jobs, and with a newer head of
            the pull request; not with other pull requests.
        revision: The testing.
        sentence: The state in one sentence of at most 200 characters: the one of the statuses.
        state: GitHub's state of all jobs, advisory ones included.
        contexts: Required and advisory contexts.
        counts: Builds and tests by standing, as the sentence counts them.
        total: All jobs, those included that build nothing.
        fixed: Those that passed, and are known to fail without the change.
        heads: Testings of the pull request, the newest first, this one included; `HEADS_SHOWN` at
            most.
        as_of: Time of the newest change that it shows.
        estimate: When all jobs will be decided; None if they are, if jobs wait for an approval, and
            if it is not known, see `core/pages/estimate.py`.
        no_estimate: Why it is not known; None otherwise.
    """

    version: str
    revision: RevisionRecord
    sentence: str = Field(max_length=200)
    state: State
    contexts: tuple[ContextState, ...] = ()
    counts: Counts
    total: Linked
    fixed: Linked = Linked(number=0, filter="cause:fixed")
    heads: tuple[HeadRef, ...] = ()
    as_of: AwareDatetime
    estimate: Estimate | None = None
    no_estimate: NoEstimate | None = None


class HeadPage(HeadTop):
    """The page of a head.

    Attributes:
        since: The difference to the previous head, which is the newest earlier one that was
            decided; None if there is none, and before jobs are planned.
        incidents: Incidents that hit jobs which are errored or retrying, most jobs first.
        causes: Why jobs did not pass.
        matrix: Jobs by package, platform and kind.
        revdeps: Totals of reverse dependencies; None if there are none.
    """

    since: Changes | None = None
    incidents: tuple[HitIncident, ...] = ()
    causes: Causes = Causes()
    matrix: Matrix = Matrix()
    revdeps: Revdeps | None = None


class PreviousJob(Frozen):
    """The same job on the previous head.

    Attributes:
        head: That head.
        job: The job.
        is_alike: Whether it ended with the same standing, for what looks the same.
    """

    head: HeadRef
    job: JobRecord
    is_alike: bool


class SeenElsewhere(Frozen):
    """Jobs of other pull requests that look the same.

    Attributes:
        pull_requests: Number of other open pull requests whose newest testing has some.
        first_seen_at: When the first job of any pull request ended so, as far as the index
            reaches.
    """

    pull_requests: int = Field(ge=0)
    first_seen_at: AwareDatetime | None


class WorkerNearby(Frozen):
    """The attempts of the job's worker within an hour of its last attempt.

    Attributes:
        worker: Identity of the worker.
        attempts: Attempts that ended.
        faults: Those that met an infrastructure fault.
    """

    worker: str
    attempts: int = Field(ge=0)
    faults: int = Field(ge=0)


class JobPage(Frozen):
    """The page of a job.

    Attributes:
        job: The job.
        title: For people, with the platform.
        sentence: What it ended with and why, or its state.
        next_step: What to do, from the witnesses.
        line: The evidence, verbatim; empty if there is none.
        rule: Id of the rule that decided; empty if none did.
        rationale: Why that rule proves it; empty if the rule has no text.
        group: Key of its group of causes, None if it has none.
        previous: The same job on the previous head.
        elsewhere: The same group in other pull requests; None if it has no group.
        worker: Health of its worker at that time; None if no worker is known.
        incident: The incident that its last fault belongs to.
        attempts: Of all rounds, lost ones too, the newest first; each has its log's key.
        newest_head: The newest head of the pull request if that is another one, else None.
    """

    job: JobRecord
    title: str
    sentence: str
    next_step: str
    line: str = ""
    rule: str = ""
    rationale: str = ""
    group: str | None = None
    previous: PreviousJob | None = None
    elsewhere: SeenElsewhere | None = None
    worker: WorkerNearby | None = None
    incident: Incident | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    newest_head: HeadRef | None = None


class PullRequestRow(Frozen):
    """A pull request, or a branch of a local clone, in the overview.

    Attributes:
        revision: The newest testing of it.
        counts: All its jobs by standing.
    """

    revision: RevisionRecord
    counts: Counts


class PackageVersion(Frozen):
    """The last build of a version on a platform.

    Attributes:
        package: Full name of the package.
        platform: Name of the platform.
        job: The job.
    """

    package: str
    platform: str
    job: JobRecord


class PackageHistory(Frozen):
    """Builds of a package's versions, from all pull requests.

    Attributes:
        name: The package, without a version.
        platforms: Names of the platforms, sorted.
        versions: Full names, the newest by opam's order first.
        builds: The last decided build of each version on each platform.
    """

    name: str
    platforms: tuple[str, ...]
    versions: tuple[str, ...]
    builds: tuple[PackageVersion, ...]


class AuditEntry(Frozen):
    """An action of somebody who is signed in.

    Attributes:
        id: Its number in the index.
        at: When.
        login: The account.
        role: Its role in the repository, as GitHub names it.
        action: Such as `restart`.
        repository: `owner/name`.
        target: Such as `pull/30203`.
        detail: What the request named, such as a filter or job.
        taken: How many jobs it took.
    """

    id: int = 0
    at: AwareDatetime
    login: str = Field(max_length=100)
    role: str = Field(max_length=50)
    action: str = Field(max_length=50)
    repository: str = Field(max_length=250)
    target: str = Field(max_length=300)
    detail: str = Field(default="", max_length=2000)
    taken: int = Field(default=0, ge=0)


class WrongVerdict(Frozen):
    """Somebody's word that a verdict is wrong: a candidate for a fixture of the classifier.

    Attributes:
        id: Its number in the index.
        at: When.
        login: The account.
        attempt: The attempt with the verdict.
        expected: What it should have been, such as `errored(dns)`.
        comment: Why.
        log_key: Key of the stored copy of the log, None if there was none.
    """

    id: int = 0
    at: AwareDatetime
    login: str = Field(max_length=100)
    attempt: AttemptRecord
    expected: str = Field(max_length=50)
    comment: str = Field(default="", max_length=2000)
    log_key: str | None = None
