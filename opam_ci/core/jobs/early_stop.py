"""When the other reverse dependencies of a package need not be run: all before them fail alike.

Hundreds of jobs that fail in the same way tell an author no more than thirty do, and take the slots
of others for hours. The rest is skipped, which is no verdict: it runs if the failures turn out not
to be the change's, or once somebody asks for it.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from opam_ci.core.jobs.job import REVDEP_KINDS
from opam_ci.core.jobs.outcome import Evidence, Skipped, SkipReason
from opam_ci.core.jobs.summary import JobCount, PlatformStanding, Standing, stopped

ENOUGH = 30
"""Failures that look the same after which the rest is skipped: a change that breaks every one of
them in one way will hardly pass in the next. Fewer may share an old dependency by chance."""

_NOT_THE_CHANGE = frozenset({SkipReason.FAILS_ON_BASE, SkipReason.WAIVED})
"""Reasons of failures that are not due to the change: then others may pass."""


class Seen(NamedTuple):
    """Jobs on the reverse dependencies of one package that have the same outcome.

    Attributes:
        standing: Their standing.
        why: Reason of skipped ones, None for others.
        group: What the failed ones look like, see `core/pages/causes.py`; None for others.
        number: How many.
    """

    standing: Standing
    why: SkipReason | None
    group: str | None
    number: int


def early_stop(seen: Iterable[Seen]) -> Skipped | None:
    """Returns the outcome of a package's queued reverse dependencies, None if they are to run.

    Args:
        seen: All jobs on its reverse dependencies on one platform. Errored ones prove nothing.
    """
    jobs = 0
    failed: Counter[str | None] = Counter()
    for each in seen:
        jobs += each.number
        if each.standing is Standing.PASSED or each.why in _NOT_THE_CHANGE:
            return None
        if each.standing is Standing.FAILED:
            failed[each.group] += each.number
    if len(failed) != 1 or failed.total() < ENOUGH:
        return None
    detail = f"stopped after {failed.total():,} of {jobs:,}: all fail alike"
    return Skipped(
        reason=SkipReason.STOPPED_EARLY, evidence=Evidence(rule="stopped-early", detail=detail)
    )


def failures(counts: Iterable[JobCount]) -> int:
    """Counts the failures of a platform's reverse dependencies, if they may be a reason to stop.

    Returns:
        0 if one passed, or failures are not due to the change.
    """
    failed = 0
    for each in counts:
        if each.kind in REVDEP_KINDS and each.number:
            if each.standing is Standing.PASSED or each.why in _NOT_THE_CHANGE:
                return 0
            failed += each.number if each.standing is Standing.FAILED else 0
    return failed


def is_in_vain(standing: PlatformStanding) -> bool:
    """Whether jobs of a platform are skipped because of failures that do not count any more."""
    revdeps = [each for each in standing.counts if each.kind in REVDEP_KINDS]
    failed = sum(each.number for each in revdeps if each.standing is Standing.FAILED)
    return bool(stopped(revdeps)) and failed < ENOUGH
