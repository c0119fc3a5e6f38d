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
from opam_ci.core.job import Job
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Cause, Errored, Failed, Outcome
from opam_ci.core.platforms import EMBEDDED, Platform
from opam_ci.core.retry import RetrySettings

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


class RestartSelector(Frozen):
    """Which jobs to restart; every given field narrows.

    Attributes:
        which: Jobs that the CI itself lost (the default), failed ones, or all.
        platform: Only on this platform.
        package: Only this package, with or without its version.
        cause: Only jobs errored for this cause.
        job: Only the job with this id.
        jobs: Only the jobs with these ids; none narrows nothing.
        head: Only while this commit is under test: a later head's jobs are others.
        asker: Who asks.
    """

    which: RestartWhich = RestartWhich.ERRORED
    platform: str | None = Field(default=None, max_length=100)
    package: str | None = Field(default=None, max_length=200)
    cause: Cause | None = None
    job: str | None = Field(default=None, max_length=500)
    jobs: tuple[str, ...] = ()
    head: str | None = Field(default=None, max_length=100)
    asker: RestartAsker = RestartAsker.PERSON

    def takes(self, job: Job, outcome: Outcome) -> bool:
        """Whether a decided job is selected.

        A cancelled job is selected by `errored` too: it was lost through no fault of its
        own.
        """
        match self.which:
            case RestartWhich.ERRORED:
                chosen = outcome.kind in {"errored", "cancelled"}
            case RestartWhich.FAILED:
                chosen = isinstance(outcome, Failed)
            case RestartWhich.ALL:
                chosen = True
        if self.cause is not None:
            chosen = chosen and isinstance(outcome, Errored) and outcome.cause == self.cause
        return chosen and self.narrows_to(job)

    def takes_waiting(self, job: Job, cause: Cause) -> bool:
        """Whether a job that waits for its automatic retry is to start at once."""
        return (
            self.which is not RestartWhich.FAILED
            and self.cause in {None, cause}
            and self.narrows_to(job)
        )

    def narrows_to(self, job: Job) -> bool:
        """Whether platform, package and job id match; whoever asks compares the head."""
        name = job.package.split(".", 1)[0]
        return (
            self.platform in {None, job.platform}
            and self.package in {None, job.package, name}
            and self.job in {None, job.id}
            and (not self.jobs or job.id in self.jobs)
        )
