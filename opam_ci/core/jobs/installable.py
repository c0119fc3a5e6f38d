"""Whether a package can be installed on any platform: decided from the rows of all platforms."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Literal

from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Failed, FailureReason, Outcome, Skipped, SkipReason
from opam_ci.core.jobs.summary import JobStatus, PlatformStanding, Standing

Unavailable = Literal["skip", "fail"]
"""The outcome of a package that `available:` excludes from every platform: skipped or failed."""

_NOT_INSTALLABLE = frozenset({SkipReason.NO_SOLUTION, SkipReason.DEPEXT_UNAVAILABLE})

NOT_INSTALLABLE_TEXT = _NOT_INSTALLABLE | {SkipReason.UNAVAILABLE}
"""Reasons of skips by which the package cannot be installed on a platform."""


def installable_nowhere(
    rows: Iterable[JobStatus], unavailable: Unavailable
) -> Iterator[tuple[Job, Failed]]:
    """Yields the builds that fail because no platform can install their package.

    That is so once every plain build of the package was skipped because it cannot be installed;
    a skip for another reason (a failure that is accepted, an offline mirror) proves nothing.

    Args:
        rows: Of all platforms, and of each package that is to be decided.
        unavailable: Outcome of packages that are available on no platform; where one platform
            finds the package not installable, those with `unavailable` stay skipped.
    """
    builds: dict[str, list[JobStatus]] = defaultdict(list)
    for row in rows:
        if row.job.kind is JobKind.BUILD:
            builds[row.job.package].append(row)
    for of_package in builds.values():
        reasons = {_reason(row.outcome) for row in of_package}
        if reasons == {SkipReason.UNAVAILABLE}:
            taken = reasons if unavailable == "fail" else set()
        elif reasons <= {*NOT_INSTALLABLE_TEXT, FailureReason.NOT_INSTALLABLE}:
            taken = set(_NOT_INSTALLABLE)
        else:
            continue
        for row in of_package:
            if isinstance(row.outcome, Skipped) and row.outcome.reason in taken:
                evidence = row.outcome.evidence
                yield row.job, Failed(reason=FailureReason.NOT_INSTALLABLE, evidence=evidence)


def may_be_installable_nowhere(standing: PlatformStanding) -> bool:
    """Whether a platform has builds that all platforms together may turn into failures."""
    return any(
        each.kind is JobKind.BUILD
        and each.standing is Standing.SKIPPED
        and each.why in NOT_INSTALLABLE_TEXT
        for each in standing.counts
    )


def is_not_installable(outcome: Outcome | None) -> bool:
    """Whether a verdict follows from the rows of all platforms."""
    return isinstance(outcome, Failed) and outcome.reason is FailureReason.NOT_INSTALLABLE


def _reason(outcome: Outcome | None) -> SkipReason | FailureReason | None:
    return outcome.reason if isinstance(outcome, Skipped | Failed) else None
