"""When a dependency is known to fail, so that jobs that need it end without building it."""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Final

from opam_ci.core.jobs.build_keys import CachedBuild
from opam_ci.core.jobs.known_failure import KnownFailure
from opam_ci.core.jobs.outcome import SeenIn
from opam_ci.core.reuse.settled import AGREED, MAX_AGE

_MOST_BESIDE: Final = 5_000
"""Packages that are remembered; a large solution has some hundreds."""


def beside(
    package: str, builds: Mapping[str, CachedBuild], solution: Collection[str], target: str
) -> tuple[str, ...]:
    """Returns what a solution has that may be installed before a dependency, and is not needed.

    A package may use another one that its opam file does not name, and fail only where that is
    missing. So it is known to fail only beside packages beside which it did.

    Args:
        package: The dependency.
        builds: What is known of the packages of the solution, by full name.
        solution: All packages that the job installs.
        target: The package under test, which comes last.
    """
    without = {package, target, *builds[package].needs}
    return tuple(
        each
        for each in sorted(solution)
        if each not in without and not (each in builds and package in builds[each].needs)
    )


def seen_again(known: KnownFailure | None, new: KnownFailure, *, alike: bool) -> KnownFailure:
    """Returns what is known of a build that has failed in one more attempt.

    Args:
        known: What was known before, None for nothing.
        new: The new attempt alone.
        alike: Whether it failed as before. If not, what was known does not count any more.
    """
    if known is None or not alike:
        return new
    newest = new.seen[0]
    others = tuple(each for each in known.seen if _round_of(each) != _round_of(newest))
    together = sorted({*known.beside, *new.beside})
    return new.model_copy(
        update={
            "seen": (newest, *others)[:AGREED],
            "beside": tuple(together) if len(together) <= _MOST_BESIDE else new.beside,
        }
    )


def is_fresh(seen: SeenIn, now: datetime) -> bool:
    """Whether an attempt is new enough to prove something."""
    return timedelta() <= now - seen.ended_at <= MAX_AGE


def holds(known: KnownFailure, beside: Collection[str], now: datetime) -> bool:
    """Whether a job needs not build a dependency to know that it fails.

    Args:
        known: What is known of it.
        beside: See `beside`, of the job.
        now: The time.
    """
    fresh = [each for each in known.seen if is_fresh(each, now)]
    return len(fresh) >= AGREED and set(beside) <= set(known.beside)


def _round_of(seen: SeenIn) -> tuple[object, ...]:
    """Returns what identifies the round of a job: attempts of the same one count once."""
    testing = (seen.repository, seen.number, seen.branch, seen.head, seen.opened_at)
    return (*testing, seen.job, seen.round)
