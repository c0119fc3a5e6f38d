"""Which verdicts hold for other jobs with the same inputs, and which of these run all the same."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from opam_ci.core.jobs.outcome import FailureReason, SkipReason
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.model import Frozen

MAX_AGE: Final = timedelta(days=30)
"""After that what is not in a key, such as a distribution's packages, has changed too much."""

_Z: Final = 1.645
"""The normal distribution has 95 % below so many deviations."""

AGREED: Final = 2
"""A failure holds once so many attempts have failed alike: it was not by chance."""

_FAILURES: Final = frozenset({FailureReason.BUILD, FailureReason.TEST, FailureReason.DEPENDENCY})
_SKIPS: Final = frozenset({SkipReason.NO_SOLUTION, SkipReason.UNAVAILABLE, SkipReason.NOT_MIRRORED})


class Attempted(Frozen):
    """A decided attempt of a job.

    Attributes:
        id: Of the attempt in the index.
        standing: Kind of its outcome.
        why: Reason of a failure or a skip, else empty.
        alike: The same for attempts that failed alike, None for one that did not fail.
        image: Fingerprint of the image that it ran in, None if it is not known.
        ended_at: When it ended.
    """

    id: int
    standing: Standing
    why: str = ""
    alike: str | None = None
    image: str | None
    ended_at: datetime


class Audits(Frozen):
    """How often a verdict that holds for a job was compared with the job's own.

    Attributes:
        compared: How many jobs had both.
        differed: In how many of them they differed.
    """

    compared: int = 0
    differed: int = 0

    @property
    def wrong_at_most(self) -> float:
        """Returns the part of reused verdicts that is wrong at most, with a certainty of 95 %.

        The upper end of Wilson's interval for a proportion; 1 if nothing was compared.
        """
        if not self.compared:
            return 1.0
        number, part = self.compared, self.differed / self.compared
        root = math.sqrt(part * (1 - part) / number + _Z**2 / (4 * number**2))
        return (part + _Z**2 / (2 * number) + _Z * root) / (1 + _Z**2 / number)


def settled(attempts: Iterable[Attempted], image: str | None, now: datetime) -> Attempted | None:
    """Returns the attempt whose verdict holds for a job, None if there is none.

    Args:
        attempts: All that were decided of jobs with the same key.
        image: Fingerprint of the image that the job would run in; None if it is not known.
        now: The time.
    """
    if image is None:
        return None
    known = [each for each in attempts if each.image == image and now - each.ended_at <= MAX_AGE]
    if not known or len({(each.standing, each.why) for each in known}) > 1:
        # Of two verdicts for the same inputs one is by chance.
        return None
    newest = max(known, key=lambda each: (each.ended_at, each.id))
    return newest if _holds(newest, known) else None


def _holds(newest: Attempted, known: Sequence[Attempted]) -> bool:
    match newest.standing:
        case Standing.PASSED:
            return True
        case Standing.SKIPPED:
            return newest.why in _SKIPS
        case Standing.FAILED if newest.why in _FAILURES and newest.alike is not None:
            return len(known) >= AGREED and len({each.alike for each in known}) == 1
        case _:
            return False


def is_audited(key: str, testing: str, percent: int) -> bool:
    """Whether a job runs although a verdict holds for it, so that the two can be compared.

    Args:
        key: Its plan key, or what else identifies it.
        testing: What identifies the testing: each of them tries other jobs.
        percent: How many of a hundred jobs do.
    """
    digest = hashlib.sha256(f"{key} {testing}".encode()).digest()
    return int.from_bytes(digest[:8]) % 100 < percent
