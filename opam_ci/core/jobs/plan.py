"""Planning: from an analysis to the jobs of each platform."""

from collections.abc import Container, Iterable, Iterator

from opam_ci.core.jobs.build import Revdep
from opam_ci.core.jobs.job import BASE_KINDS, Job, JobKind
from opam_ci.core.jobs.known_verdict import KnownVerdict
from opam_ci.core.jobs.outcome import (
    Cancelled,
    Errored,
    Evidence,
    Failed,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
    label,
)
from opam_ci.core.model import Frozen
from opam_ci.core.platforms.images import is_pinned
from opam_ci.core.platforms.model import Platform
from opam_ci.core.submission.result import BUILT_KINDS, ChangedPackage, ChangeKind

ANALYSIS = Job(platform="", package="", kind=JobKind.ANALYSIS)
"""The one analysis job of a head."""


class PlannedJob(Frozen):
    """A job to be added to the index.

    Attributes:
        job: The job.
        needs: The job that must pass first.
        plan_key: What its verdict depends on, None if that is not known; see `core/reuse`.
        verdict: The verdict of a job with the same key, if it has that without being run.
        audits: Label of such a verdict, if the job runs all the same to be compared with it.
    """

    job: Job
    needs: Job | None = None
    plan_key: str | None = None
    verdict: KnownVerdict | None = None
    audits: str | None = None


def planned_jobs(
    packages: Iterable[ChangedPackage],
    platforms: Iterable[Platform],
    *,
    unserved: Iterable[Platform] = (),
    lint: bool = True,
) -> Iterator[PlannedJob]:
    """Yields all jobs that are known before any has run: lint, and those of the platforms.

    Every package that still exists after the merge is linted. A platform that no worker serves has
    one job, which says so. A platform whose image has no digest
    yet begins with a job that finds it. Reverse dependencies are known only once they are listed;
    see `revdep_jobs`.

    Args:
        packages: The changed packages.
        platforms: Platforms to build on; none for lint alone.
        unserved: Platforms that no worker serves.
        lint: Whether to lint.
    """
    packages = tuple(packages)
    for changed in packages if lint else ():
        if changed.kind is not ChangeKind.DELETED:
            yield PlannedJob(job=Job(platform="", package=changed.package, kind=JobKind.LINT))
    built = [changed for changed in packages if changed.kind in BUILT_KINDS]
    for platform in unserved if built else ():
        yield PlannedJob(job=Job(platform=platform.name, package="", kind=JobKind.PLATFORM))
    for platform in platforms:
        image = None
        if built and not is_pinned(platform):
            image = Job(platform=platform.name, package="", kind=JobKind.IMAGE)
            yield PlannedJob(job=image)
        chosen = {
            JobKind.BUILD: built,
            JobKind.TEST: [changed for changed in built if changed.has_tests],
            JobKind.LOWER_BOUNDS: built if platform.lower_bounds else [],
            JobKind.LIST_REVDEPS: built if platform.revdeps else [],
        }
        for kind, of_kind in chosen.items():
            for changed in of_kind:
                job = Job(platform=platform.name, package=changed.package, kind=kind)
                yield PlannedJob(job=job, needs=depends_on(job) or image)


def service_of(platform: Platform, *, is_served: bool) -> Passed | Skipped:
    """Returns the outcome of the job that says whether a worker serves a platform.

    Args:
        platform: As it was chosen; with all its pools if none of these is served.
        is_served: Whether a worker serves it.
    """
    pools = tuple(each.pool for each in platform.choices)
    if is_served:
        detail = f"workers of the pool {pools[0]} build for it"
        return Passed(evidence=Evidence(rule="platform-served", detail=detail))
    what = "pool" if len(pools) == 1 else "pools"
    return Skipped(
        reason=SkipReason.NOT_SERVED,
        evidence=Evidence(
            rule="platform-not-served", detail=f"no worker for the {what} {', '.join(pools)}"
        ),
    )


def depends_on(job: Job) -> Job | None:
    """Returns the job that must pass first: jobs that repeat a build wait for the plain build."""
    if job.kind is JobKind.REVDEP_TEST:
        return job.model_copy(update={"kind": JobKind.REVDEP})
    if job.kind in {JobKind.TEST, JobKind.LOWER_BOUNDS, JobKind.LIST_REVDEPS}:
        return job.model_copy(update={"kind": JobKind.BUILD})
    return None


def revdep_jobs(
    platform: str,
    package: str,
    revdeps: Iterable[Revdep],
    *,
    first: Container[str] = frozenset(),
) -> Iterator[PlannedJob]:
    """Yields the jobs on reverse dependencies: for each a build, then its tests if it has any.

    Args:
        platform: Name of the platform.
        package: Whose reverse dependencies.
        revdeps: In the order of the listing.
        first: Those that come before all others: they failed at the previous head.
    """
    for revdep in sorted(revdeps, key=lambda each: each.package not in first):
        kinds = (JobKind.REVDEP, JobKind.REVDEP_TEST) if revdep.has_tests else (JobKind.REVDEP,)
        for kind in kinds:
            job = Job(platform=platform, package=package, kind=kind, revdep=revdep.package)
            yield PlannedJob(job=job, needs=depends_on(job))


RANKS = {
    JobKind.ANALYSIS: 0,
    JobKind.PLATFORM: 0,
    JobKind.IMAGE: 0,
    JobKind.LINT: 1,
    JobKind.BUILD: 2,
    JobKind.TEST: 3,
    JobKind.LOWER_BOUNDS: 4,
    JobKind.LIST_REVDEPS: 4,
    JobKind.REVDEP: 5,
    JobKind.REVDEP_TEST: 5,
    **dict.fromkeys(BASE_KINDS, 5),
}
"""Order in which a platform's workflow takes jobs: a job comes before those that need it, and a
reverse dependency's tests right behind its build."""

FOLLOWED = frozenset({"build-errored", "build-not-passed"})
"""Rules of outcomes that follow from the outcome of the job that was needed."""


def follows(outcome: Outcome | None) -> bool:
    """Whether an outcome follows from the outcome of the job that was needed."""
    return outcome is not None and outcome.kind != "cancelled" and outcome.evidence.rule in FOLLOWED


def outcome_after(needed_outcome: Outcome | None, needed: Job) -> Outcome | None:
    """Returns the outcome that a job has without being run, None if it is to be run.

    A failure or a skip of the build leaves nothing to test. An error is passed on as an error, so
    that the job is restarted together with the errored build.

    Args:
        needed_outcome: Outcome of the job that had to pass.
        needed: That job.
    """
    match needed_outcome:
        case None | Passed():
            return None
        case Errored(cause=cause):
            return Errored(
                cause=cause,
                evidence=Evidence(
                    rule="build-errored", detail=f"waits for {needed.title}, which errored"
                ),
            )
        case Cancelled():
            return needed_outcome
        case Failed() | Skipped():
            return Skipped(
                reason=SkipReason.NOT_BUILT,
                evidence=Evidence(
                    rule="build-not-passed",
                    detail=f"{needed.title} ended with {label(needed_outcome)}",
                ),
            )
