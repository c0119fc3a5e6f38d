"""Which pull request, which head of it, and how it is checked."""

import hashlib
import re
from datetime import timedelta
from typing import Final, Self

from pydantic import AwareDatetime, Field, model_validator

from opam_ci.core.jobs.build import PhaseTimeouts, Source
from opam_ci.core.jobs.hold import Author
from opam_ci.core.jobs.installable import Unavailable
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.model import Frozen
from opam_ci.core.platforms.model import EMBEDDED, Platform

_SHA = r"^[0-9a-f]{40}([0-9a-f]{24})?$"
_NAME = r"^[A-Za-z0-9_.-]{1,100}$"

MOST_POPULAR = 10_000
"""More names than opam-repository has."""


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


AUDITED_PERCENT: Final = 2
"""So many jobs of a hundred run although their verdicts are known."""


class Surroundings(Frozen):
    """What all jobs of a check have in common, as far as it decides whose verdicts they take.

    Attributes:
        archive_mirrors: URLs for opam's `archive-mirrors`.
        only_mirrored: Whether builds see only packages whose sources a mirror has.
        mirrored: A digest of what the mirrors had when the check began, if only that is seen.
        audited_percent: How many run although a verdict is known; that decides no solution, and
            so is in no key.
    """

    archive_mirrors: tuple[str, ...] = ()
    only_mirrored: bool = False
    mirrored: str | None = None
    audited_percent: int = AUDITED_PERCENT


class CheckOptions(Frozen):
    """How a head is checked.

    Attributes:
        platforms: On which platforms packages are built.
        lint_only: Stop after analysis and lint.
        archive_mirrors: URLs for opam's `archive-mirrors`.
        only_mirrored: Whether builds see only packages whose sources a `file://` mirror has.
        mirrored: A digest of what such mirrors have, for plan keys; None if all are seen.
        unavailable: What a package is that is available on none of the platforms: a skip or a
            failure.
        build_cache: Whether compiled dependencies may come from a worker's cache.
        reuse_verdicts: Whether a job with the same inputs as one that ran takes its verdict.
        audited_percent: How many of such jobs run all the same, to be compared with it.
        retry: Backoff of infrastructure faults.
        timeouts: Limits by phase.
        heartbeat_timeout: Silence after which a worker counts as lost.
        keep_open: Whether the workflow waits for more after a verdict, as for a pull
            request on GitHub; else it ends once nothing is left to restart.
        popular: How many packages of the base are built, those on which most others depend, to see
            how the base itself does; 0 for what the head changes.
    """

    platforms: tuple[Platform, ...] = (EMBEDDED,)
    lint_only: bool = False
    archive_mirrors: tuple[str, ...] = ()
    only_mirrored: bool = False
    mirrored: str | None = None
    unavailable: Unavailable = "skip"
    build_cache: bool = True
    reuse_verdicts: bool = True
    audited_percent: int = Field(default=AUDITED_PERCENT, ge=0, le=100)
    retry: RetrySettings = RetrySettings()
    timeouts: PhaseTimeouts = PhaseTimeouts()
    heartbeat_timeout: timedelta = timedelta(seconds=60)
    keep_open: bool = True
    popular: int = Field(default=0, ge=0, le=MOST_POPULAR)

    @property
    def reuse(self) -> Surroundings | None:
        """What all jobs have in common for their plan keys; None for no keys.

        What mirrors have decides which packages are seen: where that is not known, nothing is.
        """
        if not self.reuse_verdicts or (self.only_mirrored and self.mirrored is None):
            return None
        return Surroundings(
            archive_mirrors=self.archive_mirrors,
            only_mirrored=self.only_mirrored,
            mirrored=self.mirrored,
            audited_percent=self.audited_percent,
        )


class Origin(Frozen):
    """The upstream repository of a head. A head of a local clone has none.

    Attributes:
        clone_url: Of the repository into which the pull request goes; it has the heads of
            deleted forks too, as `refs/pull/NUMBER/head`.
        branch: The base branch: its newest commit is what the head is merged into.
        draft: Whether the author still works on it.
        as_of: When the pull request was like this, by the upstream's clock, to the second.
        authoritative: Whether the upstream itself was asked; a webhook alone is not enough.
        author: Who opened the pull request, None if nothing depends on it.
    """

    clone_url: str = Field(min_length=1, max_length=1000)
    branch: str = Field(min_length=1, max_length=400)
    draft: bool = False
    as_of: AwareDatetime
    authoritative: bool = False
    author: Author | None = None


class Revision(Frozen):
    """One head of a pull request, and where it is found.

    Attributes:
        head: Commit under test.
        base: Commit it is merged into.
        repository: Path of the clone on the orchestration worker's machine that has both;
            empty for a head with an origin, which each worker fetches into a clone of its own.
        options: How to check it.
        again: Test it anew even if this head is already tested.
        request: Id chosen by the caller, to recognise the result of this very request.
        origin: For a head that each worker fetches itself; None for one of a local clone.
    """

    head: str = Field(pattern=_SHA)
    base: str = Field(pattern=_SHA)
    repository: str
    options: CheckOptions = CheckOptions()
    again: bool = False
    request: str = Field(default="", max_length=64)
    origin: Origin | None = None

    @property
    def author(self) -> Author | None:
        """Who opened the pull request, None if nothing depends on it."""
        return self.origin.author if self.origin is not None else None

    @property
    def source(self) -> Source:
        """Where people get the merge of head and base."""
        url = self.repository if self.origin is None else self.origin.clone_url
        return Source(url=url, base=self.base, head=self.head)

    def is_more_than(self, tested: "Revision") -> bool:
        """Whether this asks for a test that the one of `tested` does not answer.

        A draft that has become ready for review is tested as a whole.
        """
        was_draft = tested.origin is not None and tested.origin.draft
        is_draft = self.origin is not None and self.origin.draft
        return self.again or self.head != tested.head or (was_draft and not is_draft)
