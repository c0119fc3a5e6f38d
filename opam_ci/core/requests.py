"""What people and webhooks ask of a pull request's workflow."""

import hashlib
import re
from datetime import timedelta
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from opam_ci.core.build import PhaseTimeouts
from opam_ci.core.github.origin import Origin
from opam_ci.core.installable import Unavailable
from opam_ci.core.job import Job, JobKind
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Cause
from opam_ci.core.platforms import EMBEDDED, Platform
from opam_ci.core.retry import RetrySettings
from opam_ci.core.summary import DECIDED, JobState, JobStatus, Standing, cause_of

_SHA = r"^[0-9a-f]{40}([0-9a-f]{24})?$"
_NAME = r"^[A-Za-z0-9_.-]{1,100}$"


class PullRequestRef(Frozen):
    """Which pull request: one on GitHub, or a branch of a local clone.

    Attributes:
        owner: Owner on GitHub; `local` for a local clone.
        repo: Repository name; for a local clone its directory's name.
        number: Number on GitHub, or of a pull request found in a clone.
        branch: Branch name, where there is no number.
    """

    owner: str = Field(pattern=_NAME)
    repo: str = Field(pattern=_NAME)
    number: int | None = Field(default=None, ge=1)
    branch: str | None = Field(default=None, min_length=1, max_length=250)

    @model_validator(mode="after")
    def _one_of_number_and_branch(self) -> Self:
        if (self.number is None) == (self.branch is None):
            raise ValueError("a pull request has either a number or a branch")
        return self

    @property
    def slug(self) -> str:
        """Number, or a form of the branch name that is safe in ids, keys and queries."""
        if self.number is not None:
            return str(self.number)
        branch = self.branch or ""
        safe = re.sub(r"[^A-Za-z0-9_.-]", "-", branch)[:60]
        if safe == branch:
            return f"branch-{safe}"
        # Two names that differ only in replaced characters must stay two ids.
        return f"branch-{safe}-{hashlib.sha256(branch.encode()).hexdigest()[:8]}"

    @property
    def workflow_id(self) -> str:
        """`pr/{owner}/{repo}/{number}`."""
        return f"pr/{self.owner}/{self.repo}/{self.slug}"

    @property
    def title(self) -> str:
        """What people read, such as `ocaml/opam-repository#30203`."""
        mark = f"#{self.number}" if self.number is not None else f":{self.branch}"
        return f"{self.owner}/{self.repo}{mark}"


class CheckOptions(Frozen):
    """How a head is checked.

    Attributes:
        platforms: On which platforms packages are built.
        lint_only: Stop after analysis and lint.
        archive_mirrors: URLs for opam's `archive-mirrors`.
        only_mirrored: Whether builds see only packages whose sources a `file://` mirror has.
        unavailable: What a package is that is available on none of the platforms: a skip or a
            failure.
        build_cache: Whether compiled dependencies may come from a worker's cache.
        retry: Backoff of infrastructure faults.
        timeouts: Limits by phase.
        heartbeat_timeout: Silence after which a worker counts as lost.
        keep_open: Whether the workflow waits for more after a verdict, as for a pull
            request on GitHub; else it ends once nothing is left to restart.
    """

    platforms: tuple[Platform, ...] = (EMBEDDED,)
    lint_only: bool = False
    archive_mirrors: tuple[str, ...] = ()
    only_mirrored: bool = False
    unavailable: Unavailable = "skip"
    build_cache: bool = True
    retry: RetrySettings = RetrySettings()
    timeouts: PhaseTimeouts = PhaseTimeouts()
    heartbeat_timeout: timedelta = timedelta(seconds=60)
    keep_open: bool = True


class Revision(Frozen):
    """One head of a pull request, and where it is found.

    Attributes:
        head: Commit under test.
        base: Commit it is merged into.
        repository: Path of the clone on the orchestration worker's machine that has both;
            empty for a head of GitHub's, for which each worker keeps a clone of its own.
        options: How to check it.
        again: Test it anew even if this head is already tested.
        request: Chosen by whoever asks, to recognise the answer to this very request.
        origin: For a head of GitHub's; nothing is fetched and nobody is told without it.
    """

    head: str = Field(pattern=_SHA)
    base: str = Field(pattern=_SHA)
    repository: str
    options: CheckOptions = CheckOptions()
    again: bool = False
    request: str = Field(default="", max_length=64)
    origin: Origin | None = None

    def is_more_than(self, tested: "Revision") -> bool:
        """Whether this asks for a test that the one of `tested` does not answer.

        A draft that has become ready for review is tested as a whole.
        """
        was_draft = tested.origin is not None and tested.origin.draft
        is_draft = self.origin is not None and self.origin.draft
        return self.again or self.head != tested.head or (was_draft and not is_draft)


