"""Revising a verdict in the light of other jobs' verdicts.

A failure that unrelated pull requests share within minutes may be the CI's. Why so: ADR 0014.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pydantic import AwareDatetime, Field

from opam_ci.core.job import Job
from opam_ci.core.model import Frozen
from opam_ci.core.records import RevisionKey

BURST = timedelta(minutes=10)
"""Within which unrelated pull requests must fail the same way to throw doubt on it."""

MEMORY = timedelta(days=1)
"""How long a failure is remembered: what packages failed with before is no news."""

UNRELATED = 3
"""So many pull requests, each with other packages, do not break the same way by chance."""

REFUTED_BY = 3
"""So many jobs that were tried again and failed the same way again refute a doubt."""


class FailedVerdict(Frozen):
    """A job that was given as the package's failure.

    Attributes:
        revision: Of which testing.
        job: Which.
        round: Of which round, from 1.
        at: When it was decided.
        blame: The package that failed, where it is another than the job's own.
        doubted: Whether the verdict was taken back since.
        again: Whether the job failed the same way in an earlier round: then it stands.
        is_over: Whether there is nothing to judge again: the job has gone on to another
            round, or has had its automatic restarts.
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
        """Whether a doubt can take it back."""
        return not (self.doubted or self.again or self.is_over)


class Doubt(NamedTuple):
    """Verdicts to be judged again, since unrelated pull requests failed the same way.

    Attributes:
        verdicts: Those that still stand, oldest first.
        pull_requests: How many unrelated pull requests failed so.
        span: Within how long.
    """

    verdicts: tuple[FailedVerdict, ...]
    pull_requests: int
    span: timedelta


def doubts(
    alike: Iterable[FailedVerdict], *, before: datetime | None = None, unrelated: int = UNRELATED
) -> tuple[Doubt, ...]:
    """Finds verdicts of one signature that unrelated pull requests share within minutes.

    What packages fail with all the time, such as a compiler's usual words, is in no doubt:
    none that still stands may have the same signature within a day before the first of a
    burst. Verdicts that were taken back prove no such habit, but are evidence for others
    close to them; a job that fails the same way again begins no burst. The order in which
    verdicts are given does not matter.

    Args:
        alike: All of one signature, of current heads of open pull requests.
        before: The last verdict of that signature before them that stands, if there is one.
        unrelated: How many pull requests, without a package in common.
    """
    line = sorted(set(alike), key=_order)
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


def _order(verdict: FailedVerdict) -> tuple[Any, ...]:
    key = verdict.revision
    named = (key.repository, key.target, key.head, verdict.job.id, verdict.round)
    # The rest makes it a total order even where the input contradicts itself.
    flags = (verdict.again, verdict.doubted, verdict.is_over, verdict.blame or "")
    return (verdict.at, *named, key.opened_at, *flags)


def _unrelated(verdicts: Iterable[FailedVerdict]) -> int:
    """Counts pull requests that share no package with one counted before.

    What failed counts as well as whose job it was: a package in the base repository that
    breaks fails every pull request that needs it, and is one package.
    """
    packages: dict[tuple[str, str], set[str]] = defaultdict(set)
    for each in verdicts:
        key = (each.revision.repository, each.revision.target)
        packages[key] |= {_name(full) for full in (each.job.package, each.blame) if full}
    seen: set[str] = set()
    count = 0
    for _, names in sorted(packages.items()):
        if not names & seen:
            count += 1
            seen |= names
    return count


def _name(full: str) -> str:
    return full.split(".", 1)[0]
