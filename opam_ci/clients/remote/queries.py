"""Queries of the JSON API: the filters of the index's listings, as parameters of a URL."""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, model_validator

from opam_ci.clients.index import AttemptFilter, IncidentFilter, JobFilter, Place, RevisionFilter
from opam_ci.core.jobs.job import JobKind, Phase
from opam_ci.core.jobs.outcome import Cause, FailureReason, SkipReason
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.summary import Standing, State
from opam_ci.core.model import Frozen

PAGE_LIMIT = 1000
"""Entries of a page: about a megabyte."""

_FIRST_YEAR, _LAST_YEAR = 2000, 2200


def _plausible(moment: AwareDatetime) -> AwareDatetime:
    # Databases cannot compare all times that can be written, once they are in UTC.
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise ValueError(f"not between the years {_FIRST_YEAR} and {_LAST_YEAR}")
    return moment


Text = Annotated[str, StringConstraints(min_length=1, max_length=900, pattern=r"^[^\x00-\x1f]+$")]
"""A name: databases store no NUL, and no name of ours has control characters."""

Moment = Annotated[AwareDatetime, AfterValidator(_plausible)]

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{4,64}$")]
"""A commit's, or its beginning."""

CommitHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{7,64}$")]
"""A commit's, or seven characters of its beginning at least."""

PullNumber = Annotated[int, Field(ge=1, le=2**31 - 1)]

Cursor = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class Paged(Frozen):
    """Which page of a listing.

    Attributes:
        limit: Entries at most.
        after: Cursor: the `following` of the page before; none for the first page.
    """

    limit: int = Field(default=100, ge=1, le=PAGE_LIMIT)
    after: Cursor | None = None

    @property
    def place(self) -> Place:
        """The same for the index."""
        return Place(limit=self.limit, after=self.after)


class _Selection(Paged):
    """Common parameters of all listings: which testings of heads.

    Attributes:
        repository: `owner/name`.
        number: Of a pull request.
        branch: Of a local clone.
        head: Commit under test, in full.
        opened_at: When the testing began; with repository, head, and number or branch it names one.
        newest: Only the newest testing of each pull request and branch.
        is_open: Whether the pull request is open.
        since: Changed, or an attempt started, at this time or later.
        until: Changed, or an attempt started, before this time.
    """

    repository: Text | None = None
    number: PullNumber | None = None
    branch: Text | None = None
    head: Hash | None = None
    opened_at: Moment | None = None
    newest: bool = False
    is_open: bool | None = None
    since: Moment | None = None
    until: Moment | None = None

    @model_validator(mode="after")
    def _names_a_testing(self) -> Self:
        if self.number is not None and self.branch is not None:
            raise ValueError("give either a number or a branch")
        if self.opened_at is not None and (
            self.repository is None
            or self.head is None
            or (self.number is None and self.branch is None)
        ):
            raise ValueError("opened_at needs repository, head, and a number or a branch")
        return self

    @property
    def testings(self) -> RevisionFilter:
        """The filter of testings, without times."""
        common = RevisionFilter(newest=self.newest, is_open=self.is_open)
        if self.opened_at is None:
            names = self.model_dump(include={"repository", "number", "branch", "head"})
            return common.model_copy(update=names)
        key = RevisionKey(
            repository=self.repository or "",
            number=self.number,
            branch=self.branch,
            head=self.head or "",
            opened_at=self.opened_at,
        )
        return common.model_copy(update={"revision": key})


class TestingQuery(_Selection):
    """Which testings of heads.

    Attributes:
        state: The status state on GitHub.
    """

    __test__ = False

    state: State | None = None

    @property
    def filter(self) -> RevisionFilter:
        """The same for the index."""
        own = self.model_dump(include={"state", "since", "until"})
        return self.testings.model_copy(update=own)


