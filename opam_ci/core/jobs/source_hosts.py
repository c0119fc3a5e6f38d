"""How long a host of sources that has just refused a download is left alone."""

from typing import Final

from pydantic import Field

from opam_ci.core.model import Frozen

_FIRST: Final = 2.0
_LONGEST: Final = 60.0
"""Seconds. GitHub's and most other limits of requests are counted by the minute."""

_FORGOTTEN: Final = 600.0
"""Seconds after which a refusal means nothing any more."""


class Refusals(Frozen):
    """What a host did to the last downloads.

    Attributes:
        host: The host, as `HOST:PORT`.
        number: How many downloads it refused, one after another.
        last_at: When it last did, in seconds since the epoch.
    """

    host: str
    number: int = Field(ge=1, le=1_000_000)
    last_at: float = Field(allow_inf_nan=False)

    def pause(self, now: float) -> float:
        """Returns the seconds that are left before it may be asked again, 0 if it may."""
        delay = min(_LONGEST, _FIRST * 2.0 ** min(self.number - 1, 10))
        # A clock that was set back must not make it longer.
        return min(delay, max(0.0, self.last_at + delay - now))

    def is_forgotten(self, now: float) -> bool:
        """Returns whether it is as if there had been none."""
        return now - self.last_at > _FORGOTTEN


def refused(before: Refusals | None, host: str, *, began_at: float, now: float) -> Refusals:
    """Returns what is known of a host that has refused a download.

    Args:
        before: What was known of it.
        host: The host.
        began_at: When the download began: one from before the last refusal makes the pause no
            longer, for it says nothing new.
        now: The time.
    """
    if before is None or before.is_forgotten(now):
        return Refusals(host=host, number=1, last_at=now)
    number = before.number + (began_at >= before.last_at)
    return Refusals(host=host, number=min(number, 1_000_000), last_at=max(now, before.last_at))
