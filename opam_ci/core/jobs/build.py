"""Input and result of a build job."""

from datetime import timedelta
from typing import Self

from pydantic import Field

from opam_ci.core.jobs.facts import BuildFacts
from opam_ci.core.jobs.job import Job, Phase
from opam_ci.core.jobs.known_failure import FailedAlone
from opam_ci.core.jobs.known_verdict import KnownVerdict
from opam_ci.core.model import Frozen
from opam_ci.core.platforms.limits import PhaseLimits
from opam_ci.core.platforms.model import Platform

_MINUTE = timedelta(minutes=1)


class RepositoryRef(Frozen):
    """The merged repository of one head, as artifacts in the store.

    A worker keeps one warmed opam root for each `base_commit`; the overlay holds only the
    packages in which the merge differs from it, so that a job needs 0.6 s for its
    repository instead of the 15 s of an `opam init`. A package that the merge deletes is
    in the overlay as `available: false`.

    Attributes:
        base_commit: Commit whose tree the base archive holds, 40 hex digits.
        base_archive: Artifact key of a `.tar.gz` of that tree (`repo`, `packages/…`).
        overlay_archive: Artifact key of a `.tar.gz` of an opam repository with the differences.
        overlay_packages: Number of packages in the overlay.
        package_count: Number of packages (name and version) in the merge: a preflight fact.
    """

    base_commit: str
    base_archive: str
    overlay_archive: str
    overlay_packages: int
    package_count: int


class PhaseTimeouts(Frozen):
    """Time limit of each phase, after which its process tree is ended.

    The defaults are generous for real packages (the slowest of the offline mirror takes
    70 s); operators set them by platform.
    """

    setup: timedelta = 5 * _MINUTE
    solve: timedelta = 5 * _MINUTE
    depexts: timedelta = 15 * _MINUTE
    fetch: timedelta = 15 * _MINUTE
    dependencies: timedelta = 60 * _MINUTE
    build: timedelta = 60 * _MINUTE
    test: timedelta = 60 * _MINUTE
    verify: timedelta = _MINUTE

    def of(self, phase: Phase) -> timedelta:
        """Returns the limit of a phase; the checkout's is the set-up's."""
        limit: timedelta = getattr(self, (Phase.SETUP if phase is Phase.CHECKOUT else phase).value)
        return limit

    def with_limits(self, limits: PhaseLimits) -> Self:
        """Returns these limits, overridden by a platform's own."""
        return self.model_copy(update=limits.overrides)


class Source(Frozen):
    """Where people get the merged repository, to reproduce a job by hand.

    Attributes:
        url: Of the repository, or the path of a local clone.
        base: Commit into which the head is merged.
        head: The head; empty for a work tree as it is.
    """

    url: str
    base: str = ""
    head: str = ""


class BuildSpec(Frozen):
    """One complete build job: besides it a worker needs only the store.

    Attributes:
        job: The job: any kind but the repository jobs.
        platform: The platform to build on.
        repository: The merged repository.
        timeouts: Limits by phase.
        archive_mirrors: URLs for opam's `archive-mirrors`; a `file://` mirror is bound
            read-only into the build.
        only_mirrored: Hide every package of the base whose sources no `file://` mirror has,
            for machines without internet: the solver would choose what cannot be fetched.
        submitted: Packages that the pull request itself builds: a `list-revdeps` job leaves
            them out, since they have jobs of their own.
        build_cache: Whether compiled dependencies may come from the worker's cache.
        source: Where people get the repository; None for one that no clone has.
        builds_known_failures: Whether dependencies are built although they are known to fail, and
            the job although its verdict is known.
        known_verdicts: Verdicts of jobs of this name, by verdict key.
    """

    job: Job
    platform: Platform
    repository: RepositoryRef
    timeouts: PhaseTimeouts = PhaseTimeouts()
    archive_mirrors: tuple[str, ...] = ()
    only_mirrored: bool = False
    submitted: tuple[str, ...] = ()
    build_cache: bool = True
    source: Source | None = None
    builds_known_failures: bool = False
    known_verdicts: dict[str, KnownVerdict] = Field(default_factory=dict)

    def known_verdict(self, key: str | None) -> KnownVerdict | None:
        """Returns the verdict for a verdict key, None if there is none or the key is not known."""
        return None if key is None else self.known_verdicts.get(key)


class Revdep(Frozen):
    """A reverse dependency that can be installed together with the job's package.

    Attributes:
        package: Its full name, such as `calendar.3.0.0`.
        has_tests: Whether its tests are to run too: its opam file has test commands, or uses
            `with-test`, as opam-repo-ci's `has_tests` decides for a submitted package.
    """

    package: str
    has_tests: bool


NOT_BUILT = "not built: flagged avoid-version or deprecated"
"""Why some reverse dependencies are not built, after their number."""


def not_built_notice(platform: str, package: str, flagged: int) -> str | None:
    """Returns a sentence on reverse dependencies that are not built, None if all are.

    Args:
        platform: Name of the platform.
        package: Whose reverse dependencies.
        flagged: How many are not built.
    """
    return f"{platform}: {flagged} revdeps of {package} {NOT_BUILT}" if flagged else None


def listing_key(log: str) -> str:
    """Returns the key of the list that a `list-revdeps` job found.

    Args:
        log: Key of its log.
    """
    return f"{log}/revdeps.json"


class RevdepList(Frozen):
    """A listing of reverse dependencies, each package once, in the order in which they are built.

    Attributes:
        revdeps: Those that are built.
        flagged: Those that are not, since they are flagged `avoid-version` or `deprecated`.
    """

    revdeps: tuple[Revdep, ...]
    flagged: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """Their numbers, for a log."""
        tested = sum(revdep.has_tests for revdep in self.revdeps)
        flagged = f"; {len(self.flagged)} {NOT_BUILT}" if self.flagged else ""
        return f"{len(self.revdeps)} revdeps, {tested} of them with tests{flagged}"


class SourceCounts(Frozen):
    """Where the archives of a job's sources came from.

    Attributes:
        taken: Number of those that the machine had.
        fetched: Number of those that the job fetched.
    """

    taken: int = 0
    fetched: int = 0


class BuildReport(Frozen):
    """The result of a runner, input of the judge.

    Attributes:
        facts: What it observed.
        logs: Text of each phase that ran, decoded with replacement: at most the first
            64 KiB and the last 256 KiB of each; offsets come from `facts`.
        listing: Result of a `list-revdeps` job; None if it failed or the job is of another kind.
        sources: Where its archives came from; None on a machine that keeps none.
        failed_alone: Dependencies that failed when each was built alone for the cache. They decide
            nothing of this job.
    """

    facts: BuildFacts
    logs: dict[Phase, str]
    listing: RevdepList | None = None
    sources: SourceCounts | None = None
    failed_alone: tuple[FailedAlone, ...] = ()


class BuildProgress(Frozen):
    """Progress of a running job, for its heartbeats.

    Attributes:
        phase: The phase under way.
        log_bytes: Size of the log so far.
        note: What is being made before the first phase can begin, for people.
    """

    phase: Phase
    log_bytes: int
    note: str = ""