class SummaryQuery(Frozen):
    """Which testing of a head.

    Attributes:
        repository: `owner/name`.
        number: Of a pull request.
        branch: Of a local clone.
        head: Commit under test, in full.
        opened_at: When the testing began.
    """

    repository: Text
    number: PullNumber | None = None
    branch: Text | None = None
    head: Hash
    opened_at: Moment

    @model_validator(mode="after")
    def _is_a_key(self) -> Self:
        if (self.number is None) == (self.branch is None):
            raise ValueError("give either a number or a branch")
        return self

    @property
    def key(self) -> RevisionKey:
        """The testing."""
        return RevisionKey(**self.model_dump())


class _Outcomes(_Selection):
    """Common parameters of jobs and attempts.

    Attributes:
        standing: Of an attempt, a fault that was retried is `errored`.
        cause: Of an infrastructure fault.
        failure_reason: What about the package is at fault.
        package: With or without a version.
        worker: Identity of the worker.
    """

    standing: Standing | None = None
    cause: Cause | None = None
    failure_reason: FailureReason | None = None
    package: Text | None = None
    worker: Text | None = None


_OUTCOMES = {"standing", "cause", "failure_reason", "package", "worker", "since", "until"}


class JobQuery(_Outcomes):
    """Which jobs.

    Attributes:
        skip_reason: Why there was nothing to do.
        kind: What it does.
        platform: Name of its platform.
        revdep: Its reverse dependency, with or without a version.
        name: The job's id.
        words: Each of them is contained in the job's id, in any case.
    """

    skip_reason: SkipReason | None = None
    kind: JobKind | None = None
    platform: Text | None = None
    revdep: Text | None = None
    name: Text | None = None
    words: tuple[Text, ...] = Field(default=(), max_length=20)

    @property
    def filter(self) -> JobFilter:
        """The same for the index."""
        own = {"skip_reason", "kind", "platform", "revdep", "name", "words"}
        return JobFilter(of=self.testings, **self.model_dump(include=_OUTCOMES | own))


class AttemptQuery(_Outcomes):
    """Which attempts.

    Attributes:
        name: The job's id.
        phase: The current phase, or the one in which it stopped.
    """

    name: Text | None = None
    phase: Phase | None = None

    @property
    def filter(self) -> AttemptFilter:
        """The same for the index."""
        own = self.model_dump(include=_OUTCOMES | {"name", "phase"})
        return AttemptFilter(of=self.testings, **own)


class IncidentQuery(Paged):
    """Which incidents.

    Attributes:
        is_open: Whether it is not resolved.
        cause: Cause of its faults.
        pool: Only of this pool.
        worker: Only of this worker.
        least_faults: With at least so many faults.
        since: Last seen at this time or later.
    """

    is_open: bool | None = None
    cause: Cause | None = None
    pool: Text | None = None
    worker: Text | None = None
    least_faults: int = Field(default=1, ge=1, le=2**31 - 1)
    since: Moment | None = None

    @property
    def filter(self) -> IncidentFilter:
        """The same for the index."""
        return IncidentFilter(**self.model_dump(exclude={"limit", "after"}))


def testing_parameters(wanted: RevisionFilter) -> dict[str, Any]:
    """Returns the parameters for a filter of testings."""
    names = wanted.model_dump(
        mode="json", exclude={"revision"}, exclude_none=True, exclude_defaults=True
    )
    key = {} if wanted.revision is None else wanted.revision.model_dump(mode="json")
    return names | {name: value for name, value in key.items() if value is not None}


def job_parameters(wanted: JobFilter) -> dict[str, Any]:
    """Returns the parameters for a filter of jobs."""
    own = wanted.model_dump(mode="json", exclude={"of"}, exclude_none=True, exclude_defaults=True)
    return testing_parameters(wanted.of) | own


def attempt_parameters(wanted: AttemptFilter) -> dict[str, Any]:
    """Returns the parameters for a filter of attempts."""
    own = wanted.model_dump(
        mode="json", exclude={"of", "job"}, exclude_none=True, exclude_defaults=True
    )
    name = {} if wanted.job is None else {"name": wanted.job.id}
    return testing_parameters(wanted.of) | own | name