class RestartWhich(StrEnum):
    """Which decided jobs a restart takes."""

    ERRORED = "errored"
    FAILED = "failed"
    ALL = "all"


class RestartAsker(StrEnum):
    """Who asks for a restart: what nobody asked for has a budget."""

    PERSON = "person"
    """Somebody, by whatever way. What a job had of automatic restarts is forgotten."""
    INCIDENT = "incident"
    """An incident that is repaired: counts against the budgets."""
    CANARY = "canary"
    """An incident that wants to know whether it is repaired. Much cheaper than the other: a
    fault that lasts all night takes many, and the job that serves must not pay for the rest."""

    def charged(self, before: int, restarts: int = 1) -> int:
        """Returns what restarts have cost since somebody last asked for one.

        Args:
            before: What they had cost.
            restarts: How many jobs are restarted now.
        """
        if self is RestartAsker.PERSON:
            return 0
        return before + restarts * (CANARY_COST if self is RestartAsker.CANARY else RESTART_COST)


RESTART_COST = 20
"""What an automatic restart of a job takes of the budgets."""
CANARY_COST = 3
"""What it takes where the job is a canary."""


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
        """Whether all but the head match; whoever asks compares that."""
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
        which: Jobs that the CI itself lost (the default), failed ones, or all.
        cause: Only jobs errored for this cause.
        asker: Who asks.
    """

    which: RestartWhich = RestartWhich.ERRORED
    cause: Cause | None = None
    asker: RestartAsker = RestartAsker.PERSON

    @property
    def standings(self) -> frozenset[Standing]:
        """How jobs stand that are selected.

        A cancelled job is selected by `errored` too: it was lost through no fault of its own.
        """
        standings = _STANDINGS[self.which]
        return standings if self.cause is None else standings & {Standing.ERRORED}

    def takes_decided(self, row: JobStatus) -> bool:
        """Whether a decided job is selected."""
        return row.standing in self.standings and self._fits(row)

    def takes_waiting(self, row: JobStatus) -> bool:
        """Whether a job that waits for its automatic retry is to start at once."""
        is_waiting = row.state is JobState.RETRYING and self.which is not RestartWhich.FAILED
        return is_waiting and self._fits(row)

    def _fits(self, row: JobStatus) -> bool:
        return self.cause in {None, cause_of(row)} and self.narrows_to(row.job)


_STANDINGS = {
    RestartWhich.ERRORED: frozenset({Standing.ERRORED, Standing.CANCELLED}),
    RestartWhich.FAILED: frozenset({Standing.FAILED}),
    RestartWhich.ALL: DECIDED,
}


class Taken(Frozen):
    """What a restart or a cancel takes, or would take.

    Attributes:
        jobs: How many jobs, those included that follow from others.
        by_platform: How many on each platform; analysis and lint under the empty name.
        first: Ids of the first of them, `TAKEN_SHOWN` at most.
        refusal: Why nothing was taken, in a sentence; None where something was.
    """

    jobs: int = 0
    by_platform: dict[str, int] = Field(default_factory=dict)
    first: tuple[str, ...] = ()
    refusal: str | None = None


TAKEN_SHOWN = 20
"""Ids in the answer to a restart or a cancel."""


class RestartUpdate(Frozen):
    """Input of the update `restart_jobs`.

    Attributes:
        selector: Which jobs.
        preview: Whether only to say what it would take.
    """

    selector: RestartSelector = RestartSelector()
    preview: bool = False


class CancelUpdate(Frozen):
    """Input of the update `cancel_jobs`.

    Attributes:
        selector: Which jobs; nothing selects all that are undecided.
        preview: Whether only to say what it would take.
    """

    selector: JobSelector = JobSelector()
    preview: bool = False
