"""From an analysis to the jobs of each platform."""

from collections.abc import Iterable

from opam_ci.core.analysis_result import Analysis, ChangedPackage, ChangeKind
from opam_ci.core.installable import is_not_installable
from opam_ci.core.job import Job, JobKind
from opam_ci.core.outcome import (
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
from opam_ci.core.platforms import Platform
from opam_ci.core.summary import JobStatus

BUILT_KINDS = frozenset(
    {ChangeKind.NEW_PACKAGE, ChangeKind.NEW_RELEASE, ChangeKind.SIGNIFICANTLY_CHANGED}
)
"""Kinds of change whose packages are built: the others change nothing that a build can see
(source: `lib/build.ml` of opam-repo-ci)."""

ANALYSIS = Job(platform="", package="", kind=JobKind.ANALYSIS)
"""The one analysis job of a head."""


def lint_job(package: str) -> Job:
    """Returns the lint job of a package."""
    return Job(platform="", package=package, kind=JobKind.LINT)


def lint_jobs(analysis: Analysis) -> tuple[Job, ...]:
    """Returns a lint job for every package that still exists after the merge."""
    return tuple(
        lint_job(changed.package)
        for changed in analysis.packages
        if changed.kind is not ChangeKind.DELETED
    )


def platform_jobs(packages: Iterable[ChangedPackage], platform: Platform) -> tuple[Job, ...]:
    """Returns the jobs of one platform: builds first, then tests, lower bounds, listings.

    What the reverse dependencies are is known only once they are listed; their jobs follow.
    """
    built = [changed for changed in packages if changed.kind in BUILT_KINDS]
    chosen = {
        JobKind.BUILD: built,
        JobKind.TEST: [changed for changed in built if changed.has_tests],
        JobKind.LOWER_BOUNDS: built if platform.lower_bounds else [],
        JobKind.LIST_REVDEPS: built if platform.revdeps else [],
    }
    return tuple(
        Job(platform=platform.name, package=changed.package, kind=kind)
        for kind, of_kind in chosen.items()
        for changed in of_kind
    )


def depends_on(job: Job) -> Job | None:
    """Returns the job that must pass first: whatever repeats a build waits for the plain one."""
    if job.kind is JobKind.REVDEP_TEST:
        return job.model_copy(update={"kind": JobKind.REVDEP})
    if job.kind in {JobKind.TEST, JobKind.LOWER_BOUNDS, JobKind.LIST_REVDEPS}:
        return job.model_copy(update={"kind": JobKind.BUILD})
    return None


FOLLOWED = frozenset({"build-errored", "build-not-passed"})
"""Rules of outcomes that a job has only because of the job it depends on."""


def with_dependents(
    chosen: Iterable[JobStatus], rows: Iterable[JobStatus]
) -> tuple[JobStatus, ...]:
    """Returns the chosen rows and those whose outcome only followed from a chosen one.

    That a package is installable nowhere followed from its builds on all platforms: one of them
    alone would leave the verdicts of the others without a ground.

    Args:
        chosen: Rows to run again.
        rows: All rows.
    """
    rows = tuple(rows)
    taken = {row.job.id: row for row in chosen}
    again = {row.job.package for row in taken.values() if row.job.kind is JobKind.BUILD}
    for row in rows:
        if row.job.package in again and is_not_installable(row.outcome):
            taken[row.job.id] = row
    for row in rows:
        needed = depends_on(row.job)
        if (
            needed is not None
            and needed.id in taken
            and row.outcome is not None
            and (row.outcome.kind == "cancelled" or row.outcome.evidence.rule in FOLLOWED)
        ):
            taken[row.job.id] = row
    return tuple(taken.values())


def outcome_after(came_to: Outcome | None, needed: Job) -> Outcome | None:
    """Returns what a job comes to without being run, None if it is to be run.

    A proven failure or a skip of the build leaves nothing to test. An error is passed on
    as an error, so that the job comes back together with the build that the CI lost.

    Args:
        came_to: Outcome of the job that had to pass.
        needed: That job.
    """
    match came_to:
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
            return came_to
        case Failed() | Skipped():
            return Skipped(
                reason=SkipReason.NOT_BUILT,
                evidence=Evidence(
                    rule="build-not-passed",
                    detail=f"{needed.title} came to {label(came_to)}",
                ),
            )
