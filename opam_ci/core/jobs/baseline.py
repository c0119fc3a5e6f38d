"""Whether a failure, or its absence, is due to the change: compared with the base, without it."""

from collections.abc import Collection, Iterable

from opam_ci.core.jobs.job import COMPARED_KINDS, REVDEP_KINDS
from opam_ci.core.jobs.outcome import (
    Cancelled,
    Errored,
    Failed,
    FailedWithout,
    OnBase,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
)
from opam_ci.core.jobs.summary import PlatformStanding, Standing
from opam_ci.core.submission.result import ChangedPackage, ChangeKind

_THERE = frozenset({ChangeKind.SIGNIFICANTLY_CHANGED})
"""Kinds of changed packages that the base has in this version, and that are built."""

FINAL = frozenset(OnBase) - {OnBase.UNKNOWN}
"""What does not change any more."""


def there_before(packages: Iterable[ChangedPackage]) -> tuple[str, ...]:
    """Returns the changed packages that the base has, too: their failures are compared."""
    return tuple(each.package for each in packages if each.kind in _THERE)


def may_be_compared(standing: PlatformStanding) -> bool:
    """Whether a platform has failures that may have to be compared with the base."""
    return any(
        each.kind in COMPARED_KINDS and each.standing is Standing.FAILED and each.number
        for each in standing.counts
    )


def may_be_fixed(standing: PlatformStanding, there: Collection[str]) -> bool:
    """Whether jobs of a platform passed that may be known to fail without the change.

    Args:
        standing: The platform's.
        there: Packages of the change that the base has, too.
    """
    kinds = COMPARED_KINDS if there else REVDEP_KINDS
    return any(
        each.kind in kinds and each.standing is Standing.PASSED and each.number
        for each in standing.counts
    )


def fixed(outcome: Passed, without: FailedWithout) -> Passed:
    """Returns the verdict on a job that passed, with how it fails without the change."""
    evidence = outcome.evidence.model_copy(update={"fixes": without})
    return outcome.model_copy(update={"evidence": evidence})


def compared(outcome: Failed, base: Outcome, *, alike: bool) -> Failed | Skipped:
    """Returns the verdict on a job that failed, with what it comes to without the change.

    What fails there, too, is not due to the change: it is skipped. Anything else stays a failure.

    Args:
        outcome: The failure.
        base: Outcome of the job on the base.
        alike: Whether both failed in the same way.
    """
    on_base = _on_base(base, alike=alike)
    evidence = outcome.evidence.model_copy(update={"on_base": on_base})
    if on_base not in {OnBase.FAILS, OnBase.FAILS_OTHERWISE}:
        return outcome.model_copy(update={"evidence": evidence})
    return Skipped(reason=SkipReason.FAILS_ON_BASE, evidence=evidence)


def _on_base(base: Outcome, *, alike: bool) -> OnBase:
    match base:
        case Passed():
            return OnBase.PASSES
        case Failed():
            return OnBase.FAILS if alike else OnBase.FAILS_OTHERWISE
        case Skipped():
            return OnBase.NOT_BUILT
        case Errored() | Cancelled():
            return OnBase.UNKNOWN
