"""Revising a verdict in the light of other jobs' verdicts.

A failure that unrelated pull requests share within minutes may be the CI's. Why so: ADR 0014.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pydantic import AwareDatetime, Field

from opam_ci.core.jobs.job import Job, count_unrelated, package_name
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.model import Frozen

BURST = timedelta(minutes=10)
"""Time within which unrelated pull requests must fail the same way to put it in doubt."""

MEMORY = timedelta(days=1)
"""How long a failure is remembered: one that packages had before is not new."""

UNRELATED = 3
"""So many pull requests, each with other packages, do not break the same way by chance."""

REFUTED_BY = 3
"""So many restarted jobs that failed the same way again refute a doubt."""


class FailedVerdict(Frozen):
    """A job that was decided as a package failure.

    Attributes:
        revision: The testing.
        job: The job.
        round: The job's round, from 1.
        at: When it was decided.
        blame: The package that failed, if it is not the job's own.
        doubted: Whether the verdict was revised since.
        again: Whether the job failed the same way in an earlier round: then it is final.
        is_over: Whether it cannot be revised any more: the job is in a later round, or has used
            up its automatic restarts.
    """

    revision: RevisionKey
    job: Job
    round: int = Field(default=1, ge=1)
    at: AwareDatetime
    blame: str | None = None
    doubted: bool = False
    again: bool = False
    is_over: bool = False

    @property
    def is_open(self) -> bool:
        """Whether a doubt can revise it."""
        return not (self.doubted or self.again or self.is_over)


class Doubt(NamedTuple):
    """Verdicts to be revised, since unrelated pull requests failed the same way.

    Attributes:
        verdicts: Those not revised yet, oldest first.
        pull_requests: Number of unrelated pull requests that failed so.
        span: Time within which they did.
    """

    verdicts: tuple[FailedVerdict, ...]
    pull_requests: int
    span: timedelta


def doubts(
    alike: Iterable[FailedVerdict], *, before: datetime | None = None, unrelated: int = UNRELATED
) -> tuple[Doubt, ...]:
    """Finds verdicts of one signature that unrelated pull requests share within minutes.

    A usual failure, such as a common compiler message, is not in doubt: no unrevised verdict may
    have the same signature within a day before the first of a burst. Revised verdicts do not make
    a failure usual, but are evidence for others close to them; a job that fails the same way
    again begins no burst. The order of the input does not matter.

    Args:
        alike: All of one signature, of current heads of open pull requests.
        before: Time of the last unrevised verdict of that signature before them, if any.
        unrelated: Number of pull requests, without a package in common.
    """
    line = sorted(set(alike), key=_sort_key)
    found: list[Doubt] = []
    taken: set[FailedVerdict] = set()
    usual = before
    for place, first in enumerate(line):
        is_usual = usual is not None and first.at - usual <= MEMORY
        if not first.doubted:
            usual = first.at
        if is_usual or first.again:
            continue
        together = [each for each in line[place:] if each.at - first.at <= BURST]
        fresh = [each for each in together if each.is_open and each not in taken]
        count = _unrelated(together) if fresh else 0
        if count >= unrelated:
            taken.update(fresh)
            found.append(Doubt(tuple(fresh), count, together[-1].at - first.at))
    return tuple(found)


def _sort_key(verdict: FailedVerdict) -> tuple[Any, ...]:
    key = verdict.revision
    named = (key.repository, key.target, key.head, verdict.job.id, verdict.round)
    # The rest makes it a total order even where the input contradicts itself.
    flags = (verdict.again, verdict.doubted, verdict.is_over, verdict.blame or "")
    return (verdict.at, *named, key.opened_at, *flags)


def _unrelated(verdicts: Iterable[FailedVerdict]) -> int:
    """Counts pull requests without a package in common.

    The package that failed counts as well as the job's own: a broken package in the base
    repository fails every pull request that needs it, and is one package.
    """
    packages: dict[tuple[str, str], set[str]] = defaultdict(set)
    for each in verdicts:
        key = (each.revision.repository, each.revision.target)
        packages[key] |= {package_name(full) for full in (each.job.package, each.blame) if full}
    return count_unrelated(names for _, names in sorted(packages.items()))
